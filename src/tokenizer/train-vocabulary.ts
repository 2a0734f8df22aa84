import { pauses } from '../system/stop.ts';
import { type BasicTokenizer, basicTokenizer } from './basic.ts';
import { bertNormalizer } from './normalizer.ts';
import { MAX_WORD_LENGTH, SPECIAL_TOKENS } from './wordpiece.ts';

/** Maximum size of the alphabet, which keeps the most frequent characters: Hugging Face's `limit_alphabet` for BERT. */
const MAX_ALPHABET = 1000;
/** A less frequent pair makes no piece: Hugging Face's `min_frequency` for BERT. */
const MIN_PAIR_COUNT = 2;
/** Distinct words in memory; if there are more, those seen once are forgotten. */
const MAX_WORDS = 4_000_000;
/** Pair (a, b) has the key a * PAIR + b: exact for vocabularies of up to 2^26 pieces. */
const PAIR = 2 ** 26;

/**
 * Learns a WordPiece vocabulary of at most `size` pieces as Hugging Face's `WordPieceTrainer` does: the special
 * tokens ([PAD] is 0), the alphabet, its `##` forms, and then, one by one, the most frequent pair of neighbouring
 * pieces within words, as a new piece. Of equally frequent pairs the one with the older pieces comes first, so
 * that the vocabulary depends only on the counts of the words, not on their order.
 * @param onPieces called now and then with the number of pieces
 */
export async function trainVocabulary(
  texts: AsyncIterable<string> | Iterable<string>,
  size: number,
  lowercase: boolean,
  onPieces: (count: number) => void = () => {},
): Promise<string[]> {
  const words = await countWords(texts, basicTokenizer(bertNormalizer(lowercase)));
  const vocabulary: string[] = [...SPECIAL_TOKENS];
  const idOf = new Map<string, number>(vocabulary.map((piece, id) => [piece, id]));
  const add = (piece: string): number => {
    const known = idOf.get(piece);
    if (known !== undefined) return known;
    idOf.set(piece, vocabulary.length);
    return vocabulary.push(piece) - 1;
  };

  const room = Math.floor((size - vocabulary.length) / 2); // a character may need both forms
  const alphabet = alphabetOf(words, Math.min(MAX_ALPHABET, room));
  for (const { character } of alphabet) add(character);
  for (const { character, continues } of alphabet) if (continues) add(`##${character}`);

  await mergePairs(spell(words, idOf), size, vocabulary, add, onPieces);
  return vocabulary;
}

async function countWords(
  texts: AsyncIterable<string> | Iterable<string>,
  split: BasicTokenizer,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  const rest = pauses();
  for await (const text of texts) {
    const { count, ends, units } = split(text, 0, text.length);
    for (let w = 0, first = 0; w < count; first = ends[w++]) {
      if (ends[w] - first > MAX_WORD_LENGTH) continue; // always encoded as [UNK]
      const word = String.fromCharCode.apply(null, units.subarray(first, ends[w]) as unknown as number[]);
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    const turn = rest();
    if (turn) await turn;
    if (counts.size > MAX_WORDS) for (const [word, n] of counts) if (n === 1) counts.delete(word);
  }
  return counts;
}

interface Letter {
  character: string;
  count: number;
  /** Whether it occurs after the first position of a word. */
  continues: boolean;
}

/** The `limit` most frequent characters, in the order of their code points. */
function alphabetOf(words: Map<string, number>, limit: number): Letter[] {
  const letters = new Map<string, Letter>();
  for (const [word, n] of words) {
    let first = true;
    for (const character of word) {
      const letter = letters.get(character) ?? { character, count: 0, continues: false };
      letter.count += n;
      if (!first) letter.continues = true;
      letters.set(character, letter);
      first = false;
    }
  }
  const code = (letter: Letter) => letter.character.codePointAt(0)!;
  return [...letters.values()]
    .sort((a, b) => b.count - a.count || code(a) - code(b))
    .slice(0, Math.max(0, limit))
    .sort((a, b) => code(a) - code(b));
}

/** Words as runs of piece ids: word w has pieces[starts[w]] onwards, lengths[w] of them. */
interface SpelledWords {
  pieces: Int32Array;
  starts: Int32Array;
  lengths: Int32Array;
  counts: Float64Array;
}

/** The words in single characters. Skips characters outside the alphabet, as Hugging Face does. */
function spell(words: Map<string, number>, idOf: Map<string, number>): SpelledWords {
  let units = 0;
  for (const word of words.keys()) units += word.length;
  const pieces = new Int32Array(units);
  const starts = new Int32Array(words.size);
  const lengths = new Int32Array(words.size);
  const counts = new Float64Array(words.size);
  let at = 0;
  let w = 0;
  for (const [word, n] of words) {
    starts[w] = at;
    counts[w] = n;
    let first = true;
    for (const character of word) {
      const id = idOf.get(first ? character : `##${character}`);
      if (id !== undefined) pieces[at++] = id;
      first = false;
    }
    lengths[w] = at - starts[w];
    w++;
  }
  return { pieces, starts, lengths, counts };
}

/** Two neighbouring pieces: how often they are neighbours now, and the words where they have been. */
interface Pair {
  key: number;
  count: number;
  words: number[];
}

/** Joins the most frequent pair again and again until the vocabulary has `size` pieces. Consumes `words`. */
async function mergePairs(
  words: SpelledWords,
  size: number,
  vocabulary: string[],
  add: (piece: string) => number,
  onPieces: (count: number) => void,
): Promise<void> {
  const { pieces, starts, lengths, counts } = words;
  const pairs = new Map<number, Pair>();
  const pairOf = (a: number, b: number): Pair => {
    const key = a * PAIR + b;
    let pair = pairs.get(key);
    if (pair === undefined) {
      pair = { key, count: 0, words: [] };
      pairs.set(key, pair);
    }
    return pair;
  };
  const met = (pair: Pair, word: number): void => {
    pair.count += counts[word];
    if (pair.words.at(-1) !== word) pair.words.push(word);
  };

  const rest = pauses();
  for (let w = 0; w < starts.length; w++) {
    const turn = rest();
    if (turn) await turn;
    for (let i = starts[w]; i < starts[w] + lengths[w] - 1; i++) met(pairOf(pieces[i], pieces[i + 1]), w);
  }
  const queue = pairQueue();
  for (const pair of pairs.values()) queue.push(pair);

  while (vocabulary.length < size) {
    const turn = rest();
    if (turn) {
      onPieces(vocabulary.length);
      await turn;
    }
    const top = queue.pop();
    if (top === undefined || top.count < MIN_PAIR_COUNT) return;
    const a = Math.floor(top.key / PAIR);
    const b = top.key % PAIR;
    const joined = add(vocabulary[a] + vocabulary[b].slice(2)); // b continues a word, so it starts with ##
    const grown = new Set<Pair>();
    for (const w of top.words) {
      const end = starts[w] + lengths[w];
      let out = starts[w];
      for (let i = starts[w]; i < end; out++) {
        if (i + 1 >= end || pieces[i] !== a || pieces[i + 1] !== b) {
          pieces[out] = pieces[i++];
          continue;
        }
        if (out > starts[w]) {
          pairOf(pieces[out - 1], a).count -= counts[w];
          const left = pairOf(pieces[out - 1], joined);
          met(left, w);
          grown.add(left);
        }
        if (i + 2 < end) {
          pairOf(b, pieces[i + 2]).count -= counts[w];
          const right = pairOf(joined, pieces[i + 2]);
          met(right, w);
          grown.add(right);
        }
        pieces[out] = joined;
        i += 2;
      }
      lengths[w] = out - starts[w];
    }
    pairs.delete(top.key);
    top.count = 0;
    for (const pair of grown) if (pair !== top) queue.push(pair);
  }
}

/** Gives the most frequent pair; of equal ones that with the smallest key. A pair whose count grew is pushed again. */
interface PairQueue {
  push(pair: Pair): void;
  pop(): Pair | undefined;
}

/** A binary heap of pairs by their counts when pushed. An entry whose pair has a smaller count now moves down when popped. */
function pairQueue(): PairQueue {
  const heap: Pair[] = [];
  const ranks: number[] = []; // the counts by which the heap is ordered

  const before = (i: number, j: number) =>
    ranks[i] > ranks[j] || (ranks[i] === ranks[j] && heap[i].key < heap[j].key);
  function swap(i: number, j: number): void {
    [heap[i], heap[j]] = [heap[j], heap[i]];
    [ranks[i], ranks[j]] = [ranks[j], ranks[i]];
  }
  function sink(i: number): void {
    for (;;) {
      let best = i;
      const child = 2 * i + 1;
      if (child < heap.length && before(child, best)) best = child;
      if (child + 1 < heap.length && before(child + 1, best)) best = child + 1;
      if (best === i) return;
      swap(i, best);
      i = best;
    }
  }

  function removeTop(): void {
    swap(0, heap.length - 1);
    heap.pop();
    ranks.pop();
    sink(0);
  }

  return {
    push(pair) {
      let i = heap.push(pair) - 1;
      ranks.push(pair.count);
      for (let parent = (i - 1) >> 1; i > 0 && before(i, parent); parent = (i - 1) >> 1) {
        swap(i, parent);
        i = parent;
      }
    },
    pop() {
      while (heap.length > 0) {
        const pair = heap[0];
        if (ranks[0] === pair.count) {
          removeTop();
          if (pair.count > 0) return pair;
        } else if (pair.count < ranks[0] && pair.count > 0) {
          ranks[0] = pair.count;
          sink(0);
        } else {
          removeTop(); // a pair that was joined, or one that grew and is in the heap a second time
        }
      }
      return undefined;
    },
  };
}

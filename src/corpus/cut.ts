import type { Encoding, WordPiece } from '../tokenizer/wordpiece.ts';
import { bodyRoom, packBlocks, titleRoom } from './blocks.ts';
import { noCounts, type PrepareCounts } from './counts.ts';
import { type Document, isArticle } from './documents.ts';
import type { GivenSentence } from './given-sentences.ts';
import { hundredWords } from './passages.ts';
import { salientSpans } from './salient-spans.ts';
import { type Range, splitSentences } from './sentences.ts';
import type { CorpusWriter } from './store-writer.ts';

/**
 * `sentences`: whole sentences, as many as a block holds (ORQA); `dpr`: 100 words each (DPR); `as-is`: every document is
 * a passage and makes one block.
 */
export type Packing = 'sentences' | 'dpr' | 'as-is';

export interface CutSettings {
  /** Leave out pages of Wikipedia that are no articles, by their titles. */
  articlesOnly: boolean;
  /** How a document is cut into blocks. */
  packing: Packing;
  /** Tokens of `[CLS] title [SEP] body [SEP]` at most. */
  blockTokens: number;
  /** Tokens of `[CLS] sentence [SEP]` at most. */
  queryTokens: number;
  /** Whether X is made of the documents. */
  sentences: boolean;
}

/** Documents for Z, or sentences for X, that are cut together. */
export interface Batch {
  documents: readonly Document[];
  sentences: readonly GivenSentence[];
}

/**
 * What a batch becomes, in a form that goes from one thread to another at the cost of copying its bytes.
 * `numbers` holds for each document the number of its blocks and, unless that is 0, its title ids; for each block the ids,
 * the sentence starts, the number of its sentences of X, and for each of those start, length and spans. For each given
 * sentence it holds the ids and the spans, both empty for one that is left out. Before a list stands its length.
 */
export interface Cut {
  /** Of the blocks, in order. */
  texts: string[];
  numbers: Int32Array<ArrayBuffer>;
  counts: PrepareCounts;
}

/** Body tokens. */
const NEAR_EMPTY = 8;

/** Finds the salient spans of a sentence. */
export type FindSpans = (sentence: string) => Range[];

export function cutBatch(
  { documents, sentences }: Batch,
  vocab: WordPiece,
  settings: CutSettings,
  find: FindSpans = salientSpans,
): Cut {
  const tape = newTape();
  const texts: string[] = [];
  const counts = noCounts();
  for (const document of documents) cutDocument(document, vocab, settings, find, tape, texts, counts);
  for (const sentence of sentences) cutGiven(sentence, vocab, settings, find, tape, counts);
  return { texts, numbers: tape.numbers(), counts };
}

/** Writes what `cutBatch` has made of the batch. */
export function writeCut(
  writer: Pick<CorpusWriter, 'addDocument' | 'addBlock' | 'addSentence' | 'addForeignSentence'>,
  { documents, sentences }: Batch,
  { texts, numbers }: Cut,
): void {
  let at = 0;
  let text = 0;
  const list = () => {
    const length = numbers[at++];
    at += length;
    return numbers.subarray(at - length, at);
  };
  for (const { id, title } of documents) {
    const blocks = numbers[at++];
    if (blocks === 0) continue;
    const document = writer.addDocument(id, title, list());
    for (let b = 0; b < blocks; b++) {
      const block = writer.addBlock(document, title, texts[text++], list(), list());
      for (let left = numbers[at++]; left > 0; left--) {
        const start = numbers[at++];
        const length = numbers[at++];
        writer.addSentence(block, start, length, list());
      }
    }
  }
  for (let s = 0; s < sentences.length; s++) {
    const ids = list();
    const spans = list();
    if (spans.length > 0) writer.addForeignSentence(ids, spans);
  }
}

/** Numbers that grow at their end. */
interface Tape {
  /** Returns where the number stands. */
  push(number: number): number;
  list(numbers: ArrayLike<number>): void;
  set(at: number, number: number): void;
  numbers(): Int32Array<ArrayBuffer>;
}

function newTape(): Tape {
  let numbers = new Int32Array(1 << 16);
  let used = 0;
  const makeRoom = (more: number) => {
    if (used + more <= numbers.length) return;
    const larger = new Int32Array(Math.max(used + more, numbers.length * 2));
    larger.set(numbers);
    numbers = larger;
  };
  return {
    push(number) {
      makeRoom(1);
      numbers[used] = number;
      return used++;
    },
    list(more) {
      makeRoom(more.length + 1);
      numbers[used] = more.length;
      numbers.set(more, used + 1);
      used += more.length + 1;
    },
    set(at, number) {
      numbers[at] = number;
    },
    numbers: () => numbers.slice(0, used),
  };
}

/** One sentence of a document, tokenised once for its block and for X. */
interface Sentence extends Encoding {
  text: string;
}

/** A document with its blocks and, where they are X, its sentences. */
function cutDocument(
  document: Document,
  vocab: WordPiece,
  settings: CutSettings,
  find: FindSpans,
  tape: Tape,
  texts: string[],
  counts: PrepareCounts,
): void {
  const { blockTokens, queryTokens } = settings;
  if (settings.articlesOnly && !isArticle(document.title)) {
    counts.skippedPages++;
    tape.push(0);
    return;
  }
  const titleIds = vocab.encode(document.title).ids.slice(0, titleRoom(blockTokens));
  const blocks = blocksOf(document.text, titleIds.length, vocab, settings);
  tape.push(blocks.length);
  if (blocks.length === 0) {
    counts.emptyDocuments++;
    return;
  }
  counts.documents++;
  tape.list(titleIds);
  const room = bodyRoom(titleIds.length, blockTokens);
  for (const whole of blocks) {
    const packed = fit(whole, room, vocab, counts);
    const { ids, starts } = concatenate(packed);
    texts.push(packed.map((sentence) => sentence.text).join(' '));
    tape.list(ids);
    tape.list(starts);
    counts.blocks++;
    counts.tokens += ids.length;
    if (ids.length < NEAR_EMPTY) counts.nearEmptyBlocks++;
    const countAt = tape.push(0);
    if (!settings.sentences) continue;
    let kept = 0;
    for (let s = 0; s < packed.length; s++) {
      const length = Math.min(packed[s].ids.length, queryTokens - 2);
      const spans = spansWithin(packed[s], find(packed[s].text), length, counts);
      if (spans.length === 0) continue;
      tape.push(starts[s]);
      tape.push(length);
      tape.list(spans);
      kept++;
    }
    tape.set(countAt, kept);
  }
}

/** The sentences of each block that a document makes. */
function blocksOf(
  text: string,
  titleTokens: number,
  vocab: WordPiece,
  { blockTokens, packing }: CutSettings,
): Sentence[][] {
  if (packing === 'as-is' || packing === 'dpr') {
    const passages = packing === 'dpr' ? hundredWords(text) : [text];
    return passages.map((passage) => sentencesOf(passage, vocab)).filter((sentences) => sentences.length > 0);
  }
  const sentences = sentencesOf(text, vocab);
  const lengths = sentences.map((sentence) => sentence.ids.length);
  return packBlocks(lengths, titleTokens, blockTokens).map(({ first, end }) => sentences.slice(first, end));
}

/** The first `room` tokens of a block's sentences. */
function fit(
  sentences: readonly Sentence[],
  room: number,
  vocab: WordPiece,
  counts: PrepareCounts,
): Sentence[] {
  const kept: Sentence[] = [];
  let left = room;
  for (const sentence of sentences) {
    if (sentence.ids.length > left) {
      counts.cutSentences += sentences.length - kept.length;
      if (left > 0) kept.push(cut(sentence, left, vocab));
      break;
    }
    kept.push(sentence);
    left -= sentence.ids.length;
  }
  return kept;
}

/** The sentences of a text that hold a token. */
function sentencesOf(text: string, vocab: WordPiece): Sentence[] {
  const sentences: Sentence[] = [];
  for (const { start, end } of splitSentences(text)) {
    const sentence = text.slice(start, end);
    const encoding = vocab.encode(sentence);
    if (encoding.ids.length > 0) sentences.push({ text: sentence, ...encoding });
  }
  return sentences;
}

/** The first `room` tokens of a sentence, or a few less, so that no word is torn. */
function cut(sentence: Sentence, room: number, vocab: WordPiece): Sentence {
  let kept = room;
  while (kept > 0 && vocab.vocabulary[sentence.ids[kept]].startsWith('##')) kept--;
  if (kept === 0) kept = room;
  return {
    text: sentence.text.slice(0, sentence.ends[kept - 1]),
    ids: sentence.ids.subarray(0, kept),
    starts: sentence.starts.subarray(0, kept),
    ends: sentence.ends.subarray(0, kept),
  };
}

function concatenate(sentences: readonly Sentence[]): { ids: Int32Array; starts: number[] } {
  const ids = new Int32Array(sentences.reduce((sum, sentence) => sum + sentence.ids.length, 0));
  const starts: number[] = [];
  let at = 0;
  for (const sentence of sentences) {
    starts.push(at);
    ids.set(sentence.ids, at);
    at += sentence.ids.length;
  }
  return { ids, starts };
}

/** How many times the tokens of a query spans are sought in: finding them can take time with the square of the length. */
const SOUGHT = 4;

function cutGiven(
  { text, spans }: GivenSentence,
  vocab: WordPiece,
  { queryTokens }: CutSettings,
  find: FindSpans,
  tape: Tape,
  counts: PrepareCounts,
): void {
  const encoding = vocab.encode(text);
  const length = Math.min(encoding.ids.length, queryTokens - 2);
  // Of a text that is no sentence, such as a whole page, names and dates are sought as far as they may matter.
  const end = encoding.ends[Math.min(encoding.ends.length, SOUGHT * queryTokens) - 1] ?? 0;
  const pairs = spansWithin(encoding, spans ?? find(text.slice(0, end)), length, counts);
  tape.list(pairs.length > 0 ? encoding.ids.subarray(0, length) : []);
  tape.list(pairs);
}

/** Spans as token pairs of the sentence's first `length` tokens; those that do not fit are dropped, and the reason counted. */
function spansWithin(encoding: Encoding, spans: Range[], length: number, counts: PrepareCounts): number[] {
  const all = tokenSpans(encoding, spans);
  const pairs: number[] = [];
  for (let i = 0; i < all.length; i += 2) if (all[i + 1] <= length) pairs.push(all[i], all[i + 1]);
  if (pairs.length > 0) {
    counts.sentences++;
    counts.spans += pairs.length / 2;
  } else if (all.length > 0) counts.spanTooFar++;
  else counts.withoutSpan++;
  return pairs;
}

/**
 * Token pairs [start, end) of the pieces that lie wholly inside each character range, as the released code masks.
 * Ranges that hold no whole piece are dropped.
 */
export function tokenSpans({ starts, ends }: Encoding, spans: readonly Range[]): number[] {
  const pairs: number[] = [];
  let first = 0;
  for (const span of spans) {
    while (first > 0 && starts[first - 1] >= span.start) first--; // spans may overlap
    while (first < starts.length && starts[first] < span.start) first++;
    let end = first;
    while (end < ends.length && ends[end] <= span.end) end++;
    if (end > first) pairs.push(first, end);
  }
  return pairs;
}

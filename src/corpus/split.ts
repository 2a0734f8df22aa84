import { isArticle } from '../datasets/documents.ts';
import type { Document, ExternalSentence, Range } from '../datasets/types.ts';
import type { Encoding, WordPiece } from '../tokenizer/wordpiece.ts';
import { bodyRoom, packBlocks, titleRoom } from './blocks.ts';
import { noCounts, type PrepareCounts } from './counts.ts';
import { hundredWords } from './passages.ts';
import { splitSentences } from './sentences.ts';
import { salientSpans } from './spans/salient-spans.ts';
import type { CorpusWriter } from './store/writer.ts';

/**
 * `sentences`: whole sentences, as many as a block holds (ORQA); `dpr`: 100 words each (DPR); `as-is`: every document is
 * a passage and makes one block, so that blocks and published vectors of them keep their numbers. With the first two no
 * word is lost: what is too long for a block continues in the next one. With `as-is` it is cut off and counted.
 */
export type Packing = 'sentences' | 'dpr' | 'as-is';

export interface SplitSettings {
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
  sentences: readonly ExternalSentence[];
}

/**
 * What a batch becomes, in a form that goes from one thread to another at the cost of copying its bytes.
 * `numbers` holds for each document the number of its blocks and, unless that is 0, its title ids; for each block the ids,
 * the sentence starts, the number of its sentences of X, and for each of those start, length and spans. For each given
 * sentence it holds the ids and the spans, both empty for one that is left out. Before a list stands its length.
 */
export interface SplitBatch {
  /** Of the blocks, in order. */
  texts: string[];
  numbers: Int32Array<ArrayBuffer>;
  counts: PrepareCounts;
}

/** Body tokens. */
const NEAR_EMPTY = 8;

/** Finds the salient spans of a sentence. */
export type FindSpans = (sentence: string) => Range[];

export function splitBatch(
  { documents, sentences }: Batch,
  vocab: WordPiece,
  settings: SplitSettings,
  find: FindSpans = salientSpans,
): SplitBatch {
  const tape = newEncodedBatch();
  const texts: string[] = [];
  const counts = noCounts();
  for (const document of documents) splitDocument(document, vocab, settings, find, { tape, texts, counts });
  for (const sentence of sentences) splitExternal(sentence, vocab, settings, find, tape, counts);
  return { texts, numbers: tape.numbers(), counts };
}

/** Writes what `cutBatch` has made of the batch. */
export function writeSplitBatch(
  writer: Pick<CorpusWriter, 'addDocument' | 'addBlock' | 'addSentence' | 'addForeignSentence'>,
  { documents, sentences }: Batch,
  { texts, numbers }: SplitBatch,
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
interface EncodedBatch {
  /** Returns where the number stands. */
  push(number: number): number;
  list(numbers: ArrayLike<number>): void;
  set(at: number, number: number): void;
  numbers(): Int32Array<ArrayBuffer>;
}

function newEncodedBatch(): EncodedBatch {
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
  /** A piece of a sentence that no block could hold. */
  long?: boolean;
}

/** What splitting a batch fills: see `Cut`. */
interface Output {
  tape: EncodedBatch;
  texts: string[];
  counts: PrepareCounts;
}

/** A document with its blocks and, where they are X, its sentences. */
function splitDocument(
  document: Document,
  vocab: WordPiece,
  settings: SplitSettings,
  find: FindSpans,
  { tape, texts, counts }: Output,
): void {
  const { blockTokens, queryTokens } = settings;
  const bytes = Buffer.byteLength(document.text);
  counts.readBytes += bytes;
  if (settings.articlesOnly && !isArticle(document.title)) {
    counts.skippedPages++;
    counts.skippedBytes += bytes;
    tape.push(0);
    return;
  }
  const allTitleIds = vocab.encode(document.title).ids;
  const titleIds = allTitleIds.slice(0, titleRoom(blockTokens));
  const room = bodyRoom(titleIds.length, blockTokens);
  const blocks = blocksOf(document.text, room, vocab, settings, counts);
  tape.push(blocks.length);
  if (blocks.length === 0) {
    counts.emptyDocuments++;
    return;
  }
  counts.documents++;
  if (titleIds.length < allTitleIds.length) counts.cutTitles++;
  tape.list(titleIds);
  for (const { text, sentences } of blocks) {
    const { ids, starts } = concatenate(sentences);
    texts.push(text);
    tape.list(ids);
    tape.list(starts);
    counts.blocks++;
    counts.tokens += ids.length;
    if (ids.length < NEAR_EMPTY) counts.nearEmptyBlocks++;
    const countAt = tape.push(0);
    if (!settings.sentences) continue;
    let kept = 0;
    for (let s = 0; s < sentences.length; s++) {
      const length = Math.min(sentences[s].ids.length, queryTokens - 2);
      const spans = spansWithin(sentences[s], find(sentences[s].text), length, counts);
      if (spans.length === 0) continue;
      tape.push(starts[s]);
      tape.push(length);
      tape.list(spans);
      kept++;
    }
    tape.set(countAt, kept);
  }
}

/** The text of a block, and its sentences, whose tokens together are the block's. */
interface Block {
  text: string;
  sentences: Sentence[];
}

/** The blocks that a text makes, each of at most `room` tokens. */
function blocksOf(
  text: string,
  room: number,
  vocab: WordPiece,
  { packing, queryTokens }: SplitSettings,
  counts: PrepareCounts,
): Block[] {
  const passages = packing === 'dpr' ? hundredWords(text) : [text];
  return passages.flatMap((passage) => {
    const sentences = sentencesOf(passage, vocab);
    if (packing === 'as-is') {
      const kept = fit(sentences, room, vocab, counts);
      return kept.length > 0 ? [{ text: joined(kept), sentences: kept }] : [];
    }
    const fitting = sentences.flatMap((sentence) => {
      if (sentence.ids.length <= room) return [sentence];
      counts.splitSentences++;
      return pieces(sentence, room, vocab, 'cut').map((piece) => ({ ...piece, long: true }));
    });
    const lengths = fitting.map((sentence) => sentence.ids.length);
    return packBlocks(lengths, room).map(({ first, end }) => {
      const packed = fitting.slice(first, end);
      // What was no sentence for a block becomes several for X and for the inverse cloze task, which need them short.
      const short = packed.flatMap((piece) =>
        piece.long && queryTokens > 2 ? pieces(piece, queryTokens - 2, vocab, 'keep') : [piece],
      );
      return { text: joined(packed), sentences: short };
    });
  });
}

function joined(sentences: readonly Sentence[]): string {
  return sentences.map((sentence) => sentence.text).join(' ');
}

/**
 * A sentence in pieces of at most `room` tokens, cut between words. Nothing but white space lies between two pieces. A word
 * longer than that stays whole, or is cut between characters and tokenised again, so that the tokens of a piece are those
 * of its text.
 */
function pieces(sentence: Sentence, room: number, vocab: WordPiece, longWord: 'keep' | 'cut'): Sentence[] {
  const { text, ids, starts, ends } = sentence;
  const n = ids.length;
  const found: Sentence[] = [];
  const continues = (token: number) => token < n && vocab.continues[ids[token]] === 1;
  /** Whether no character lies on both sides of the token's beginning: some make several tokens. */
  const apart = (token: number) => token === n || ends[token - 1] <= starts[token];
  for (let first = 0; first < n; ) {
    let end = Math.min(n, first + room);
    while (end > first && (continues(end) || !apart(end))) end--;
    const tooLong = end === first;
    const torn = tooLong && longWord === 'cut';
    if (tooLong && !torn) {
      end = first + room;
      while (continues(end) || !apart(end)) end++;
    }
    if (torn) {
      end = first + room;
      while (end > first + 1 && !apart(end)) end--;
    }
    const to = end === n ? text.length : Math.max(starts[end], ends[end - 1]);
    found.push(part(sentence, first, end, to));
    first = end;
    if (!torn) continue;
    while (continues(first)) first++;
    const rest = text.slice(to, first === n ? text.length : starts[first]).trimEnd();
    found.push(...pieces({ text: rest, ...vocab.encode(rest) }, room, vocab, longWord));
  }
  return found;
}

/** Tokens [first, end) of a sentence, whose text ends before character `to`. */
function part({ text, ids, starts, ends }: Sentence, first: number, end: number, to: number): Sentence {
  const from = first === 0 ? 0 : starts[first];
  return {
    text: text.slice(from, to).trimEnd(),
    ids: ids.subarray(first, end),
    starts: starts.slice(first, end).map((at) => at - from),
    ends: ends.slice(first, end).map((at) => at - from),
  };
}

/** The first `room` tokens of a passage that must make one block; what is cut off is counted. */
function fit(
  sentences: readonly Sentence[],
  room: number,
  vocab: WordPiece,
  counts: PrepareCounts,
): Sentence[] {
  const kept: Sentence[] = [];
  let left = room;
  for (let s = 0; s < sentences.length; s++) {
    const sentence = sentences[s];
    if (sentence.ids.length <= left) {
      kept.push(sentence);
      left -= sentence.ids.length;
      continue;
    }
    const cut = left > 0 ? pieces(sentence, left, vocab, 'cut')[0] : undefined;
    if (cut) kept.push(cut);
    counts.cutSentences += sentences.length - s;
    for (const lost of sentences.slice(s)) {
      counts.cutTokens += lost.ids.length;
      counts.cutBytes += Buffer.byteLength(lost.text);
    }
    counts.cutTokens -= cut?.ids.length ?? 0;
    counts.cutBytes -= Buffer.byteLength(cut?.text ?? '');
    break;
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

function splitExternal(
  { text, spans }: ExternalSentence,
  vocab: WordPiece,
  { queryTokens }: SplitSettings,
  find: FindSpans,
  tape: EncodedBatch,
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
  if (encoding.ids.length > length) counts.cutQueries++;
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

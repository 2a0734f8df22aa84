import { isArticle } from '../datasets/documents.ts';
import type { Document, ExternalSentence, Range } from '../datasets/types.ts';
import { hasUnspaced, splitWords } from '../tokenizer/unspaced.ts';
import type { Encoding, WordPiece } from '../tokenizer/wordpiece.ts';
import { bodyRoom, packBlocks, titleRoom } from './blocks.ts';
import { noCounts, type PrepareCounts } from './counts.ts';
import { type BatchParts, batchEncoder, decodeBatch, type EncodedBatch } from './encoded-batch.ts';
import { hundredWords } from './passages.ts';
import { splitSentences } from './sentences.ts';
import { salientSpans } from './spans/salient-spans.ts';
import type { CorpusWriter } from './store/writer.ts';

/**
 * How a document is split into blocks. `sentences`: whole sentences, as many as a block holds (ORQA). `dpr`: 100 words
 * each (DPR). `as-is`: every document is a passage and makes one block, so that blocks keep the numbers that published
 * vectors of them have. The first two lose no word: text too long for a block continues in the next one. `as-is` truncates
 * it and counts what is lost.
 */
export type Splitting = 'sentences' | 'dpr' | 'as-is';

export interface SplitSettings {
  /** Leave out documents of Wikipedia that are not articles, by their titles. */
  articlesOnly: boolean;
  /** How a document is split into blocks. */
  splitting: Splitting;
  /** Tokens of `[CLS] title [SEP] body [SEP]` at most. */
  blockTokens: number;
  /** Tokens of `[CLS] sentence [SEP]` at most. */
  queryTokens: number;
  /** Whether X is made of the documents. */
  sentences: boolean;
}

/** Documents for Z, or sentences for X, that are split together. */
export interface Batch {
  documents: readonly Document[];
  sentences: readonly ExternalSentence[];
}

/** A block with fewer body tokens counts as nearly empty. */
const NEAR_EMPTY_TOKENS = 8;

/** Finds the salient spans of a sentence. */
export type FindSpans = (sentence: string) => Range[];

/** Splits a batch; its documents are named by their numbers in it. */
export function splitBatch(
  { documents, sentences }: Batch,
  vocab: WordPiece,
  settings: SplitSettings,
  findSpans: FindSpans = salientSpans,
): EncodedBatch {
  const parts = batchEncoder();
  const counts = noCounts();
  const splitter: Splitter = { vocab, settings, findSpans, parts, counts };
  documents.forEach((document, index) => {
    splitDocument(splitter, document, index);
  });
  for (const sentence of sentences) splitExternal(splitter, sentence);
  return parts.encoded(counts);
}

/** Writes a batch that was split to the corpus. */
export function writeEncodedBatch(writer: CorpusWriter, { documents }: Batch, encoded: EncodedBatch): void {
  let document = -1; // numbers and title in the corpus of what comes next
  let block = -1;
  let title = '';
  decodeBatch(encoded, {
    document(index, titleIds) {
      title = documents[index].title;
      document = writer.addDocument(documents[index].id, title, titleIds);
    },
    block(text, ids, sentenceStarts) {
      block = writer.addBlock(document, title, text, ids, sentenceStarts);
    },
    sentence: (start, length, spans) => writer.addSentence(block, start, length, spans),
    externalSentence: writer.addExternalSentence,
  });
}

/** What the documents and sentences of a batch are split with, and where the result goes. */
interface Splitter {
  vocab: WordPiece;
  settings: SplitSettings;
  findSpans: FindSpans;
  parts: BatchParts;
  counts: PrepareCounts;
}

/** One sentence of a document, tokenised once for its block and for X. */
interface Sentence extends Encoding {
  text: string;
  /** True if it follows the sentence before without white space, as in Chinese. */
  glued?: boolean;
  /** True for a piece of a sentence that was too long for a block. */
  long?: boolean;
}

/** A document becomes blocks and, if X is made of the documents, sentences of X. */
function splitDocument(splitter: Splitter, document: Document, index: number): void {
  const { vocab, settings, findSpans, parts, counts } = splitter;
  const { blockTokens, queryTokens } = settings;
  const bytes = Buffer.byteLength(document.text);
  counts.readBytes += bytes;
  if (settings.articlesOnly && !isArticle(document.title)) {
    counts.skippedPages++;
    counts.skippedBytes += bytes;
    return;
  }
  const allTitleIds = vocab.encode(document.title).ids;
  const titleIds = allTitleIds.slice(0, titleRoom(blockTokens));
  const room = bodyRoom(titleIds.length, blockTokens);
  const blocks = blocksOf(document.text, room, splitter);
  if (blocks.length === 0) {
    counts.emptyDocuments++;
    return;
  }
  counts.documents++;
  if (titleIds.length < allTitleIds.length) counts.cutTitles++;
  parts.document(index, titleIds);
  for (const { text, sentences } of blocks) {
    const { ids, starts } = concatenate(sentences);
    parts.block(text, ids, starts);
    counts.blocks++;
    counts.tokens += ids.length;
    if (ids.length < NEAR_EMPTY_TOKENS) counts.nearEmptyBlocks++;
    if (!settings.sentences) continue;
    for (let s = 0; s < sentences.length; s++) {
      const length = Math.min(sentences[s].ids.length, queryTokens - 2);
      const spans = spansWithin(sentences[s], findSpans(sentences[s].text), length, counts);
      if (spans.length > 0) parts.sentence(starts[s], length, spans);
    }
  }
}

/** The text of a block and its sentences. Their tokens, one after the other, are the block's. */
interface Block {
  text: string;
  sentences: Sentence[];
}

/** The blocks that a text makes, each of at most `room` tokens. */
function blocksOf(text: string, room: number, { vocab, settings, counts }: Splitter): Block[] {
  const { splitting, queryTokens } = settings;
  const passages = splitting === 'dpr' ? hundredWords(text) : [text];
  return passages.flatMap((passage) => {
    const sentences = sentencesOf(passage, vocab);
    if (splitting === 'as-is') {
      const kept = truncate(sentences, room, vocab, counts);
      return kept.length > 0 ? [{ text: joined(kept), sentences: kept }] : [];
    }
    const fitting = sentences.flatMap((sentence) => {
      if (sentence.ids.length <= room) return [sentence];
      counts.splitSentences++;
      return pieces(sentence, room, vocab, 'split').map((piece) => ({ ...piece, long: true }));
    });
    const lengths = fitting.map((sentence) => sentence.ids.length);
    return packBlocks(lengths, room).map(({ first, end }) => {
      const packed = fitting.slice(first, end);
      // X and the inverse cloze task need short sentences: a piece that fills a block is split again for them.
      const short = packed.flatMap((piece) =>
        piece.long && queryTokens > 2 ? pieces(piece, queryTokens - 2, vocab, 'keep') : [piece],
      );
      return { text: joined(packed), sentences: short };
    });
  });
}

function joined(sentences: readonly Sentence[]): string {
  return sentences.map(({ text, glued }, s) => (s > 0 && !glued ? ` ${text}` : text)).join('');
}

/**
 * Splits a sentence between words into pieces of at most `room` tokens. At most white space lies between two pieces. A longer
 * word stays whole (`keep`), or is split between characters and tokenised again (`split`), so that the tokens of a piece
 * are those of its text.
 */
function pieces(sentence: Sentence, room: number, vocab: WordPiece, longWord: 'keep' | 'split'): Sentence[] {
  const { text, ids, starts, ends } = sentence;
  const n = ids.length;
  const found: Sentence[] = [];
  const continues = (token: number) => token < n && vocab.continues[ids[token]] === 1;
  /** Whether a split before this token splits no character: some characters make several tokens. */
  const apart = (token: number) => token === n || ends[token - 1] <= starts[token];
  for (let first = 0; first < n; ) {
    let end = betweenWords(sentence, first, Math.min(n, first + room));
    while (end > first && (continues(end) || !apart(end))) end--;
    const tooLong = end === first;
    const splitWord = tooLong && longWord === 'split';
    if (tooLong && !splitWord) {
      end = first + room;
      while (continues(end) || !apart(end)) end++;
    }
    if (splitWord) {
      end = first + room;
      while (end > first + 1 && !apart(end)) end--;
    }
    const to = end === n ? text.length : Math.max(starts[end], ends[end - 1]);
    found.push(part(sentence, first, end, to));
    first = end;
    if (!splitWord) continue;
    while (continues(first)) first++;
    const rest = text.slice(to, first === n ? text.length : starts[first]).trimEnd();
    found.push(...pieces({ text: rest, ...vocab.encode(rest) }, room, vocab, longWord));
  }
  return found;
}

/** Characters before a cut in which a better place is looked for. */
const CUT_WINDOW = 48;

/**
 * Where to cut a sentence so that its tokens [first, ...) are at most those before `end`: before `end`, or if that lies within
 * a word of a script without spaces, after the word before.
 */
function betweenWords({ text, starts, ends }: Sentence, first: number, end: number): number {
  if (end === starts.length || end === first || ends[end - 1] !== starts[end]) return end;
  if (!hasUnspaced(text.slice(starts[end - 1], ends[end]))) return end;
  const from = Math.max(starts[first], starts[end] - CUT_WINDOW);
  const words = splitWords(text.slice(from, ends[end] + CUT_WINDOW));
  const cut = from + (words.findLast(({ start }) => start + from <= starts[end])?.start ?? 0);
  let better = end;
  while (better > first && starts[better] > cut) better--;
  // A word longer than the window is cut anywhere.
  return better > first && starts[better] === cut && cut > from ? better : end;
}

/** Tokens [first, end) of a sentence, with its text up to character `to`. */
function part(
  { text, ids, starts, ends, glued }: Sentence,
  first: number,
  end: number,
  to: number,
): Sentence {
  const from = first === 0 ? 0 : starts[first];
  return {
    text: text.slice(from, to).trimEnd(),
    glued: first === 0 ? glued : /\S/.test(text[from - 1]),
    ids: ids.subarray(first, end),
    starts: starts.slice(first, end).map((at) => at - from),
    ends: ends.slice(first, end).map((at) => at - from),
  };
}

/** The first `room` tokens of a passage that must make one block. Counts what is lost. */
function truncate(
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
    const beginning = left > 0 ? pieces(sentence, left, vocab, 'split')[0] : undefined;
    if (beginning) kept.push(beginning);
    counts.cutSentences += sentences.length - s;
    for (const lost of sentences.slice(s)) {
      counts.cutTokens += lost.ids.length;
      counts.cutBytes += Buffer.byteLength(lost.text);
    }
    counts.cutTokens -= beginning?.ids.length ?? 0;
    counts.cutBytes -= Buffer.byteLength(beginning?.text ?? '');
    break;
  }
  return kept;
}

/** The sentences of a text, without those that have no token. */
function sentencesOf(text: string, vocab: WordPiece): Sentence[] {
  const sentences: Sentence[] = [];
  let before = -1;
  for (const { start, end } of splitSentences(text)) {
    const sentence = text.slice(start, end);
    const encoding = vocab.encode(sentence);
    if (encoding.ids.length > 0) sentences.push({ text: sentence, glued: start === before, ...encoding });
    before = end;
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

/** Spans are looked for in this many times the tokens of a query: the time can grow with the square of the length. */
const SEARCHED_QUERY_LENGTHS = 4;

function splitExternal(
  { vocab, settings: { queryTokens }, findSpans, parts, counts }: Splitter,
  { text, spans }: ExternalSentence,
): void {
  const encoding = vocab.encode(text);
  const length = Math.min(encoding.ids.length, queryTokens - 2);
  // The text may be no sentence but, for example, a whole document: names and dates far beyond a query do not matter.
  const end = encoding.ends[Math.min(encoding.ends.length, SEARCHED_QUERY_LENGTHS * queryTokens) - 1] ?? 0;
  const pairs = spansWithin(encoding, spans ?? findSpans(text.slice(0, end)), length, counts);
  if (pairs.length > 0) parts.externalSentence(encoding.ids.subarray(0, length), pairs);
}

/** Spans as token pairs within the sentence's first `length` tokens. Drops those that do not fit and counts the reason. */
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
 * For each character range, the token pair [start, end) of the pieces that lie wholly inside, as the released code masks.
 * Drops ranges that hold no whole piece.
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

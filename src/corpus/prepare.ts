import { createHash } from 'node:crypto';
import { shown, UserError } from '../errors.ts';
import { writeFolderAtomic } from '../files.ts';
import type { Encoding, WordPiece } from '../tokenizer/wordpiece.ts';
import { bodyRoom, packBlocks, titleRoom } from './blocks.ts';
import { type Document, readDocuments } from './documents.ts';
import { type JsonLine, readJsonLines, stringField } from './jsonl.ts';
import { salientSpans } from './salient-spans.ts';
import { type Range, splitSentences } from './sentences.ts';
import { type Corpus, type CorpusCounts, type CorpusWriter, openCorpus, writeCorpus } from './store.ts';

export interface PrepareOptions {
  /** JSONL of documents, from which Z is made. */
  documents: string;
  /** JSONL of sentences for X: {"text", "spans"?: [[start, end], …] in characters}. Without it X is made from the documents. */
  sentences?: string;
  vocab: WordPiece;
  /** Tokens of `[CLS] title [SEP] body [SEP]` at most. */
  blockTokens: number;
  /** Tokens of `[CLS] sentence [SEP]` at most. */
  queryTokens: number;
  /** Folder of the prepared corpus; one that stands there is replaced when the new one is whole. */
  dir: string;
  /** Called after every thousand documents or sentences read. */
  onProgress?(done: PrepareCounts): void;
}

/** What was made, and what was left out. */
export interface PrepareCounts extends CorpusCounts {
  /** Documents without a single token of text; they are no part of the corpus. */
  emptyDocuments: number;
  /** Blocks of fewer than `NEAR_EMPTY` body tokens. */
  nearEmptyBlocks: number;
  /** Blocks with title and text of an earlier one. */
  duplicateBlocks: number;
  /** Documents with the id of an earlier one: they are kept, and an answer from any of them names the same id. */
  duplicateIds: number;
  /** Sentences longer than a block, whose end was cut off. */
  cutSentences: number;
  /** Sentences left out of X because they hold no salient span. */
  withoutSpan: number;
  /** Sentences left out of X because their spans lie beyond the tokens of a query. */
  spanTooFar: number;
}

/** Body tokens. */
const NEAR_EMPTY = 8;

/** Makes the prepared corpus of a file of documents, in one pass, with memory for one document at a time. */
export async function prepare(options: PrepareOptions): Promise<PrepareCounts> {
  const counts: PrepareCounts = {
    documents: 0,
    blocks: 0,
    tokens: 0,
    sentences: 0,
    spans: 0,
    emptyDocuments: 0,
    nearEmptyBlocks: 0,
    duplicateBlocks: 0,
    duplicateIds: 0,
    cutSentences: 0,
    withoutSpan: 0,
    spanTooFar: 0,
  };
  let read = 0;
  const tick = () => {
    if (++read % 1000 === 0) options.onProgress?.(counts);
  };

  return writeFolderAtomic(options.dir, async (aside) => {
    const writer = writeCorpus(aside, options.vocab);
    const ids = idCounter();
    try {
      for await (const document of readDocuments(options.documents)) {
        if (addDocument(writer, document, options, counts)) ids.add(document.id);
        tick();
      }
      if (counts.blocks === 0) {
        throw new UserError(
          `${options.documents}: holds no document with text; give a JSONL file of {"id", "title", "text"}`,
        );
      }
      if (options.sentences !== undefined) {
        for await (const line of readJsonLines(options.sentences, 'a JSONL file of sentences')) {
          addLine(writer, line, options, counts);
          tick();
        }
      }
      if (counts.sentences === 0) {
        throw new UserError(
          `${options.sentences ?? options.documents}: not one sentence holds a name or a date to mask; give X with ready-made spans in data.sentences`,
        );
      }
      writer.finish();
    } catch (error) {
      writer.abandon();
      throw error;
    }
    const corpus = openCorpus(aside);
    counts.duplicateBlocks = countDuplicates(corpus);
    corpus.close();
    counts.duplicateIds = ids.duplicates();
    return counts;
  });
}

/** One sentence of a document, tokenised once for its block and for X. */
interface Sentence extends Encoding {
  text: string;
}

/** Adds a document with its blocks and, where they are X, its sentences; false for one without text. */
function addDocument(
  writer: CorpusWriter,
  document: Document,
  options: PrepareOptions,
  counts: PrepareCounts,
): boolean {
  const { vocab, blockTokens, queryTokens } = options;
  const sentences = sentencesOf(document.text, vocab);
  if (sentences.length === 0) {
    counts.emptyDocuments++;
    return false;
  }
  const titleIds = vocab.encode(document.title).ids.slice(0, titleRoom(blockTokens));
  const number = writer.addDocument(document.id, document.title, titleIds);
  counts.documents++;
  const lengths = sentences.map((sentence) => sentence.ids.length);
  for (const { first, end } of packBlocks(lengths, titleIds.length, blockTokens)) {
    const packed = sentences.slice(first, end);
    const room = bodyRoom(titleIds.length, blockTokens);
    if (packed[0].ids.length > room) {
      packed[0] = cut(packed[0], room, vocab);
      counts.cutSentences++;
    }
    const { ids, starts } = concatenate(packed);
    const text = packed.map((sentence) => sentence.text).join(' ');
    const block = writer.addBlock(number, document.title, text, ids, starts);
    counts.blocks++;
    counts.tokens += ids.length;
    if (ids.length < NEAR_EMPTY) counts.nearEmptyBlocks++;
    if (options.sentences !== undefined) continue;
    for (let s = 0; s < packed.length; s++) {
      const length = Math.min(packed[s].ids.length, queryTokens - 2);
      const spans = spansWithin(packed[s], salientSpans(packed[s].text), length, counts);
      if (spans.length > 0) writer.addSentence(block, starts[s], length, spans);
    }
  }
  return true;
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

function addLine(writer: CorpusWriter, line: JsonLine, options: PrepareOptions, counts: PrepareCounts): void {
  const text = stringField(line, 'text');
  const encoding = options.vocab.encode(text);
  const length = Math.min(encoding.ids.length, options.queryTokens - 2);
  // Of a text that is no sentence, such as a whole page, names and dates are sought as far as they may matter.
  const end = encoding.ends[Math.min(encoding.ends.length, SOUGHT * options.queryTokens) - 1] ?? 0;
  const ranges = spansOf(line, text) ?? salientSpans(text.slice(0, end));
  const spans = spansWithin(encoding, ranges, length, counts);
  if (spans.length > 0) writer.addForeignSentence(encoding.ids.subarray(0, length), spans);
}

/** The ready-made spans of a line, checked. */
function spansOf({ value, where }: JsonLine, text: string): Range[] | undefined {
  const { spans } = value;
  if (spans === undefined || spans === null) return undefined;
  if (!Array.isArray(spans))
    throw new UserError(`${where}: "spans" must be a list of [start, end] in characters`);
  return spans
    .map((span) => {
      const [start, end] = Array.isArray(span) && span.length === 2 ? span : [];
      if (
        !(Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= text.length)
      ) {
        throw new UserError(
          `${where}: span ${shown(span)} is no [start, end] in the ${text.length} characters of "text"`,
        );
      }
      return { start, end };
    })
    .sort((a, b) => a.start - b.start);
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

/** Ids whose hashes are kept in one array. */
const IDS = 1 << 16;

/** Counts ids that came before, from 8 bytes of each: 170 MB for the 21 million passages of Wikipedia, and no more. */
function idCounter() {
  const full: BigUint64Array[] = [];
  let last = new BigUint64Array(IDS);
  let used = 0;
  return {
    add(id: string): void {
      if (used === IDS) {
        full.push(last);
        last = new BigUint64Array(IDS);
        used = 0;
      }
      last[used++] = createHash('sha1').update(id).digest().readBigUInt64BE(0);
    },
    duplicates(): number {
      const all = new BigUint64Array(full.length * IDS + used);
      full.push(last.subarray(0, used));
      for (let i = 0; i < full.length; i++) all.set(full[i], i * IDS);
      full.length = 0;
      all.sort();
      let count = 0;
      for (let i = 1; i < all.length; i++) if (all[i] === all[i - 1]) count++;
      return count;
    },
  };
}

/** Hashes held at a time. */
const HASHES = 1 << 20;

/** Blocks whose hash an earlier block has: by passes over the index, each of the hashes with one remainder, so that memory stays flat. */
function countDuplicates(corpus: Corpus): number {
  const passes = BigInt(Math.ceil(corpus.blocks / HASHES));
  let duplicates = 0;
  for (let pass = 0n; pass < passes; pass++) {
    const seen = new Set<bigint>();
    for (let block = 0; block < corpus.blocks; block++) {
      const hash = corpus.hash(block);
      if (passes > 1n && hash % passes !== pass) continue;
      if (seen.has(hash)) duplicates++;
      else seen.add(hash);
    }
  }
  return duplicates;
}

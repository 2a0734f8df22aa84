import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { constants, gunzipSync } from 'node:zlib';
import type { Config } from '../config.ts';
import { bodyRoom, packBlocks, titleRoom } from '../corpus/blocks.ts';
import { hundredWords } from '../corpus/passages.ts';
import { splitSentences } from '../corpus/sentences.ts';
import type { Splitting } from '../corpus/split.ts';
import { openCorpus } from '../corpus/store/reader.ts';
import { formatOf, readDocuments } from '../datasets/documents.ts';
import { looseDocument, NO_FIELDS } from '../datasets/formats/fields.ts';
import { explainRead, parseJsonLines, UNPACKED_LIMIT } from '../datasets/jsonl.ts';
import { readQuestionFile } from '../datasets/questions.ts';
import { areRecords, readSentences } from '../datasets/sentences.ts';
import { refuseUnreadable } from '../datasets/unreadable.ts';
import { errorCode, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { generateWorld } from '../world/world.ts';
import type { Counts, Length } from './types.ts';

// How much text there is, before it is prepared. A small file is counted whole; a large one is estimated from parts of it.

/** A sample of a file: its lines, and how many times larger the file is (1: these are all its lines). */
export interface Sample {
  lines: Record<string, unknown>[];
  scale: number;
  /** Bytes of the file, and of the part that was read. */
  bytes: number;
  read: number;
}

/** Larger files are sampled in evenly spaced parts, because the documents of a dump are ordered by age. */
const MAX_READ_BYTES = 8 << 20;
const SAMPLED_PARTS = 8;
/** A valid `.gz` file up to this size never unpacks to too much. */
const MIN_GZIP_BYTES = 1 << 16;

/** Reads a JSONL file, or a few parts of a large one. Of a large `.gz`, which can be unpacked only from its start, the first part. */
export function sampleJsonLines(path: string, what: string, limit = MAX_READ_BYTES): Sample {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    throw explainRead(path, what, error);
  }
  try {
    const bytes = fstatSync(fd).size;
    const part = (at: number, size: number) => {
      const buffer = Buffer.alloc(Math.min(size, bytes - at));
      return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, at));
    };
    const lines = (text: Buffer, where = path) => parseJsonLines(text, where).map(({ value }) => value);
    const zipped = path.endsWith('.gz');
    if (bytes <= limit) {
      const all = part(0, bytes);
      return {
        lines: lines(zipped ? gunzipSync(all, { maxOutputLength: UNPACKED_LIMIT }) : all),
        scale: 1,
        bytes,
        read: bytes,
      };
    }
    if (zipped) {
      const text = gunzipSync(part(0, limit), {
        finishFlush: constants.Z_SYNC_FLUSH,
        maxOutputLength: UNPACKED_LIMIT,
      });
      const whole = text.lastIndexOf(10) + 1; // the last line is incomplete
      return {
        lines: lines(text.subarray(0, whole)),
        scale: (bytes / limit) * (text.length / Math.max(1, whole)),
        bytes,
        read: limit,
      };
    }
    const size = Math.floor(limit / SAMPLED_PARTS);
    const found: Record<string, unknown>[] = [];
    let kept = 0;
    for (let i = 0; i < SAMPLED_PARTS; i++) {
      const at = Math.floor((i * (bytes - size)) / (SAMPLED_PARTS - 1));
      const text = part(at, size);
      const from = at === 0 ? 0 : text.indexOf(10) + 1; // the first line is incomplete, except at the start of the file
      const to = text.lastIndexOf(10) + 1;
      if (to <= from || (at > 0 && from === 0)) continue; // the part lies within one line
      kept += to - from;
      found.push(...lines(text.subarray(from, to), `${path}, from byte ${at + from}`));
    }
    return { lines: found, scale: bytes / Math.max(1, kept), bytes, read: SAMPLED_PARTS * size };
  } catch (error) {
    // This much unpacks to more than the limit: read less.
    if (errorCode(error) === 'ERR_BUFFER_TOO_LARGE' && limit > MIN_GZIP_BYTES)
      return sampleJsonLines(path, what, Math.floor(Math.min(limit, statSync(path).size) / 16));
    throw explainRead(path, what, error);
  } finally {
    closeSync(fd);
  }
}

/** English, spaces included: 4.7 with a vocabulary of 16,000 on Wikipedia, 3.9 on short sentences. */
export const BYTES_PER_WORD_PIECE = 4.4;
/** Share of sentences with a name or a date: 77,082 of 101,442 in SQuAD's passages. */
const SENTENCES_WITH_SPAN = 0.76;
/** In a sentence that has one: 3.3 in SQuAD's passages. */
const SPANS_PER_SENTENCE = 3.3;
/** Word pieces of a question, if there is no file of questions. */
const QUESTION_LENGTH: Length = { mean: 12, max: 32 };
/** Enough for means, and about a second of work. Of more text, evenly spaced documents are split into sentences. */
const MAX_SPLIT_CHARACTERS = 3 << 20;

/** Counts of a run, and a description of where they come from. */
export interface CorpusStatistics {
  counts: Counts;
  source: string;
}

/** Counts of the files that the settings name, or of the demo's world if they name no documents. */
export async function statisticsOfFiles(
  config: Config,
  vocabulary: WordPiece | undefined,
): Promise<CorpusStatistics> {
  const { data, text } = config;
  const world = data.documents === null ? generateWorld({ seed: config.seed, ...config.world }) : undefined;
  const documents = world
    ? wholeList(world.documents)
    : await sampleDocuments(data.documents!, data.format, data.fields);
  const sentences = await sampleSentences(data.sentences, world?.sentences);
  const pieces = (text: string) =>
    vocabulary
      ? vocabulary.encode(text).ids.length
      : Math.ceil(Buffer.byteLength(text) / BYTES_PER_WORD_PIECE);
  const title = new Mean();
  const body = new Mean();
  const blockBytes = new Mean();
  const documentBytes = new Mean();
  const sentence = new Mean();
  const all = documents.lines;
  if (all.length === 0)
    throw new UserError(
      `${data.documents}: no document found; every line must be {"title": …, "text": …}; for other formats see data.format`,
    );
  const every = Math.ceil(sum(all.map((line) => string(line.text).length)) / MAX_SPLIT_CHARACTERS);
  let sampled = 0;
  for (let i = 0; i < all.length; i += Math.max(1, every)) {
    const [name, words] = [string(all[i].title), string(all[i].text)];
    sampled++;
    const titlePieces = Math.min(pieces(name), titleRoom(text.blockTokens));
    title.add(titlePieces);
    documentBytes.add(Buffer.byteLength(name) + Buffer.byteLength(string(all[i].id ?? i)));
    const room = bodyRoom(titlePieces, text.blockTokens);
    for (const passage of text.splitting === 'dpr' ? hundredWords(words) : [words]) {
      const texts = splitSentences(passage).map(({ start, end }) => passage.slice(start, end));
      const lengths = texts.map(pieces);
      for (const n of lengths) sentence.add(n);
      const bodies = bodyLengths(lengths, room, text.splitting);
      const bytes = sum(texts.map((sentence) => Buffer.byteLength(sentence)));
      for (const tokens of bodies) {
        body.add(tokens);
        blockBytes.add(bytes / bodies.length);
      }
    }
  }
  const perSampled = (all.length / sampled) * documents.scale;
  const external = sentences !== undefined;
  const externalLengths = external
    ? sentences.lines.slice(0, 20_000).map((line) => pieces(string(line.text)))
    : [];
  const spans = external
    ? sentences.lines.flatMap((line) => (Array.isArray(line.spans) ? [line.spans.length] : []))
    : [];
  const counts: Counts = {
    documents: linesOf(documents),
    blocks: Math.max(1, Math.round(body.n * perSampled)),
    sentences: external ? linesOf(sentences) : Math.round(sentence.n * perSampled * SENTENCES_WITH_SPAN),
    foreignSentences: external,
    ...(await questionCounts(config, pieces, world)),
    vocabulary: vocabulary?.size ?? text.vocabularySize,
    title: title.length(),
    body: body.length(),
    sentence: external ? lengthOf(externalLengths) : sentence.length(),
    blockBytes: blockBytes.length().mean,
    documentBytes: documentBytes.length().mean,
    blockSentences: sentence.n / Math.max(1, body.n),
    spans: spans.length > 0 ? lengthOf(spans).mean : SPANS_PER_SENTENCE,
  };
  const { scale, read, bytes } = documents;
  const how =
    scale !== 1
      ? `estimated from ${mebibytes(read)} of the ${mebibytes(bytes)}`
      : every > 1 || !vocabulary
        ? 'documents counted, blocks estimated'
        : 'counted';
  return {
    counts,
    source: world
      ? "counted in the demo's generated world, since data.documents names no file"
      : `${how} in ${data.documents}`,
  };
}

/** Tokens of each block that sentences of these lengths make. */
function bodyLengths(lengths: readonly number[], room: number, splitting: Splitting): number[] {
  if (splitting === 'as-is') return lengths.length > 0 ? [Math.min(room, sum(lengths))] : [];
  // A sentence too long for a block continues in the next one.
  const fitting = lengths.flatMap((n) =>
    n <= room ? [n] : Array.from({ length: Math.ceil(n / room) }, (_, i) => Math.min(room, n - i * room)),
  );
  return packBlocks(fitting, room).map(({ first, end }) => sum(fitting.slice(first, end)));
}

/** Evenly spaced blocks of a prepared corpus, and as many sentences, from which lengths are estimated. */
const SAMPLED_BLOCKS = 2000;

/** Counts of a prepared corpus; questions are counted in the files that the settings name. */
export async function statisticsOfCorpus(dir: string, config: Config): Promise<CorpusStatistics> {
  const corpus = openCorpus(dir);
  try {
    const manifest = readJson(join(dir, 'manifest.json'), 'prepared corpus', 'prepare the corpus again') as {
      documents: number;
      spans: number;
      sentencesFromBlocks: boolean;
      idBytes: number;
    };
    const evenly = (n: number) => {
      const wanted = Math.min(n, SAMPLED_BLOCKS);
      return Array.from({ length: wanted }, (_, i) => Math.floor((i * n) / wanted));
    };
    const blocks = evenly(corpus.blocks);
    const { sentences } = corpus;
    const titles = blocks.map((b) => corpus.titleIds(b).length);
    const size = (name: string) => statSync(join(dir, name)).size;
    return {
      counts: {
        documents: manifest.documents,
        blocks: corpus.blocks,
        sentences: sentences.count,
        foreignSentences: !manifest.sentencesFromBlocks,
        ...(await questionCounts(config, (text) => corpus.tokenizer.encode(text).ids.length)),
        vocabulary: corpus.tokenizer.size,
        title: lengthOf(titles),
        body: lengthOf(blocks.map((b) => corpus.bodyLength(b))),
        sentence: lengthOf(evenly(sentences.count).map((i) => sentences.ids(i).length)),
        blockBytes: size('text.bin') / corpus.blocks,
        // The file also holds 8 bytes of lengths and the title's ids: corpusBytes adds those.
        documentBytes:
          size('documents.bin') / manifest.documents - 8 - manifest.idBytes * lengthOf(titles).mean,
        blockSentences: size('starts.bin') / 2 / corpus.blocks,
        spans: sentences.count === 0 ? 0 : manifest.spans / sentences.count,
      },
      source: `counted in the prepared corpus ${dir}`,
    };
  } finally {
    corpus.close();
  }
}

/** Questions from which lengths are estimated. */
const SAMPLED_QUESTIONS = 5000;

async function questionCounts(
  { data }: Config,
  pieces: (text: string) => number,
  world?: { train: readonly object[]; test: readonly object[] },
): Promise<Pick<Counts, 'trainQuestions' | 'devQuestions' | 'testQuestions' | 'question'>> {
  const train = await sampleQuestions(data.train, world?.train);
  const dev = await sampleQuestions(data.dev);
  const test = data.test === null && dev ? dev : await sampleQuestions(data.test, world?.test);
  const sampled = [...(train?.lines ?? []), ...(test?.lines ?? [])].slice(0, SAMPLED_QUESTIONS);
  return {
    trainQuestions: linesOf(train),
    devQuestions: linesOf(dev),
    testQuestions: linesOf(test),
    question:
      sampled.length > 0 ? lengthOf(sampled.map((line) => pieces(string(line.question)))) : QUESTION_LENGTH,
  };
}

/** Estimated lines of the whole file. */
function linesOf(sample: Sample | undefined): number {
  return sample ? Math.round(sample.lines.length * sample.scale) : 0;
}

function wholeList(list: readonly object[]): Sample {
  return { lines: list as Record<string, unknown>[], scale: 1, bytes: 0, read: 0 };
}

/** Files that are read as a stream: for them, there is no reading of parts. */
const STREAMED = /\.(zst|bz2)$/;

async function sampleDocuments(
  path: string,
  format: Config['data']['format'],
  fields = NO_FIELDS,
): Promise<Sample> {
  if (path === '-') {
    throw new UserError('-: standard input cannot be counted in advance; save it to a file');
  }
  if ((format === 'auto' ? formatOf(path) : format) === 'jsonl' && !STREAMED.test(path)) {
    refuseUnreadable(path);
    const sample = sampleJsonLines(path, 'a JSONL file of documents');
    return { ...sample, lines: sample.lines.map((line) => looseDocument(line, fields)) };
  }
  return sampleStream(readDocuments(path, format, fields), path);
}

async function sampleSentences(path: string | null, list?: readonly object[]): Promise<Sample | undefined> {
  if (path === null) return list && wholeList(list);
  if (areRecords(path) || STREAMED.test(path)) return sampleStream(readSentences(path), path);
  const sample = sampleJsonLines(path, 'a JSONL file of sentences');
  // EMDR2's lines have other keys.
  const lines = sample.lines.map(({ text, sent_text, spans, linguistic_ent }) => ({
    text: text ?? sent_text,
    spans: spans ?? linguistic_ent,
  }));
  return { ...sample, lines };
}

/** All questions: the stages that use them read the whole file too. */
async function sampleQuestions(path: string | null, list?: readonly object[]): Promise<Sample | undefined> {
  if (path === null) return list && wholeList(list);
  return wholeList((await readQuestionFile(path)).questions);
}

/** Typical for text compressed by gzip or Zstandard, and for Parquet. */
const COMPRESSION_RATIO = 3;

/** The first items of a stream. Their texts' share of the files' bytes gives the scale. */
export async function sampleStream(items: AsyncIterable<object>, path: string): Promise<Sample> {
  const lines: Record<string, unknown>[] = [];
  let read = 0;
  for await (const item of items) {
    lines.push(item as Record<string, unknown>);
    for (const value of Object.values(item)) read += Buffer.byteLength(string(value));
    if (read > MAX_READ_BYTES) {
      const bytes = bytesOf(path);
      return { lines, scale: Math.max(1, bytes / read), bytes, read };
    }
  }
  return { lines, scale: 1, bytes: read, read };
}

/** Bytes of a file or of all files in a folder, unpacked if compressed (an estimate). */
function bytesOf(path: string): number {
  const found = statSync(path);
  if (!found.isDirectory())
    return found.size * (/\.(gz|zst|bz2|parquet|pq)$|-of-\d+$/.test(path) ? COMPRESSION_RATIO : 1);
  return sum(readdirSync(path).map((name) => bytesOf(join(path, name))));
}

class Mean {
  n = 0;
  #sum = 0;
  #max = 0;
  add(value: number): void {
    this.n++;
    this.#sum += value;
    this.#max = Math.max(this.#max, value);
  }
  length(): Length {
    return { mean: this.#sum / Math.max(1, this.n), max: this.#max };
  }
}

function lengthOf(values: readonly number[]): Length {
  const mean = new Mean();
  for (const value of values) mean.add(value);
  return mean.length();
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const string = (value: unknown) =>
  typeof value === 'string' ? value : typeof value === 'number' ? String(value) : '';
const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

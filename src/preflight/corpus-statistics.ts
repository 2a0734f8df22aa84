import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { constants, gunzipSync } from 'node:zlib';
import type { Config } from '../config.ts';
import { bodyRoom, packBlocks, titleRoom } from '../corpus/blocks.ts';
import { hundredWords } from '../corpus/passages.ts';
import { splitSentences } from '../corpus/sentences.ts';
import type { Packing } from '../corpus/split.ts';
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

// How much text there is, before it is prepared: a file is counted whole when it is small, and otherwise by parts of it.

/** A sample of a JSONL file: its lines, and how many such samples the file holds (1: the lines are all of it). */
export interface Sample {
  lines: Record<string, unknown>[];
  scale: number;
  /** Bytes of the file, and of it those read. */
  bytes: number;
  read: number;
}

/** Bytes read of one file: all of a smaller one. The parts lie at even distances, as the articles of a dump lie by age. */
const READ = 8 << 20;
const PARTS = 8;
/** Bytes of a `.gz` below which nothing honest unpacks to too much. */
const LEAST = 1 << 16;

/** Reads a JSONL file, or of a large one a few parts. Of a large `.gz`, which opens at its start only, the first. */
export function sampleJsonLines(path: string, what: string, limit = READ): Sample {
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
      const whole = text.lastIndexOf(10) + 1; // the last line is cut
      return {
        lines: lines(text.subarray(0, whole)),
        scale: (bytes / limit) * (text.length / Math.max(1, whole)),
        bytes,
        read: limit,
      };
    }
    const size = Math.floor(limit / PARTS);
    const found: Record<string, unknown>[] = [];
    let kept = 0;
    for (let i = 0; i < PARTS; i++) {
      const at = Math.floor((i * (bytes - size)) / (PARTS - 1));
      const text = part(at, size);
      const from = at === 0 ? 0 : text.indexOf(10) + 1; // the first line is cut, but at the start of the file
      const to = text.lastIndexOf(10) + 1;
      if (to <= from || (at > 0 && from === 0)) continue; // within one line
      kept += to - from;
      found.push(...lines(text.subarray(from, to), `${path}, from byte ${at + from}`));
    }
    return { lines: found, scale: bytes / Math.max(1, kept), bytes, read: PARTS * size };
  } catch (error) {
    // A file that unpacks to more than is wanted is known by less of it.
    if (errorCode(error) === 'ERR_BUFFER_TOO_LARGE' && limit > LEAST)
      return sampleJsonLines(path, what, Math.floor(Math.min(limit, statSync(path).size) / 16));
    throw explainRead(path, what, error);
  } finally {
    closeSync(fd);
  }
}

/** Bytes of a word piece of English, its space counted: 4.7 with 16,000 pieces on Wikipedia, 3.9 on short sentences. */
export const PIECE_BYTES = 4.4;
/** Share of sentences in which a name or a date is found: 77,082 of 101,442 of SQuAD's passages. */
const WITH_SPAN = 0.76;
/** Spans of such a sentence: 3.3 there. */
const SPANS = 3.3;
/** Questions of about this many word pieces where no file tells. */
const QUESTION: Length = { mean: 12, max: 32 };
/** Characters of documents split into sentences: enough for means, a second of work. Of more, documents at even distances. */
const SPLIT = 3 << 20;

/** Counts of a run, and in words where they come from. */
export interface CorpusStatistics {
  counts: Counts;
  source: string;
}

/** Counts of the files that the settings name, or of the demo's world where they name no documents. */
export async function statisticsOfFiles(
  config: Config,
  vocabulary: WordPiece | undefined,
): Promise<CorpusStatistics> {
  const { data, text } = config;
  const world = data.documents === null ? generateWorld({ seed: config.seed, ...config.world }) : undefined;
  const documents = world
    ? listed(world.documents)
    : await sampleDocuments(data.documents!, data.format, data.fields);
  const sentences = await sampleSentences(data.sentences, world?.sentences);
  const pieces = (text: string) =>
    vocabulary ? vocabulary.encode(text).ids.length : Math.ceil(Buffer.byteLength(text) / PIECE_BYTES);
  const title = new Mean();
  const body = new Mean();
  const blockBytes = new Mean();
  const documentBytes = new Mean();
  const own = new Mean();
  const all = documents.lines;
  if (all.length === 0)
    throw new UserError(
      `${data.documents}: no document found; every line must be {"title": …, "text": …}, or see data.format`,
    );
  const every = Math.ceil(sum(all.map((line) => string(line.text).length)) / SPLIT);
  let sampled = 0;
  for (let i = 0; i < all.length; i += Math.max(1, every)) {
    const [name, words] = [string(all[i].title), string(all[i].text)];
    sampled++;
    const titlePieces = Math.min(pieces(name), titleRoom(text.blockTokens));
    title.add(titlePieces);
    documentBytes.add(Buffer.byteLength(name) + Buffer.byteLength(string(all[i].id ?? i)));
    const room = bodyRoom(titlePieces, text.blockTokens);
    for (const passage of text.packing === 'dpr' ? hundredWords(words) : [words]) {
      const texts = splitSentences(passage).map(({ start, end }) => passage.slice(start, end));
      const lengths = texts.map(pieces);
      for (const n of lengths) own.add(n);
      const bodies = bodyLengths(lengths, room, text.packing);
      const bytes = sum(texts.map((sentence) => Buffer.byteLength(sentence)));
      for (const tokens of bodies) {
        body.add(tokens);
        blockBytes.add(bytes / bodies.length);
      }
    }
  }
  const perSampled = (all.length / sampled) * documents.scale;
  const foreign = sentences !== undefined;
  const given = foreign ? sentences.lines.slice(0, 20_000).map((line) => pieces(string(line.text))) : [];
  const spans = foreign
    ? sentences.lines.flatMap((line) => (Array.isArray(line.spans) ? [line.spans.length] : []))
    : [];
  const counts: Counts = {
    documents: linesOf(documents),
    blocks: Math.max(1, Math.round(body.n * perSampled)),
    sentences: foreign ? linesOf(sentences) : Math.round(own.n * perSampled * WITH_SPAN),
    foreignSentences: foreign,
    ...(await questionCounts(config, pieces, world)),
    vocabulary: vocabulary?.size ?? text.vocabularySize,
    title: title.length(),
    body: body.length(),
    sentence: foreign ? lengthOf(given) : own.length(),
    blockBytes: blockBytes.length().mean,
    documentBytes: documentBytes.length().mean,
    blockSentences: own.n / Math.max(1, body.n),
    spans: spans.length > 0 ? lengthOf(spans).mean : SPANS,
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
function bodyLengths(lengths: readonly number[], room: number, packing: Packing): number[] {
  if (packing === 'as-is') return lengths.length > 0 ? [Math.min(room, sum(lengths))] : [];
  // A sentence too long for a block continues in the next one.
  const fitting = lengths.flatMap((n) =>
    n <= room ? [n] : Array.from({ length: Math.ceil(n / room) }, (_, i) => Math.min(room, n - i * room)),
  );
  return packBlocks(fitting, room).map(({ first, end }) => sum(fitting.slice(first, end)));
}

/** Blocks whose lengths are looked at in a prepared corpus, and sentences, at even distances. */
const LOOKED_AT = 2000;

/** Counts of a prepared corpus; the questions come from the files that the settings name. */
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
      const wanted = Math.min(n, LOOKED_AT);
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
        // The file holds 8 bytes of lengths and the title's ids as well; those are added where bytes are counted.
        documentBytes:
          size('documents.bin') / manifest.documents - 8 - manifest.idBytes * lengthOf(titles).mean,
        blockSentences: size('starts.bin') / 2 / corpus.blocks,
        spans: manifest.spans / sentences.count,
      },
      source: `counted in the prepared corpus ${dir}`,
    };
  } finally {
    corpus.close();
  }
}

/** Questions whose lengths are looked at. */
const ASKED = 5000;

async function questionCounts(
  { data }: Config,
  pieces: (text: string) => number,
  world?: { train: readonly object[]; test: readonly object[] },
): Promise<Pick<Counts, 'trainQuestions' | 'testQuestions' | 'question'>> {
  const train = await sampleQuestions(data.train, world?.train);
  const test = await sampleQuestions(data.test ?? data.dev, world?.test);
  const asked = [...(train?.lines ?? []), ...(test?.lines ?? [])].slice(0, ASKED);
  return {
    trainQuestions: linesOf(train),
    testQuestions: linesOf(test),
    question: asked.length > 0 ? lengthOf(asked.map((line) => pieces(string(line.question)))) : QUESTION,
  };
}

/** Lines of the whole file. */
function linesOf(sample: Sample | undefined): number {
  return sample ? Math.round(sample.lines.length * sample.scale) : 0;
}

function listed(list: readonly object[]): Sample {
  return { lines: list as Record<string, unknown>[], scale: 1, bytes: 0, read: 0 };
}

async function sampleDocuments(
  path: string,
  format: Config['data']['format'],
  fields = NO_FIELDS,
): Promise<Sample> {
  if (path === '-') {
    throw new UserError('-: standard input cannot be counted before it is read; save it to a file');
  }
  if ((format === 'auto' ? formatOf(path) : format) === 'jsonl' && !path.endsWith('.zst')) {
    refuseUnreadable(path);
    const sample = sampleJsonLines(path, 'a JSONL file of documents');
    return { ...sample, lines: sample.lines.map((line) => looseDocument(line, fields)) };
  }
  return sampleStream(readDocuments(path, format, fields), path);
}

async function sampleSentences(
  path: string | null,
  list: readonly object[] | undefined,
): Promise<Sample | undefined> {
  if (path === null) return list && listed(list);
  if (areRecords(path) || path.endsWith('.zst')) return sampleStream(readSentences(path), path);
  const sample = sampleJsonLines(path, 'a JSONL file of sentences');
  // EMDR2's lines have other keys.
  const lines = sample.lines.map(({ text, sent_text, spans, linguistic_ent }) => ({
    text: text ?? sent_text,
    spans: spans ?? linguistic_ent,
  }));
  return { ...sample, lines };
}

/** Questions are read whole by whoever uses them, and so they are here. */
async function sampleQuestions(
  path: string | null,
  list: readonly object[] | undefined,
): Promise<Sample | undefined> {
  if (path === null) return list && listed(list);
  return listed((await readQuestionFile(path)).questions);
}

/** What text packed by gzip or Zstandard grows by, about. */
const UNPACKED = 3;

/** The first items of a stream, and how many such there may be, by the bytes of their texts and those of the files. */
export async function sampleStream(items: AsyncIterable<object>, path: string): Promise<Sample> {
  const lines: Record<string, unknown>[] = [];
  let read = 0;
  for await (const item of items) {
    lines.push(item as Record<string, unknown>);
    for (const value of Object.values(item)) read += Buffer.byteLength(string(value));
    if (read > READ) {
      const bytes = bytesOf(path);
      return { lines, scale: Math.max(1, bytes / read), bytes, read };
    }
  }
  return { lines, scale: 1, bytes: read, read };
}

/** Bytes of a file or of all files in a folder, unpacked. */
function bytesOf(path: string): number {
  const found = statSync(path);
  if (!found.isDirectory()) return found.size * (/\.(gz|zst)$|-of-\d+$/.test(path) ? UNPACKED : 1);
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

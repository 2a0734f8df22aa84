import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fingerprint64 } from 'farmhash-modern';
import type { DocumentFormat } from '../datasets/document-formats.ts';
import { formatOf, readDocuments } from '../datasets/documents.ts';
import type { Fields } from '../datasets/formats/fields.ts';
import { leftOutFiles, leftOutWords } from '../datasets/formats/text-folder.ts';
import { readSentences } from '../datasets/sentences.ts';
import type { LeftOut } from '../datasets/types.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, writeFolderResumable } from '../system/files.ts';
import { unusualSettings, type WordPiece } from '../tokenizer/wordpiece.ts';
import { addCounts, noCounts, type PrepareCounts } from './counts.ts';
import { countDuplicates } from './duplicates.ts';
import { identityOf, type Reached, readReached, writeReached } from './prepare-resume.ts';
import { taggerIdentity } from './spans/named-entities.ts';
import { type Batch, type Splitting, writeEncodedBatch } from './split.ts';
import { splitAll } from './split-workers.ts';
import { type Corpus, openCorpus } from './store/reader.ts';
import { type CorpusWriter, continueCorpus, writeCorpus } from './store/writer.ts';

export interface PrepareOptions {
  /** Path of the documents, from which Z is made. */
  documents: string;
  /** Their format; recognised by the path if it is not given. */
  format?: DocumentFormat | 'auto';
  /** The keys or columns that hold id, title and text, if they are not the usual ones. */
  fields?: Fields;
  /** Leave out documents of Wikipedia that are not articles, by their titles. */
  articlesOnly?: boolean;
  /** Path of the sentences for X. Without it X is made from the documents. */
  sentences?: string;
  /** Folder of a NER model in ONNX that finds the salient spans; the built-in rules do if it is not given. */
  ner?: string;
  vocab: WordPiece;
  /** How a document is split into blocks; by whole sentences if it is not given. */
  splitting?: Splitting;
  /** Tokens of `[CLS] title [SEP] body [SEP]` at most. */
  blockTokens: number;
  /** Tokens of `[CLS] sentence [SEP]` at most. */
  queryTokens: number;
  /** Folder of the prepared corpus. An existing one is replaced when the new one is complete. */
  dir: string;
  /** Threads that split documents; all cores, up to `MAX_THREADS`, if it is not given. The corpus does not depend on it. */
  threads?: number;
  /** UTF-16 units in a batch; `BATCH_UNITS`, or `TAGGED_BATCH_UNITS`, if not given. The corpus does not depend on it. */
  batch?: number;
  /** Called after every batch of documents or sentences. */
  onProgress?(done: PrepareCounts): void;
  /** Called when an earlier run is resumed, with the number of documents that it has done. */
  onResume?(documents: number): void;
}

/** This thread reads and writes, which was measured at a seventh of the time of splitting: more threads would wait for it. */
const MAX_THREADS = 8;

/** UTF-16 units: about 0.1 seconds of work. */
const BATCH_UNITS = 1 << 18;
/** With a NER model: BERT-base takes 20 seconds on the native runtime, four times as long on WebAssembly. */
const TAGGED_BATCH_UNITS = 1 << 15;

/** Batches between two checkpoints, from which a killed run can resume: seconds of work, far more than syncing takes. */
const CHECKPOINT_BATCHES = 256;
const TAGGED_CHECKPOINT_BATCHES = 16;

/**
 * Makes the prepared corpus of a file of documents, in one pass, on all cores, with memory for a few batches. The corpus is
 * written to `dir`.part first. If a run is interrupted, the next one with the same input and settings resumes it, and the
 * result is the same to the byte. Only one process may do so at a time.
 */
export async function prepare(options: PrepareOptions): Promise<PrepareCounts> {
  return writeFolderResumable(options.dir, (part) => fill(part, options));
}

async function fill(part: string, options: PrepareOptions): Promise<PrepareCounts> {
  const { vocab, sentences, blockTokens, queryTokens } = options;
  const settings = {
    articlesOnly: options.articlesOnly ?? false,
    splitting: options.splitting ?? 'sentences',
    blockTokens,
    queryTokens,
    sentences: sentences === undefined,
  };
  const { sha256, lowercase } = vocab;
  const unusual = unusualSettings(vocab);
  const tagger = options.ner === undefined ? undefined : await taggerIdentity(options.ner);
  const every = tagger === undefined ? CHECKPOINT_BATCHES : TAGGED_CHECKPOINT_BATCHES;
  const identity = identityOf(
    sentences === undefined ? [options.documents] : [options.documents, sentences],
    {
      ...settings,
      format: options.format ?? 'auto',
      fields: options.fields,
      vocabulary: sha256,
      lowercase,
      ...(unusual && { tokenizer: unusual }),
      ...(tagger && { tagger }),
    },
  );
  const { writer, reached } = start(part, identity, vocab, tagger);
  const { counts } = reached;
  // A resumed run reads its input from the start.
  counts.redirects = 0;
  counts.otherPages = 0;
  if (reached.documents > 0) options.onResume?.(reached.documents);
  const check = (whole: boolean) => {
    if (counts.blocks === 0) {
      const left = leftOut(options);
      throw new UserError(
        `${options.documents}: holds no document with text${left.size > 0 ? `, ${leftOutWords(left)}` : ''}; give a JSONL file of {"id", "title", "text"}, or see data.format`,
      );
    }
    // Sentences of their own are for pretraining alone; without them, the other stages can use the documents.
    if (whole && counts.sentences === 0 && sentences !== undefined) {
      throw new UserError(
        `${sentences}: no sentence has a name or a date to mask; give sentences with ready-made spans in data.sentences`,
      );
    }
  };
  try {
    const threads = options.threads ?? Math.min(MAX_THREADS, availableParallelism());
    const read = readBatches(options, reached, (why) => counts[why]++);
    let batches = 0;
    for await (const { batch, encoded } of splitAll(read, vocab, settings, threads, options.ner)) {
      if (batch.sentences.length > 0) check(false);
      writeEncodedBatch(writer, batch, encoded);
      addCounts(counts, encoded.counts);
      reached.documents += batch.documents.length;
      reached.sentences += batch.sentences.length;
      if (++batches % every === 0 && identity !== undefined) {
        writeReached(part, identity, { ...reached, corpus: writer.checkpoint() });
      }
      options.onProgress?.(counts);
    }
    check(true);
    writer.finish();
  } catch (error) {
    writer.abandon();
    throw error;
  }
  const corpus = openCorpus(part);
  counts.duplicateBlocks = countDuplicates(corpus.blocks, blockHashes(corpus));
  for (const n of leftOut(options).values()) counts.leftOutFiles += n;
  counts.duplicateIds = countDuplicates(corpus.documents, idHashes(corpus));
  corpus.close();
  return counts;
}

/** Resumes what an earlier run left in the folder `part`, or starts from scratch. */
function start(
  part: string,
  identity: string | undefined,
  vocab: WordPiece,
  tagger: string | undefined,
): { writer: CorpusWriter; reached: Omit<Reached, 'corpus'> } {
  const reached = identity === undefined ? undefined : readReached(part, identity);
  const writer = reached && continueCorpus(part, vocab, reached.corpus, tagger);
  if (reached && writer) return { writer, reached };
  rmSync(part, { recursive: true, force: true });
  makeFolder(part);
  return {
    writer: writeCorpus(part, vocab, tagger),
    reached: { documents: 0, sentences: 0, counts: noCounts() },
  };
}

/** The number of files that are left out of a folder of text files, by their kind. */
function leftOut({ documents, format = 'auto' }: PrepareOptions): Map<string, number> {
  if (documents === '-') return new Map();
  const known = format === 'auto' ? formatOf(documents) : format;
  return known === 'text' ? leftOutFiles(documents) : new Map();
}

/** All documents in batches, then all external sentences, without those that are done. */
async function* readBatches(
  {
    documents,
    format,
    fields,
    sentences,
    ner,
    batch = ner === undefined ? BATCH_UNITS : TAGGED_BATCH_UNITS,
  }: PrepareOptions,
  done: { documents: number; sentences: number },
  leftOut: LeftOut,
): AsyncGenerator<Batch> {
  for await (const some of inBatches(
    readDocuments(documents, format, fields, leftOut),
    done.documents,
    batch,
  )) {
    yield { documents: some, sentences: [] };
  }
  if (sentences === undefined) return;
  for await (const some of inBatches(readSentences(sentences), done.sentences, batch)) {
    yield { documents: [], sentences: some };
  }
}

/** What each document counts in addition to its text, in UTF-16 units: many documents without text must fill a batch, too. */
const UNITS_PER_DOCUMENT = 256;

async function* inBatches<T extends { text: string }>(
  items: AsyncIterable<T>,
  skipped: number,
  batch: number,
): AsyncGenerator<T[]> {
  let some: T[] = [];
  let size = 0;
  let left = skipped;
  for await (const item of items) {
    if (left-- > 0) continue;
    some.push(item);
    size += item.text.length + UNITS_PER_DOCUMENT;
    if (size < batch) continue;
    yield some;
    some = [];
    size = 0;
  }
  if (some.length > 0) yield some;
}

function* blockHashes(corpus: Corpus): Generator<bigint> {
  for (let block = 0; block < corpus.blocks; block++) yield corpus.hash(block);
}

function* idHashes(corpus: Corpus): Generator<bigint> {
  for (const id of corpus.documentIds()) yield fingerprint64(id);
}

import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fingerprint64 } from 'farmhash-modern';
import type { DocumentFormat } from '../datasets/document-formats.ts';
import { formatOf, readDocuments } from '../datasets/documents.ts';
import type { Fields } from '../datasets/formats/fields.ts';
import { leftOutFiles, leftOutWords } from '../datasets/formats/text-folder.ts';
import { readSentences } from '../datasets/sentences.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, writeFolderResumable } from '../system/files.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { addCounts, noCounts, type PrepareCounts } from './counts.ts';
import { countDuplicates } from './duplicates.ts';
import { identityOf, type Reached, readReached, writeReached } from './prepare-resume.ts';
import { taggerIdentity } from './spans/named-entities.ts';
import { type Batch, type Packing, writeSplitBatch } from './split.ts';
import { splitAll } from './split-workers.ts';
import { type Corpus, openCorpus } from './store/reader.ts';
import { type CorpusWriter, continueCorpus, writeCorpus } from './store/writer.ts';

export interface PrepareOptions {
  /** Path of the documents, from which Z is made. */
  documents: string;
  /** What they are; by the look of the path where it is not given. */
  format?: DocumentFormat | 'auto';
  /** The keys or columns that hold id, title and text, where they are not the usual ones. */
  fields?: Fields;
  /** Leave out pages of Wikipedia that are no articles, by their titles. */
  articlesOnly?: boolean;
  /** Path of the sentences for X. Without it X is made from the documents. */
  sentences?: string;
  /** Folder of a NER model of ONNX that finds the salient spans; without it the default's rules do. */
  ner?: string;
  vocab: WordPiece;
  /** How a document is cut into blocks; whole sentences where it is not given. */
  packing?: Packing;
  /** Tokens of `[CLS] title [SEP] body [SEP]` at most. */
  blockTokens: number;
  /** Tokens of `[CLS] sentence [SEP]` at most. */
  queryTokens: number;
  /** Folder of the prepared corpus; one that stands there is replaced when the new one is whole. */
  dir: string;
  /** Threads that cut documents; all cores, up to `MOST_THREADS`, where it is not given. The corpus is the same. */
  threads?: number;
  /** UTF-16 units of a batch of documents; `BATCH`, or `BATCH_TAGGED`, where it is not given. The corpus is the same. */
  batch?: number;
  /** Called after every batch of documents or sentences. */
  onProgress?(done: PrepareCounts): void;
  /** Called where an earlier run is gone on with, with the documents that it has done. */
  onResume?(documents: number): void;
}

/** Reading and writing, which this thread does, were measured at a seventh of cutting: more threads would wait for it. */
const MOST_THREADS = 8;

/** UTF-16 units: some 0.1 seconds of work. */
const BATCH = 1 << 18;
/** With a NER model: BERT-base takes 20 seconds on the native runtime, four times as long on WebAssembly. */
const BATCH_TAGGED = 1 << 15;

/** Batches from one point that a killed run can be gone on with to the next: seconds of work, and a multiple of what syncing takes. */
const CHECKPOINT = 256;
const CHECKPOINT_TAGGED = 16;

/**
 * Makes the prepared corpus of a file of documents, in one pass, on all cores, with memory for a few batches of them. It
 * comes to lie in `dir`.part first; a run that was cut short is gone on with by the next one of the same input and
 * settings, and what it leaves is the same to the byte. Only one process may do so at a time.
 */
export async function prepare(options: PrepareOptions): Promise<PrepareCounts> {
  return writeFolderResumable(options.dir, (part) => fill(part, options));
}

async function fill(part: string, options: PrepareOptions): Promise<PrepareCounts> {
  const { vocab, sentences, blockTokens, queryTokens } = options;
  const settings = {
    articlesOnly: options.articlesOnly ?? false,
    packing: options.packing ?? 'sentences',
    blockTokens,
    queryTokens,
    sentences: sentences === undefined,
  };
  const { sha256, lowercase } = vocab;
  const tagger = options.ner === undefined ? undefined : await taggerIdentity(options.ner);
  const every = tagger === undefined ? CHECKPOINT : CHECKPOINT_TAGGED;
  const identity = identityOf(
    sentences === undefined ? [options.documents] : [options.documents, sentences],
    {
      ...settings,
      format: options.format ?? 'auto',
      fields: options.fields,
      vocabulary: sha256,
      lowercase,
      ...(tagger && { tagger }),
    },
  );
  const { writer, reached } = start(part, identity, vocab, tagger);
  const { counts } = reached;
  if (reached.documents > 0) options.onResume?.(reached.documents);
  const check = (whole: boolean) => {
    if (counts.blocks === 0) {
      const left = leftOut(options);
      throw new UserError(
        `${options.documents}: holds no document with text${left.size > 0 ? `, ${leftOutWords(left)}` : ''}; give a JSONL file of {"id", "title", "text"}, or see data.format`,
      );
    }
    if (whole && counts.sentences === 0) {
      throw new UserError(
        `${sentences ?? options.documents}: not one sentence holds a name or a date to mask; give X with ready-made spans in data.sentences`,
      );
    }
  };
  try {
    const threads = options.threads ?? Math.min(MOST_THREADS, availableParallelism());
    const read = readBatches(options, reached);
    let batches = 0;
    for await (const { batch, cut } of splitAll(read, vocab, settings, threads, options.ner)) {
      if (batch.sentences.length > 0) check(false);
      writeSplitBatch(writer, batch, cut);
      addCounts(counts, cut.counts);
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

/** Goes on with what an earlier run has left in the folder `part`, or begins anew. */
function start(
  part: string,
  identity: string | undefined,
  vocab: WordPiece,
  tagger: string | undefined,
): { writer: CorpusWriter; reached: Omit<Reached, 'corpus'> } {
  const left = identity === undefined ? undefined : readReached(part, identity);
  const writer = left && continueCorpus(part, vocab, left.corpus, tagger);
  if (left && writer) return { writer, reached: left };
  rmSync(part, { recursive: true, force: true });
  makeFolder(part);
  return {
    writer: writeCorpus(part, vocab, tagger),
    reached: { documents: 0, sentences: 0, counts: noCounts() },
  };
}

/** What is left out of a folder of text files, by its kind. */
function leftOut({ documents, format = 'auto' }: PrepareOptions): Map<string, number> {
  if (documents === '-') return new Map();
  const known = format === 'auto' ? formatOf(documents) : format;
  return known === 'text' ? leftOutFiles(documents) : new Map();
}

/** All documents in batches, then all given sentences; without those that are done. */
async function* readBatches(
  {
    documents,
    format,
    fields,
    sentences,
    ner,
    batch = ner === undefined ? BATCH : BATCH_TAGGED,
  }: PrepareOptions,
  done: { documents: number; sentences: number },
): AsyncGenerator<Batch> {
  for await (const some of inBatches(readDocuments(documents, format, fields), done.documents, batch)) {
    yield { documents: some, sentences: [] };
  }
  if (sentences === undefined) return;
  for await (const some of inBatches(readSentences(sentences), done.sentences, batch)) {
    yield { documents: [], sentences: some };
  }
}

/** What a document costs beside its text, in UTF-16 units of it: passages without text must end a batch, too. */
const EACH = 256;

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
    size += item.text.length + EACH;
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

import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Config } from '../config.ts';
import { NO_SPANS, type PrepareCounts, summaryOf } from '../corpus/counts.ts';
import { prepare } from '../corpus/prepare.ts';
import { readNerFolder } from '../corpus/spans/ner-folder.ts';
import { corpusSummary, openCorpus } from '../corpus/store/reader.ts';
import { bytesRead } from '../datasets/bytes.ts';
import { isArticle, readDocuments } from '../datasets/documents.ts';
import { leftOutFiles, leftOutWords } from '../datasets/formats/text-folder.ts';
import { hearSignalsWhileComputing } from '../engine/signals.ts';
import { modelFolder } from '../hub/cache.ts';
import { presets } from '../presets.ts';
import { lockRun, type Run, refuseOldRun, runConfig, runFolder, settingsOf } from '../run/folder.ts';
import { STAGES } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { readText, writeFileAtomic } from '../system/files.ts';
import { type Progress, progress, say, warn } from '../system/progress.ts';
import { stopMeans } from '../system/stop.ts';
import { lowercaseIn, vocabularyIn } from '../tokenizer/tokenizer-json.ts';
import { trainVocabulary } from '../tokenizer/train-vocabulary.ts';
import { loadWordPiece, type WordPiece } from '../tokenizer/wordpiece.ts';
import { bertFolder } from '../weights/sentence-encoder.ts';
import type { RunOptions } from './context.ts';
import { withEncoderHead } from './encoder-head.ts';
import { withHubModels } from './hub-models.ts';
import { checkInitial, vocabularyWarning } from './initial-weights.ts';
import { inputPath } from './inputs.ts';

/** Between two lines of progress for a stream, whose length is not known. */
const PROGRESS_MILLISECONDS = 10_000;

/** Paths of Z and X. Throws a `UserError` if one is missing. */
export function textInputs(run: Run, config: Config): { documents: string; sentences: string | undefined } {
  return {
    documents: inputPath(run, config, 'data.documents'),
    sentences: config.data.sentences === null ? undefined : inputPath(run, config, 'data.sentences'),
  };
}

/**
 * Opens the folder of a run to prepare, new or not, and saves its configuration once everything that it names was checked.
 * So a first call that fails leaves nothing behind that would refuse the corrected call.
 */
export async function openNewRun(
  options: Pick<RunOptions, 'run' | 'config' | 'set' | 'seed'>,
  lock: (run: Run) => void = (run) => void lockRun(run, 'prepare'),
): Promise<{ run: Run; config: Config }> {
  const run = runFolder(options.run);
  refuseOldRun(run);
  if (!existsSync(run.config) && options.config === undefined)
    throw new UserError(
      `${run.dir}: a new run needs settings; write a file for your documents with "realm init" and pass it with --config, ` +
        `or pass one that comes with realm: ${presets().join(', ')}`,
    );
  const given = settingsOf(options);
  const fetched = await withHubModels(run, given, (config) => void textInputs(run, config));
  const set = withEncoderHead(run, { ...given, set: fetched });
  const config = runConfig(run, { ...given, set }, (config) => {
    prepareInputs(run, config);
    lock(run);
  });
  return { run, config };
}

/** The files that preparation reads, each checked before any work is done. Throws a `UserError` for the first that is wrong. */
export function prepareInputs(
  run: Run,
  config: Config,
): { documents: string; sentences: string | undefined; ner: string | undefined } {
  const { text } = config;
  const { documents, sentences } = textInputs(run, config);
  const ner = text.ner === null ? undefined : inputPath(run, config, 'text.ner');
  if (ner !== undefined) readNerFolder(ner);
  checkInitial(config);
  if (namedWordPiece(config) === undefined && documents === '-' && !existsSync(ownVocabulary(run)))
    throw new UserError(
      '-: standard input can be read only once, and a vocabulary must be trained on it first; save the documents to a file, or pass a vocabulary with text.vocabulary',
    );
  return { documents, sentences, ner };
}

/** The vocabulary that exists before the run: the one named, or the initial encoder's. */
export function namedVocabulary({ text, model }: Config): string | undefined {
  if (text.vocabulary !== null) return text.vocabulary;
  return model.initial === null ? undefined : vocabularyIn(bertFolder(modelFolder(model.initial)));
}

/** The tokenizer of the vocabulary that exists before the run; where nothing beside that says how, it normalises as the encoder's. */
export function namedWordPiece(config: Config): WordPiece | undefined {
  const path = namedVocabulary(config);
  if (path === undefined) return undefined;
  const { text, model } = config;
  const other =
    text.vocabulary !== null && model.initial !== null && lowercaseIn(dirname(path)) === undefined;
  const encoders = other ? lowercaseIn(bertFolder(modelFolder(model.initial!))) : undefined;
  return loadWordPiece(path, text.lowercase ?? encoders ?? null);
}

/** The vocabulary that was trained for the run, and a note on what it was trained on. */
const ownVocabulary = (run: Run) => join(run.dir, 'vocab.txt');
const vocabularyOrigin = (run: Run) => join(run.dir, 'vocab.json');

export interface Prepared extends PrepareCounts {
  /** How many of `leftOutFiles` are of each kind, such as `.pdf`, the most frequent first. */
  leftOutKinds: Record<string, number>;
}

/** Raw text → vocabulary and prepared corpus in the run folder. */
export async function prepareCorpus(run: Run, config: Config): Promise<Prepared> {
  const { data, text } = config;
  const { documents, sentences, ner } = prepareInputs(run, config);
  const vocabulary = await vocabularyFile(run, config, documents);
  const before = corpusSummary(run.corpus);
  hearSignalsWhileComputing();
  stopMeans('the same command resumes from what was saved last, or starts again if nothing was saved');
  let said = performance.now();
  const bar = readingBar('prepare', [documents, ...(sentences === undefined ? [] : [sentences])]);
  const counts = await prepare({
    documents,
    format: data.format,
    fields: data.fields,
    articlesOnly: data.articlesOnly,
    splitting: text.splitting,
    sentences,
    ner,
    vocab: namedWordPiece(config) ?? loadWordPiece(vocabulary, text.lowercase ?? true),
    blockTokens: text.blockTokens,
    queryTokens: text.sentenceTokens,
    dir: run.corpus,
    onResume: (documents) => say(`prepare: resumes after ${documents} documents`),
    onProgress: ({ documents, blocks, sentences }) => {
      const done = `${documents} documents, ${blocks} blocks, ${sentences} sentences`;
      if (bar) return bar.at(done);
      const now = performance.now();
      if (now - said < PROGRESS_MILLISECONDS) return;
      said = now;
      say(`prepare: ${done}`);
    },
  });
  bar?.at(`${counts.documents} documents`, true);
  bar?.end();
  const kinds = counts.leftOutFiles > 0 ? leftOutFiles(documents) : new Map<string, number>();
  if (kinds.size > 0) say(`prepare: ${leftOutWords(kinds)}`);
  for (const line of summaryOf(counts, text.blockTokens)) say(line);
  if (counts.sentences === 0) warn(`prepare: ${NO_SPANS}`);
  if (namedVocabulary(config) !== undefined) {
    const corpus = openCorpus(run.corpus);
    const warning = vocabularyWarning(corpus);
    corpus.close();
    if (warning !== undefined) say(`prepare: ${warning}`);
  }
  const now = corpusSummary(run.corpus);
  if (before && now && before.sha256 !== now.sha256 && dependsOnCorpus(run))
    say(
      `prepare: the corpus of this run has changed: ${before.documents} documents before, ${now.documents} now; ` +
        'trained weights are kept, but the index must be built again, and an unfinished stage needs --resume none',
    );
  return { ...counts, leftOutKinds: Object.fromEntries(kinds) };
}

/** Whether the run has stages or indexes that were made with its corpus. */
function dependsOnCorpus(run: Run): boolean {
  return existsSync(run.index) || STAGES.some((stage) => existsSync(run.checkpoint(stage)));
}

/** The vocabulary named, or the initial encoder's own, or one trained on the documents. */
async function vocabularyFile(run: Run, config: Config, documents: string): Promise<string> {
  const { data, text } = config;
  const named = namedVocabulary(config);
  if (named !== undefined) return named;
  const path = ownVocabulary(run);
  const origin = JSON.stringify({
    documents,
    format: data.format,
    articlesOnly: data.articlesOnly,
    vocabularySize: text.vocabularySize,
    lowercase: text.lowercase ?? true,
  });
  // A prepared run keeps its vocabulary, even if documents are added. Before that, its settings may have been wrong.
  const before = originOf(run) ?? origin;
  const isKept = before === origin || existsSync(run.corpusManifest) || documents === '-';
  if (existsSync(path) && isKept) return path;
  stopMeans('no vocabulary was saved, and the same command starts again');
  say(`vocabulary: training ${text.vocabularySize} word pieces on ${data.documents}`);
  const reading = readingBar('vocabulary', [documents]);
  let texts = 0;
  async function* counted() {
    for await (const { title, text } of readDocuments(documents, data.format, data.fields)) {
      if (!data.articlesOnly || isArticle(title)) yield `${title} ${text}`;
      if (++texts % UPDATE_DOCUMENTS === 0) reading?.at(`${texts} documents`);
    }
    reading?.at(`${texts} documents`, true);
    reading?.end();
  }
  hearSignalsWhileComputing();
  let bar: Progress | undefined; // starts when all words are counted
  const pieces = await trainVocabulary(counted(), text.vocabularySize, text.lowercase ?? true, (n) => {
    bar ??= progress('word pieces', text.vocabularySize, { from: n, unit: 'pieces' });
    bar.at(n);
  });
  bar?.end();
  const all = pieces.length < text.vocabularySize ? ' (the text has no more)' : '';
  say(`vocabulary: ${pieces.length.toLocaleString('en')} word pieces${all}`);
  writeFileAtomic(path, `${pieces.join('\n')}\n`);
  writeFileAtomic(vocabularyOrigin(run), `${origin}\n`);
  return path;
}

/** What the run's own vocabulary was trained on; undefined if that is not known. */
function originOf(run: Run): string | undefined {
  const path = vocabularyOrigin(run);
  if (!existsSync(path)) return undefined;
  return readText(path, 'note on the vocabulary', `remove ${path} and ${ownVocabulary(run)}`).trim();
}

/** Documents between two updates of the progress. */
const UPDATE_DOCUMENTS = 64;

/** Progress by the bytes read of all `paths`; undefined if their size is not known. */
function readingBar(name: string, paths: readonly string[]) {
  const sizes = paths.map(sizeOf);
  if (sizes.includes(undefined)) return undefined;
  const total = sizes.reduce<number>((sum, bytes) => sum + bytes!, 0);
  const before = bytesRead();
  const bar = progress(name, total, { unit: 'bytes' });
  return {
    at: (remark: string, all = false) =>
      bar.at(all ? total : Math.min(bytesRead() - before, total - 1), remark),
    end: () => bar.end(),
  };
}

/** Bytes of a file, or of all files in a folder; undefined for standard input and for files that are not read in order. */
function sizeOf(path: string): number | undefined {
  if (path === '-' || path.endsWith('.npy')) return undefined;
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found?.isDirectory()) return found?.size;
  let bytes = 0;
  for (const name of readdirSync(path, { recursive: true, encoding: 'utf8' })) {
    const file = statSync(join(path, name), { throwIfNoEntry: false });
    if (file?.isFile()) bytes += file.size;
  }
  return bytes;
}

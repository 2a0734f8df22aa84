import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Config } from '../config.ts';
import type { PrepareCounts } from '../corpus/counts.ts';
import { isArticle, readDocuments } from '../corpus/documents.ts';
import { readNerFolder } from '../corpus/ner-folder.ts';
import { prepare } from '../corpus/prepare.ts';
import { UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { say } from '../progress.ts';
import type { Run } from '../run.ts';
import { trainVocabulary } from '../tokenizer/train-vocabulary.ts';
import { loadWordPiece } from '../tokenizer/wordpiece.ts';

/** Path of Z; a `UserError` where none is named or the file is not there. */
export function documentsFile(run: Run, { data }: Config): string {
  if (data.documents === null) {
    throw new UserError(
      `${run.config}: data.documents names no file; give the file or folder of your documents with --set data.documents=FILE`,
    );
  }
  if (data.documents === '-') return data.documents;
  const path = resolve(data.documents);
  if (!existsSync(path))
    throw new UserError(
      `${path}: no such file; give the file or folder of your documents with --set data.documents=FILE`,
    );
  return path;
}

/** Milliseconds between two lines of progress: how much is to come is not known of a stream. */
const SAY_EVERY = 10_000;

/** Raw text → vocabulary and prepared corpus in the run folder. */
export async function prepareCorpus(run: Run, config: Config): Promise<PrepareCounts> {
  const { data, text } = config;
  const documents = documentsFile(run, config);
  const ner = text.ner === null ? undefined : resolve(text.ner);
  if (ner !== undefined) readNerFolder(ner); // what is wrong with it is told before a vocabulary is trained
  const vocabulary = await vocabularyFile(run, config, documents);
  let said = performance.now();
  const counts = await prepare({
    documents,
    format: data.format,
    articlesOnly: data.articlesOnly,
    packing: text.packing,
    sentences: data.sentences === null ? undefined : resolve(data.sentences),
    ner,
    vocab: loadWordPiece(vocabulary, text.lowercase),
    blockTokens: text.blockTokens,
    queryTokens: text.sentenceTokens,
    dir: run.corpus,
    onResume: (documents) => say(`prepare: goes on after ${documents} documents`),
    onProgress: ({ documents, blocks, sentences }) => {
      const now = performance.now();
      if (now - said < SAY_EVERY) return;
      said = now;
      say(`prepare: ${documents} documents, ${blocks} blocks, ${sentences} sentences`);
    },
  });
  return counts;
}

/** The vocabulary named, or the initial encoder's own, or one trained on the documents. */
async function vocabularyFile(run: Run, { data, text, model }: Config, documents: string): Promise<string> {
  if (text.vocabulary !== null) return resolve(text.vocabulary);
  if (model.initial !== null) return join(resolve(model.initial), 'vocab.txt');
  const path = join(run.dir, 'vocab.txt');
  if (existsSync(path)) return path;
  if (documents === '-') {
    throw new UserError(
      '-: standard input can be read once only, and a vocabulary is to be trained on it first; save it to a file, or name one with text.vocabulary',
    );
  }
  say(`vocabulary: training ${text.vocabularySize} word pieces on ${data.documents}`);
  async function* texts() {
    for await (const { title, text } of readDocuments(documents, data.format)) {
      if (!data.articlesOnly || isArticle(title)) yield `${title} ${text}`;
    }
  }
  writeFileAtomic(
    path,
    `${(await trainVocabulary(texts(), text.vocabularySize, text.lowercase)).join('\n')}\n`,
  );
  return path;
}

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../system/errors.ts';
import type { Document } from '../types.ts';
import { readJsonlDocuments } from './documents-jsonl.ts';
import type { Fields } from './fields.ts';

const CORPUS = ['corpus.jsonl', 'corpus.jsonl.gz', 'corpus.jsonl.zst', 'corpus.jsonl.bz2'];

/** The file of documents in a folder of BEIR or MTEB; undefined if there is none. */
export function beirCorpus(folder: string): string | undefined {
  return CORPUS.map((name) => join(folder, name)).find((path) => existsSync(path));
}

/**
 * The documents of a folder of BEIR or MTEB: `corpus.jsonl` with `{"_id", "title", "text"}`, beside `queries.jsonl` and
 * `qrels/*.tsv` (beir-cellar/beir, README.md; embeddings-benchmark/mteb). See `readQueries` and `readQrels` for the others.
 */
export async function* readBeirDocuments(folder: string, fields: Fields): AsyncGenerator<Document> {
  const corpus = beirCorpus(folder);
  if (corpus === undefined)
    throw new UserError(`${folder}: holds no ${CORPUS[0]}; give the folder of a data set of BEIR or MTEB`);
  yield* readJsonlDocuments(corpus, fields);
}

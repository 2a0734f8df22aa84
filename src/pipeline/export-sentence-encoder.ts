import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../system/errors.ts';
import { needWritable, writeFolderAtomic } from '../system/files.ts';
import { exportSentenceEncoder, isExportedSentenceEncoder } from '../weights/export-sentence-encoder.ts';
import { type Context, runCorpus } from './context.ts';
import type { ExportedPart } from './export.ts';
import { disposeRetriever, type RetrieverModels, retrieverModels } from './fine-tuned.ts';

/**
 * Writes a run's newest retriever for sentence-transformers: one folder if queries and documents share a tower, else a folder
 * `query` and a folder `document`. Fine-tuning trains the query tower alone, so that a fine-tuned run has two. Two folders,
 * and no Router, which versions before 5 do not have and which cannot be `model.initial`.
 */
export async function exportSentenceTransformers(context: Context, to: string): Promise<ExportedPart[]> {
  if (
    existsSync(to) &&
    readdirSync(to).length > 0 &&
    ![to, join(to, 'query')].some(isExportedSentenceEncoder)
  ) {
    throw new UserError(`${to}: has other files; choose an empty or new folder with --to`);
  }
  needWritable(join(to, 'modules.json'));
  const corpus = runCorpus(context);
  let models: RetrieverModels | undefined;
  try {
    models = await retrieverModels(context, corpus);
    const { query, document } = models;
    const shared = query === document && query.queryTower === query.documentTower;
    const towers = shared
      ? [{ name: '', model: query, tower: query.queryTower }]
      : [
          { name: 'query', model: query, tower: query.queryTower },
          { name: 'document', model: document, tower: document.documentTower },
        ];
    return await writeFolderAtomic(to, async (aside) => {
      for (const { name, model, tower } of towers)
        await exportSentenceEncoder(join(aside, name), model, tower, corpus.tokenizer);
      return towers.map(({ name }) => ({ folder: join(to, name), loadedBy: 'SentenceTransformer' }));
    });
  } finally {
    if (models) disposeRetriever(models);
    corpus.close();
  }
}

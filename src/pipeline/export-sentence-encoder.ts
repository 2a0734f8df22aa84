import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import { UserError } from '../system/errors.ts';
import { needWritable, writeFolderAtomic } from '../system/files.ts';
import { exportSentenceEncoder, isExportedSentenceEncoder } from '../weights/export-sentence-encoder.ts';
import { newestRetriever } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import type { ExportedPart } from './export.ts';
import { fineTunedModels } from './fine-tuned.ts';

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
  const models: Model[] = [];
  try {
    let query: Model;
    let document: Model;
    if (hasWeights(context, 'finetune-qa')) {
      ({ model: query, embedder: document } = await fineTunedModels(context, corpus));
      models.push(query, document);
    } else {
      query = emptyModel(context, corpus);
      document = query;
      models.push(query);
      await stageWeights(context, newestRetriever(context), corpus, query, retrieverShapes(query));
    }
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
    for (const model of new Set(models)) disposeModel(model);
    corpus.close();
  }
}

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isPooler, projectionOf } from '../model/head.ts';
import { disposeModel, pretrainedShapes, retrieverShapes } from '../model/model.ts';
import { UserError } from '../system/errors.ts';
import { needWritable, writeFolderAtomic } from '../system/files.ts';
import { say } from '../system/progress.ts';
import {
  exportEmbedder,
  exportEncoder,
  exportOpenQa,
  exportReader,
  exportScorer,
} from '../weights/export-realm.ts';
import { newestRetriever } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { fineTuned } from './fine-tuned.ts';

/** A folder that was written, and the class of transformers that loads it. */
export interface ExportedPart {
  folder: string;
  loadedBy: string;
}

/** A `UserError` for a sentence encoder's head: REALM's classes would load the weights and compute other vectors. */
function needRealmHead({ run, config: { model } }: Context): void {
  const { pooling, dense, normalize } = model;
  const others = [
    ...(isPooler(pooling) ? [] : [`model.pooling ${pooling}`]),
    ...(projectionOf(model) === 'none' ? ['model.projection none'] : []),
    ...(dense?.length ? ['model.dense'] : []),
    ...(normalize ? ['model.normalize true'] : []),
  ];
  if (others.length === 0) return;
  throw new UserError(
    `${run.config}: this run has ${others.join(', ')}, which Hugging Face's REALM classes do not have; ` +
      'export it with --format sentence-transformers',
  );
}

/**
 * Writes a run's weights as folders that Hugging Face's REALM classes load: `embedder` and `scorer` from the newest
 * retriever, `encoder` from pretraining, `reader` and `openqa` (which answers from the corpus) from fine-tuning.
 */
export async function exportRealm(context: Context, to: string): Promise<ExportedPart[]> {
  if (existsSync(to) && readdirSync(to).length > 0 && !existsSync(join(to, 'embedder', 'config.json'))) {
    throw new UserError(`${to}: has other files; choose an empty or new folder with --to`);
  }
  needRealmHead(context);
  needWritable(join(to, 'embedder'));
  const corpus = runCorpus(context);
  const run = { vocab: corpus.tokenizer, config: context.config };
  const model = emptyModel(context, corpus);
  const pretrained = hasWeights(context, 'pretrain');
  await stageWeights(context, newestRetriever(context), corpus, model, retrieverShapes(model));
  if (pretrained) {
    const reader = pretrainedShapes(model).filter(({ name }) => name.startsWith(model.readerTower));
    await stageWeights(context, 'pretrain', corpus, model, reader);
  }
  const { layerNormEps, projectionLayerNormEps } = model.embedder;
  if (layerNormEps !== projectionLayerNormEps) {
    say(
      `export: transformers normalises the projection with the encoder's epsilon, ${layerNormEps}; this run has ` +
        `model.projectionLayerNormEps ${projectionLayerNormEps}, so vectors computed there differ from ours; give both the same value in a run that will be exported`,
    );
  }
  const { queryTower, documentTower } = model;
  return writeFolderAtomic(to, async (aside) => {
    const parts: ExportedPart[] = [];
    const part = async (name: string, loadedBy: string, write: (folder: string) => Promise<void>) => {
      await write(join(aside, name));
      parts.push({ folder: join(to, name), loadedBy });
    };
    await part('embedder', 'RealmEmbedder', (f) => exportEmbedder(f, model, documentTower, run));
    if (queryTower !== documentTower) {
      await part('query-embedder', 'RealmEmbedder', (f) => exportEmbedder(f, model, queryTower, run));
    }
    await part('scorer', 'RealmScorer', (f) => exportScorer(f, model, run));
    if (pretrained) {
      await part('encoder', 'RealmKnowledgeAugEncoder', (f) => exportEncoder(f, model, run));
    }
    disposeModel(model);
    if (hasWeights(context, 'finetune-qa')) {
      const { model, index } = await fineTuned(context, corpus);
      const rows = (from: number, to: number) => Int32Array.from({ length: to - from }, (_, i) => from + i);
      const blocks = {
        count: corpus.blocks,
        text: corpus.text,
        vectors: (from: number, to: number) => index.vectors(rows(from, to)),
      };
      await part('reader', 'RealmReader', (f) => exportReader(f, model, run));
      await part('openqa', 'RealmForOpenQA, RealmRetriever', (f) => exportOpenQa(f, model, run, blocks));
      index.close();
      disposeModel(model);
    }
    corpus.close();
    return parts;
  });
}

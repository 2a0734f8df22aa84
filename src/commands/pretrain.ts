import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { type Model, pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { drawMasked, pretrainStep, queryVectors } from '../train/pretrain.ts';
import { stepRandom } from '../train/sampler.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus, stageWeights } from './context.ts';
import { firstIndex, liveRefresh, PROBES } from './live-refresh.ts';

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds and indexes everything anew; the trainer takes the new index up between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<LoopResult> {
  const { config } = context;
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const shapes = pretrainedShapes(model);
  firstWeights(context, model, readerTowerShapes(model));
  stageWeights(context, 'ict', corpus, model, retrieverShapes(model));
  const index = await firstIndex(context, 'pretrain', 'ict', model, corpus);
  const stage = pretrainStep(model, corpus, index, config);
  const refresh = liveRefresh(context, model, corpus, index, {
    stage: 'pretrain',
    steps: config.pretrain.steps,
    every: config.refresh.every,
    probes: () => probeVectors(model, corpus, config),
  });
  try {
    return await train({
      name: 'pretrain',
      model,
      shapes,
      ...loopSettings(context, 'pretrain', corpus),
      step: stage.step,
      ...refresh.hooks,
    });
  } finally {
    await refresh.stop();
    stage.dispose();
    index.close();
    corpus.close();
  }
}

/** Vectors of the same `PROBES` masked sentences every time, by the weights of now. */
async function probeVectors(model: Model, corpus: Corpus, config: Config): Promise<Float32Array> {
  const n = Math.min(PROBES, corpus.sentences.count);
  const examples = drawMasked(corpus, config, 0, n, stepRandom(config.seed, -4));
  return queryVectors(model, corpus, examples, config);
}

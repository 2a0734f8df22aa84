import { alone, firstBeforeOthers, onFirst } from '../engine/ranks.ts';
import { maskedProbes } from '../eval/probes.ts';
import { modelShapes, pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { say } from '../system/progress.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { pretrainStep } from '../train/pretrain.ts';
import { hybridBm25 } from './bm25.ts';
import { retrieverBeforePretraining } from './build-index.ts';
import {
  type Context,
  emptyModel,
  finished,
  giveWeights,
  loopSettings,
  needSentences,
  runCorpus,
  stageWeights,
} from './context.ts';
import { devEvaluation, devQuestions, recallQuestions } from './dev-evaluation.ts';
import { firstReader } from './first-reader.ts';
import { firstIndex, liveRefresh } from './live-refresh.ts';
import { warmedUpReader } from './reader-warmup.ts';

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds all documents again and builds a new index. The trainer swaps it in between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<LoopResult> {
  const { config, ranks = alone } = context;
  if (config.pretrain.steps === 0) {
    say('pretrain: pretrain.steps is 0; nothing to do');
    return { metrics: {}, seconds: 0, stopped: false, step: 0 };
  }
  const corpus = runCorpus(context);
  const done = await finished(context, 'pretrain', corpus);
  if (done) {
    corpus.close();
    return done;
  }
  needSentences(context, corpus);
  const dev = ranks.rank === 0 ? await devQuestions(context, 'pretrain') : [];
  const questions = recallQuestions(corpus, dev);
  const model = emptyModel(context, corpus);
  const shapes = pretrainedShapes(model);
  const before = await onFirst(ranks, () => retrieverBeforePretraining(context));
  await giveWeights(context, model, modelShapes(model), async () => {
    firstReader(context, model, corpus, readerTowerShapes(model));
    await warmedUpReader(context, corpus, model);
    await stageWeights(context, before, corpus, model, retrieverShapes(model));
  });
  const index = await firstIndex(context, 'pretrain', before, model, corpus);
  const bm25 = config.pretrain.hybrid
    ? await firstBeforeOthers(ranks, () => hybridBm25(context, corpus))
    : undefined;
  const stage = pretrainStep(model, corpus, index, config, bm25, ranks);
  const refresh = liveRefresh(context, model, corpus, index, {
    stage: 'pretrain',
    steps: config.pretrain.steps,
    every: config.refresh.every,
    probes: maskedProbes(model, corpus, config),
    dev: questions,
  });
  try {
    return await train({
      name: 'pretrain',
      model,
      shapes,
      ...loopSettings(context, 'pretrain', corpus),
      step: stage.step,
      evaluation: devEvaluation(context, { stage: 'pretrain', model, corpus, questions }),
      ...refresh.hooks,
    });
  } finally {
    await refresh.stop();
    stage.dispose();
    bm25?.close();
    index.close();
    corpus.close();
  }
}

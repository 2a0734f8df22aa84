import type { Corpus } from '../corpus/store/reader.ts';
import type { Model } from '../model/model.ts';
import { say } from '../system/progress.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { readerWarmupShapes, readerWarmupStep } from '../train/reader-warmup.ts';
import {
  type Context,
  emptyModel,
  finished,
  giveWeights,
  hasWeights,
  loopSettings,
  needSentences,
  runCorpus,
  stageWeights,
} from './context.ts';
import { firstReader } from './first-reader.ts';

/** Trains the reader to copy a masked salient span from a document that holds it, before pretraining. */
export async function readerWarmup(context: Context): Promise<LoopResult> {
  const { config, ranks } = context;
  if (config.readerWarmup.steps === 0) {
    say('reader-warmup: readerWarmup.steps is 0; nothing to do');
    return { metrics: {}, seconds: 0, stopped: false, step: 0 };
  }
  const corpus = runCorpus(context);
  const done = await finished(context, 'reader-warmup', corpus);
  if (done) {
    corpus.close();
    return done;
  }
  needSentences(context, corpus);
  const model = emptyModel(context, corpus);
  const shapes = readerWarmupShapes(model);
  await giveWeights(context, model, shapes, () => firstReader(context, model, corpus, shapes));
  const stage = readerWarmupStep(model, corpus, config, ranks);
  try {
    return await train({
      name: 'reader-warmup',
      model,
      shapes,
      ...loopSettings(context, 'reader-warmup', corpus),
      step: stage.step,
    });
  } finally {
    stage.dispose();
    corpus.close();
  }
}

/** Gives the model the reader of the warm-up, if the run has one. @returns whether it has */
export async function warmedUpReader(context: Context, corpus: Corpus, model: Model): Promise<boolean> {
  if (!hasWeights(context, 'reader-warmup')) return false;
  await stageWeights(context, 'reader-warmup', corpus, model, readerWarmupShapes(model));
  return true;
}

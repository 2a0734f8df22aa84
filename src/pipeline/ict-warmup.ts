import { alone } from '../engine/ranks.ts';
import { retrieverShapes } from '../model/model.ts';
import { say } from '../system/progress.ts';
import { ictStep } from '../train/ict.ts';
import { type LoopResult, train } from '../train/loop.ts';
import {
  type Context,
  emptyModel,
  finished,
  firstRetriever,
  giveWeights,
  loopSettings,
  runCorpus,
} from './context.ts';
import { devEvaluation, devQuestions, recallQuestions } from './dev-evaluation.ts';

/** Trains the retriever to find the block that a sentence was taken from. */
export async function ictWarmup(context: Context): Promise<LoopResult> {
  const { config, ranks = alone } = context;
  if (config.ict.steps === 0) {
    say('ict-warmup: ict.steps is 0; nothing to do');
    return { metrics: {}, seconds: 0, stopped: false, step: 0 };
  }
  const corpus = runCorpus(context);
  const done = await finished(context, 'ict-warmup', corpus);
  if (done) {
    corpus.close();
    return done;
  }
  const dev = ranks.rank === 0 ? await devQuestions(context, 'ict-warmup') : [];
  const questions = recallQuestions(corpus, dev);
  const model = emptyModel(context, corpus);
  const shapes = retrieverShapes(model);
  await giveWeights(context, model, shapes, () => firstRetriever(context, model, corpus, shapes));
  const stage = ictStep(model, corpus, config, ranks);
  try {
    return await train({
      name: 'ict-warmup',
      model,
      shapes,
      ...loopSettings(context, 'ict-warmup', corpus),
      step: stage.step,
      evaluation: devEvaluation(context, { stage: 'ict-warmup', model, corpus, questions }),
    });
  } finally {
    stage.dispose();
    corpus.close();
  }
}

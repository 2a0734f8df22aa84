import { NO_SPANS } from '../corpus/counts.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { maskedProbes, RECALL_QUESTIONS } from '../eval/probes.ts';
import { pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../model/questions.ts';
import { UserError } from '../system/errors.ts';
import { warn } from '../system/progress.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { pretrainStep } from '../train/pretrain.ts';
import { retrieverBeforePretraining } from './build-index.ts';
import {
  type Context,
  emptyModel,
  finished,
  firstWeights,
  loopSettings,
  runCorpus,
  stageWeights,
} from './context.ts';
import { firstIndex, liveRefresh } from './live-refresh.ts';
import { readDevQuestions, spread } from './questions.ts';

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds all documents again and builds a new index. The trainer swaps it in between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<LoopResult> {
  const { config } = context;
  const corpus = runCorpus(context);
  const done = finished(context, 'pretrain', corpus);
  if (done) {
    corpus.close();
    return done;
  }
  if (corpus.sentences.count === 0) {
    corpus.close();
    throw new UserError(`${context.run.corpus}: ${NO_SPANS}, and prepare again`);
  }
  const model = emptyModel(context, corpus);
  const shapes = pretrainedShapes(model);
  firstWeights(context, model, readerTowerShapes(model));
  const before = retrieverBeforePretraining(context);
  stageWeights(context, before, corpus, model, retrieverShapes(model));
  const index = await firstIndex(context, 'pretrain', before, model, corpus);
  const stage = pretrainStep(model, corpus, index, config);
  const refresh = liveRefresh(context, model, corpus, index, {
    stage: 'pretrain',
    steps: config.pretrain.steps,
    every: config.refresh.every,
    probes: maskedProbes(model, corpus, config),
    dev: await recallQuestions(context, corpus),
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

/** Pretraining needs no questions, so it does not fail if their file cannot be read. */
async function recallQuestions(context: Context, corpus: Corpus): Promise<EncodedQuestion[]> {
  try {
    return encodeQuestions(corpus, spread(await readDevQuestions(context), RECALL_QUESTIONS));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    warn(`pretrain: recall is not logged, because data.dev cannot be read: ${error.message}`);
    return [];
  }
}

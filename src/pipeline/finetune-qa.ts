import type { Corpus } from '../corpus/store/reader.ts';
import { alone, firstBeforeOthers, onFirst } from '../engine/ranks.ts';
import { evaluateAnswers } from '../eval/evaluate.ts';
import { questionProbes } from '../eval/probes.ts';
import {
  type Model,
  modelShapes,
  pretrainedShapes,
  readerTowerShapes,
  retrieverShapes,
} from '../model/model.ts';
import { encodeQuestions } from '../model/questions.ts';
import type { RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { say, warn } from '../system/progress.ts';
import { latestState } from '../train/checkpoints.ts';
import { qaRateFactor, qaShapes, qaStep } from '../train/finetune-qa.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { rankByBoth } from '../train/qa-candidates.ts';
import { runBm25 } from './bm25.ts';
import { buildRunIndex, matchingRunIndex, retrieverBeforeQa } from './build-index.ts';
import {
  type Context,
  emptyModel,
  finished,
  firstWeights,
  giveWeights,
  hasWeights,
  loopSettings,
  runCorpus,
  stageWeights,
} from './context.ts';
import { devEvaluation, devQuestions, recallQuestions } from './dev-evaluation.ts';
import { firstIndex, liveRefresh } from './live-refresh.ts';
import { encodeAll, readTrainQuestions, spread } from './questions.ts';
import { warmedUpReader } from './reader-warmup.ts';

/**
 * Fine-tunes the pretrained model to answer questions with spans of retrieved blocks. With `qa.refreshEvery` the document
 * tower is trained too, and the index is refreshed as in pretraining; at the end it is rebuilt from the last weights.
 */
export async function finetuneQa(context: Context): Promise<LoopResult> {
  const { config, ranks = alone } = context;
  if (ranks.rank === 0) sameDocumentTower(context);
  // Read before anything is embedded, so that errors in a file are found first.
  const trainQuestions = await readTrainQuestions(context);
  const every = config.qa.refreshEvery;
  const allDev = ranks.rank === 0 ? await devQuestions(context, 'finetune-qa') : [];
  const corpus = runCorpus(context);
  const done = await finished(context, 'finetune-qa', corpus);
  if (done) {
    corpus.close();
    // A kill may have come after the last step, before the index of its weights was built.
    if (every !== null && ranks.rank === 0) await matchingRunIndex(context, 'finetune-qa');
    return done;
  }
  const model = emptyModel(context, corpus);
  const stage = await onFirst(ranks, () => retrieverBeforeQa(context));
  await giveWeights(context, model, modelShapes(model), () => weightsBefore(context, stage, corpus, model));
  const index = await firstIndex(context, 'finetune-qa', stage, model, corpus);
  const questions = encodeAll(corpus, trainQuestions, config);
  const dev = encodeQuestions(corpus, spread(allDev, config.qa.devQuestions));
  const { hardNegatives, contrastive } = config.qa;
  const byWords = hardNegatives > 0 || contrastive > 0 || config.hybrid.weight !== null;
  const bm25 = byWords ? await firstBeforeOthers(ranks, () => runBm25(context, corpus)) : undefined;
  const recall = recallQuestions(corpus, allDev);
  const exactMatchAt = async (step: number) => {
    const { exactMatch } = await evaluateAnswers({ model, corpus, index, bm25, config }, dev, [1]);
    say(
      `finetune-qa: step ${step}: exact match on ${dev.length} dev question${dev.length === 1 ? '' : 's'} ${(100 * exactMatch).toFixed(1)} %`,
    );
    return exactMatch;
  };
  const { weight } = config.hybrid;
  const most = Math.min(config.qa.retrieverBlocks, corpus.blocks);
  const search = {
    words: bm25,
    ranks,
    ...(bm25 && weight !== null
      ? { rank: rankByBoth({ index, bm25 }, weight, most, config.qa.readerBlocks) }
      : {}),
  };
  const steps = qaStep(model, corpus, index, questions, config, search);
  const refresh =
    every === null
      ? undefined
      : liveRefresh(context, model, corpus, index, {
          stage: 'finetune-qa',
          steps: config.qa.steps,
          every,
          probes: questionProbes(model, corpus, questions, config),
          dev: recall,
        });
  const settings = loopSettings(context, 'finetune-qa', corpus);
  let result: LoopResult;
  try {
    result = await train({
      name: 'finetune-qa',
      model,
      shapes: qaShapes(model, refresh !== undefined),
      ...settings,
      origin: { ...settings.origin, retriever: stage },
      rateFactor: qaRateFactor(model, config.qa),
      step: steps.step,
      watch: steps.watch,
      ...refresh?.hooks,
      evaluation: devEvaluation(context, {
        stage: 'finetune-qa',
        model,
        corpus,
        questions: recall,
        ...(refresh ? {} : { frozen: index }),
        ...(dev.length > 0 ? { exactMatch: exactMatchAt } : {}),
      }),
    });
  } finally {
    await refresh?.stop();
    steps.dispose();
    bm25?.close();
    index.close();
    corpus.close();
  }
  if (refresh && !result.stopped && ranks.rank === 0) await buildRunIndex(context, 'finetune-qa');
  return result;
}

/** The weights that fine-tuning starts from: the retriever of `stage`, and the reader of pretraining or of its warm-up. */
async function weightsBefore(
  context: Context,
  stage: RetrieverSource,
  corpus: Corpus,
  model: Model,
): Promise<void> {
  const { qa, pretrain } = context.config;
  await stageWeights(context, stage, corpus, model, retrieverShapes(model));
  firstWeights(context, model, readerTowerShapes(model));
  if (!hasWeights(context, 'pretrain')) {
    const warmedUp = qa.reader === 'pretrain' && (await warmedUpReader(context, corpus, model));
    const tell = pretrain.steps === 0 ? say : warn; // without steps it was left out on purpose
    if (qa.retriever === 'pretrain' || qa.reader === 'pretrain')
      tell(
        `finetune-qa: this run has not been pretrained; the retriever is ${stage === 'initial' ? 'the encoder as it was published' : 'from the inverse cloze task'}, and the reader ${warmedUp ? 'is that of reader-warmup' : 'starts without pretraining'}`,
      );
  } else if (qa.reader === 'pretrain') {
    // All but the span scorer, which is new in this stage.
    const reader = pretrainedShapes(model).filter(({ name }) => name.startsWith(model.readerTower));
    await stageWeights(context, 'pretrain', corpus, model, reader);
  }
}

/** A stage started with a frozen document tower searches vectors of another stage, so it cannot resume with a trained one, and the other way round. */
function sameDocumentTower({ run, config }: Context): void {
  const root = run.checkpoint('finetune-qa');
  const state = latestState(root);
  const trains = config.qa.refreshEvery !== null;
  if (!state || (state.index !== null) === trains) return;
  throw new UserError(
    `${root}: was started ${trains ? 'without qa.refreshEvery, with a frozen document tower' : 'with qa.refreshEvery, which trains the document tower'}; ` +
      `${trains ? 'leave qa.refreshEvery null' : 'set it again'}, or restart with --resume none`,
  );
}

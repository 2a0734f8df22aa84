import { resolve } from 'node:path';
import { readQuestions } from '../corpus/qa.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import {
  bm25Recall,
  type Evaluation,
  evaluateAnswers,
  evaluateRecall,
  type Recall,
} from '../eval/evaluate.ts';
import { writeFileAtomic } from '../files.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { type EncodedQuestion, encodeQuestions, qaShapes } from '../train/qa.ts';
import { matchingIndex, newestRetriever, type RetrieverStage } from './build-index.ts';
import { type Context, emptyModel, runCorpus, stageWeights } from './context.ts';

/** Ranks at which retrieval is measured. */
const KS = [1, 5, 20];

/** Exact match of the fine-tuned model; writes the run's predictions. */
export async function evalExactMatch(
  context: Context,
  file?: string,
): Promise<Omit<Evaluation, 'predictions'>> {
  const { run } = context;
  const corpus = runCorpus(context);
  const { model, index } = await fineTuned(context, corpus);
  try {
    const { predictions, ...figures } = await evaluateAnswers(
      model,
      corpus,
      index,
      await questionsOf(context, corpus, file),
      context.config,
      KS,
    );
    writeFileAtomic(run.predictions, predictions.map((p) => `${JSON.stringify(p)}\n`).join(''));
    return figures;
  } finally {
    index.close();
    corpus.close();
  }
}

/** Recall of a stage's retriever, before any fine-tuning on questions. */
export async function evalRecall(
  context: Context,
  stage: RetrieverStage,
  file?: string,
): Promise<{ stage: string; questions: number; recall: Recall; bm25: Recall | undefined }> {
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  stageWeights(context, stage, corpus, model, retrieverShapes(model));
  const index = await matchingIndex(context, stage, model, corpus);
  try {
    const questions = await questionsOf(context, corpus, file);
    return {
      stage,
      questions: questions.length,
      recall: await evaluateRecall(model, corpus, index, questions, context.config, KS),
      bm25: bm25Recall(corpus, questions, KS),
    };
  } finally {
    index.close();
    corpus.close();
  }
}

/**
 * The fine-tuned model with the index of its own document tower, where that was trained, else with the one that it was
 * tuned on: that of the newest retriever, also where another index has become the run's current one since (`eval recall
 * --stage ict` makes its own).
 */
export async function fineTuned(
  context: Context,
  corpus: Corpus,
): Promise<{ model: Model; index: SearchIndex }> {
  const model = emptyModel(context, corpus);
  const stage = newestRetriever(context);
  stageWeights(context, 'qa', corpus, model, qaShapes(model, stage === 'qa'));
  if (stage === 'qa') return { model, index: await matchingIndex(context, stage, model, corpus) };
  const retriever = emptyModel(context, corpus);
  stageWeights(context, stage, corpus, retriever, retrieverShapes(retriever));
  const index = await matchingIndex(context, stage, retriever, corpus);
  disposeModel(retriever);
  return { model, index };
}

export async function questionsOf(
  { run, config }: Context,
  corpus: Corpus,
  file?: string,
): Promise<EncodedQuestion[]> {
  const path = file ?? config.data.test ?? config.data.dev;
  if (path === null)
    throw new UserError(
      `${run.config}: data.test names no file; give the JSONL of the questions with --questions FILE`,
    );
  return encodeQuestions(corpus, await readQuestions(resolve(path), config.data.answers));
}

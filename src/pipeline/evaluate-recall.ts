import { resolve } from 'node:path';
import { protocolFor } from '../answers/default-protocol.ts';
import type { Protocol } from '../answers/metrics.ts';
import { type Corpus, openCorpus } from '../corpus/store/reader.ts';
import { unpackedName } from '../datasets/bytes.ts';
import { readQuestions } from '../datasets/questions.ts';
import { firstWithAnswer, freshRanks, type Recall, recallOf } from '../eval/evaluate.ts';
import { type RetrieverRanks, retrieverRanks } from '../eval/hybrid.ts';
import {
  type Differences,
  type MetricValues,
  rankingMetrics,
  recallDifferences,
} from '../eval/metric-table.ts';
import { dprRanks, readTrecRun } from '../eval/rankings.ts';
import { mean } from '../eval/statistics.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { runFolder } from '../run/folder.ts';
import type { RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { runBm25 } from './bm25.ts';
import { matchingIndex, retrieverBeforePretraining } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { type EvalOptions, KS, needOutput, record, SEED, withRankings } from './evaluation.ts';
import { fineTuned } from './fine-tuned.ts';
import { inputPath } from './inputs.ts';
import { encodeAll, questionFile } from './questions.ts';

/** The inverse cloze task's retriever embeds this many blocks at most to be a baseline of another stage's. */
const ICT_LIMIT = 10_000;

/** How often a block with an answer is among the first k, for several k. */
export interface RecallEvaluation {
  stage?: string;
  file: string;
  questions: number;
  protocol: Protocol;
  recall: Recall;
  figures: MetricValues;
}

/** The same for a stage's retriever, beside others on the same blocks. */
export interface RetrieverEvaluation extends RecallEvaluation {
  stage: string;
  bm25: Recall;
  /** Recall of both together, at `hybridWeight`: that of the settings, or 0.5 where they have none. */
  hybrid: Recall;
  hybridWeight: number;
  baselines: Record<string, MetricValues>;
  /** How much `hybrid` finds more than each. */
  differences: { dense: Differences; bm25: Differences };
  /** With `fitHybrid`: recall at each weight, of which `hybridWeight` is the best. */
  fit?: { weight: number; recall: Recall; mrr: number }[];
}

/** What `eval recall` can be asked for. */
export interface RecallOptions extends EvalOptions {
  /** Find the best `hybrid.weight` on the questions, by the mean reciprocal rank. */
  fitHybrid?: boolean;
}

/** Where the settings have no `hybrid.weight`: the best on SQuAD with a sentence encoder (docs/encoders.md). */
export const DEFAULT_WEIGHT = 0.5;

/** Weights that a fit tries: 0, BM25 alone, to 1, the inner product alone. */
const WEIGHTS = Array.from({ length: 21 }, (_, i) => i / 20);

/**
 * Recall of a stage's retriever, before any fine-tuning on questions, beside that of others on the same blocks.
 * @param wanted the stage; undefined: pretraining, else the inverse cloze task, else a sentence encoder as it was published
 */
export async function evalRecall(
  context: Context,
  wanted: RetrieverSource | undefined,
  options: RecallOptions = {},
): Promise<RetrieverEvaluation> {
  const { run, config } = context;
  const { fitHybrid = false } = options;
  const file = recallFile(context, options);
  const given = await readQuestions(file, config.data.answers);
  needOutput(options.to, [file]);
  const stage =
    wanted ?? (hasWeights(context, 'pretrain') ? 'pretrain' : retrieverBeforePretraining(context));
  const corpus = runCorpus(context);
  const questions = encodeAll(corpus, given, config);
  const { model, index } = await retrieverOf(context, stage, corpus);
  const bm25 = await runBm25(context, corpus);
  try {
    const protocol = protocolFor(given, options.protocol);
    const most = Math.max(...KS);
    const weights = fitHybrid ? WEIGHTS : [config.hybrid.weight ?? DEFAULT_WEIGHT];
    const ranks = await withRankings(corpus, { ...options, protocol }, (each) =>
      retrieverRanks({ model, corpus, index, bm25, config }, questions, weights, most, { protocol, each }),
    );
    disposeModel(model);
    const ict =
      stage === 'ict-warmup' || fitHybrid
        ? undefined
        : await ictRanks(context, corpus, questions, most, protocol);
    const result = {
      metric: 'recall',
      stage,
      file,
      questions: questions.length,
      protocol: protocol ?? 'dpr',
      ...compared(ranks, weights, ict, config.seed),
    };
    if (!fitHybrid) record(run, result);
    if (wanted === undefined && hasWeights(context, 'finetune-qa')) {
      say(
        `recall: this is the retriever before fine-tuning (${stage}); --stage finetune-qa measures the model that ask uses`,
      );
    }
    return result;
  } finally {
    bm25.close();
    index.close();
    corpus.close();
  }
}

/** The questions: a weight is fitted on data.dev where there is such, so that data.test can still measure it. */
function recallFile(context: Context, { questions, fitHybrid }: RecallOptions): string {
  const { run, config } = context;
  if (fitHybrid && questions === undefined && config.data.dev !== null)
    return inputPath(run, config, 'data.dev');
  return questionFile(context, questions);
}

/** Recall of all retrievers, that of several weights by the best of them. */
function compared(
  { dense, bm25, hybrid }: RetrieverRanks,
  weights: readonly number[],
  ict: readonly number[] | undefined,
  seed: number,
) {
  const fit = weights.map((weight, w) => ({
    weight,
    recall: recallOf(hybrid[w], KS),
    mrr: mean(hybrid[w].map((rank) => 1 / (rank + 1))),
  }));
  // Of equal ones the largest: the inner product is what training improves. 0 is BM25 and no setting.
  const best = fit.reduce((a, b) => (a.weight === 0 || b.mrr >= a.mrr ? b : a));
  const both = hybrid[weights.indexOf(best.weight)];
  const figured = (ranks: readonly number[]) => rankingMetrics(ranks, KS, seed);
  return {
    recall: recallOf(dense, KS),
    bm25: recallOf(bm25, KS),
    hybrid: best.recall,
    hybridWeight: best.weight,
    figures: figured(dense),
    baselines: {
      hybrid: figured(both),
      bm25: figured(bm25),
      ...(ict && { 'ict-warmup': figured(ict) }),
    },
    differences: {
      dense: recallDifferences(both, dense, KS, seed),
      bm25: recallDifferences(both, bm25, KS, seed),
    },
    ...(weights.length > 1 && { fit }),
  };
}

/** A stage's query tower with the index of its document tower; of fine-tuning, those that it answers with. */
export async function retrieverOf(
  context: Context,
  stage: RetrieverSource,
  corpus: Corpus,
): Promise<{ model: Model; index: SearchIndex }> {
  if (stage === 'finetune-qa') return fineTuned(context, corpus);
  const model = emptyModel(context, corpus);
  await stageWeights(context, stage, corpus, model, retrieverShapes(model));
  return { model, index: await matchingIndex(context, stage, model, corpus) };
}

/**
 * Recall of what a file says was retrieved: DPR's results (`.json`), or a TREC run of the run's corpus.
 * @param dir run folder, whose corpus tells the texts of a TREC run
 */
export async function scoreRetrieved(
  path: string,
  dir: string,
  options: Pick<EvalOptions, 'questions' | 'protocol'> = {},
): Promise<RecallEvaluation> {
  const dpr = /\.jsonl?$/.test(unpackedName(path));
  if (!dpr && options.questions === undefined) {
    throw new UserError(`${path}: a TREC run tells no questions; name them with --questions FILE`);
  }
  const file = resolve(options.questions ?? path);
  const questions = await readQuestions(file);
  const protocol = protocolFor(questions, options.protocol) ?? 'dpr';
  let ranks: number[];
  let depth: number;
  let missing: number;
  if (dpr) {
    const read = await dprRanks(resolve(path), questions, protocol);
    ({ ranks, depth, missing } = read);
    if (read.others > 0) say(`${path}: ${read.others} other questions are left out`);
  } else {
    const corpus = openCorpus(runFolder(dir).corpus);
    try {
      const blocks = await readTrecRun(resolve(path), corpus, questions);
      depth = blocks.reduce((most, list) => Math.max(most, list.length), 0);
      missing = blocks.filter((list) => list.length === 0).length;
      ranks = questions.map((question, i) => firstWithAnswer(corpus, blocks[i], question, protocol));
    } finally {
      corpus.close();
    }
  }
  if (missing === questions.length) {
    throw new UserError(
      `${path}: matches none of the questions in ${file}; give the question file that it was generated from`,
    );
  }
  if (missing > 0) say(`${path}: leaves ${missing} questions out, for which nothing counts as found`);
  const ks = KS.filter((k) => k <= depth);
  return {
    file,
    questions: questions.length,
    protocol,
    recall: recallOf(ranks, ks),
    figures: rankingMetrics(ranks, ks, SEED),
  };
}

/** Ranks by the retriever as the inverse cloze task left it, where the run has it and the corpus is small enough. */
async function ictRanks(
  context: Context,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  most: number,
  protocol?: Protocol,
): Promise<number[] | undefined> {
  if (!hasWeights(context, 'ict-warmup')) return undefined;
  if (corpus.blocks > ICT_LIMIT) {
    say(
      `recall: beyond ${ICT_LIMIT} blocks the inverse cloze task's retriever is measured by itself, with "realm eval recall --stage ict-warmup"`,
    );
    return undefined;
  }
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'ict-warmup', corpus, model, retrieverShapes(model));
  const ranks = await freshRanks(model, corpus, questions, context.config, most, { protocol });
  disposeModel(model);
  return ranks;
}

import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { f1, isCorrect, normalizeAnswer, type Protocol } from '../answers/metrics.ts';
import { type Corpus, openCorpus } from '../corpus/store/reader.ts';
import { readQuestions } from '../datasets/questions.ts';
import type { Question } from '../datasets/types.ts';
import { byQuestionWord, bySeenAnswer, type Part } from '../eval/breakdown.ts';
import { closedBookMatches } from '../eval/closed-book.ts';
import {
  bm25Ranks,
  type Evaluation,
  evaluateAnswers,
  firstWithAnswer,
  freshRanks,
  type Recall,
  recallOf,
  retrievalRanks,
} from '../eval/evaluate.ts';
import { maskedMetrics, scoreMasked, sentencesOf, untrainedSentences } from '../eval/masked.ts';
import { answerMetrics, type MetricValues, rankingMetrics } from '../eval/metric-table.ts';
import { matchPredictions, type PredictionFile, readPredictions } from '../eval/predictions.ts';
import { dprRanks, type Ranking, type RankingFormat, rankingWriter, readTrecRun } from '../eval/rankings.ts';
import { type Comparison, compare, mean, meanInterval } from '../eval/statistics.ts';
import { disposeModel, pretrainedShapes, retrieverShapes } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { BM25_LIMIT } from '../retrieval/bm25.ts';
import { appendRecord, type RetrieverSource, type Run, runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, needWritable, recoverFolders, writeStreamAtomic } from '../system/files.ts';
import { say } from '../system/progress.ts';
import { stepsDone } from '../train/checkpoints.ts';
import { closedBookShapes } from '../train/closed-book.ts';
import { matchingIndex, retrieverBeforePretraining } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { fineTuned } from './fine-tuned.ts';
import { encodeAll, questionFile } from './questions.ts';

/** Ranks at which retrieval is measured. */
const KS = [1, 5, 20, 100];

/** The inverse cloze task's retriever embeds this many blocks at most to be a baseline of another stage's. */
const ICT_LIMIT = 10_000;

/** Of the bootstrap where no run gives one. */
const SEED = 1;

/** What is evaluated, and how. */
export interface EvalOptions {
  /** File of the questions; data.test, else data.dev, where it is not given. */
  questions?: string;
  /** ORQA's for answers, DPR's for blocks that hold one, where it is not given. */
  protocol?: Protocol;
  /** What was retrieved is written there too, in `format`. */
  to?: string;
  format?: RankingFormat;
}

/** The same for answers. */
export interface AnswerEvalOptions extends EvalOptions {
  /** A run folder or a file of predictions to compare with. */
  against?: string;
}

/** The metrics of answers, of which either command gives both; they differ in the one that `against` compares. */
export type AnswerMetric = 'exact-match' | 'f1';

/** Metrics of the answers to a file of questions. */
export interface AnswerEvaluation {
  metric: AnswerMetric;
  stage?: string;
  /** The questions. */
  file: string;
  questions: number;
  protocol: Protocol;
  figures: MetricValues;
  questionWords: Part[];
  /** By whether an answer stands among those of the training questions, where the run has such. */
  seen?: Part[];
  against?: Comparison & { file: string };
}

/** Exact match and the rest of the fine-tuned model; writes the run's predictions. */
export async function evalExactMatch(
  context: Context,
  options: AnswerEvalOptions = {},
  metric: AnswerMetric = 'exact-match',
): Promise<AnswerEvaluation & Pick<Evaluation, 'exactMatch' | 'recall'>> {
  const { run, config } = context;
  const protocol = options.protocol ?? 'orqa';
  const against = options.against === undefined ? undefined : await otherPredictions(options.against);
  const file = questionFile(context, options.questions);
  const given = await readQuestions(file, config.data.answers);
  if (metric === 'f1') needStrings(file, given);
  const other = against && matchPredictions(against, given);
  needOutput(options.to, [file, run.predictions]);
  const corpus = runCorpus(context);
  const asked = encodeAll(corpus, given, config);
  const { model, index } = await fineTuned(context, corpus);
  try {
    recoverFolders(run.dir); // predictions that a killed evaluation left half written
    let evaluation: Evaluation | undefined;
    await writeStreamAtomic(run.predictions, (write) =>
      withRankings(corpus, options, async (each) => {
        evaluation = await evaluateAnswers({ model, corpus, index, config }, asked, KS, {
          protocol: options.protocol,
          each,
          predicted: (prediction) => write(Buffer.from(`${JSON.stringify(prediction)}\n`)),
        });
      }),
    );
    disposeModel(model);
    const counted = countedOf(file, asked, protocol);
    const questions = counted(asked);
    const { exactMatch, tokenExactMatch, f1, readerOracle, spanOracle } = evaluation!.scores;
    const ranks = counted(evaluation!.scores.ranks);
    const answers = {
      exactMatch: counted(exactMatch),
      tokenExactMatch: counted(tokenExactMatch),
      f1: counted(f1),
      readerOracle: counted(readerOracle),
      spanOracle: counted(spanOracle),
    };
    const figures = {
      ...answerMetrics(answers, hasStrings(questions), config.seed),
      ...(await closedBookFigure(context, corpus, questions, protocol)),
      ...rankingMetrics(ranks, KS, config.seed),
    };
    const trained = hasStrings(questions) ? await trainedAnswers(context, protocol) : undefined;
    const result = {
      metric,
      stage: 'finetune-qa',
      file,
      questions: questions.length,
      protocol,
      exactMatch: mean(answers.exactMatch),
      recall: recallOf(ranks, KS),
      figures,
      questionWords: byQuestionWord(questions, answers.exactMatch, config.seed),
      ...(trained && {
        seen: bySeenAnswer(questions, trained, answers.exactMatch, protocol, config.seed),
      }),
      ...(other && {
        against: {
          file: against.path,
          ...compareWith(
            counted(other.predictions),
            questions,
            metric,
            metric === 'f1' ? answers.f1 : answers.exactMatch,
            protocol,
            config.seed,
          ),
        },
      }),
    };
    record(run, result);
    return result;
  } finally {
    index.close();
    corpus.close();
  }
}

/** Exact match and F1 of a file of predictions, without a model. */
export async function scorePredictions(
  path: string,
  options: Omit<AnswerEvalOptions, 'to' | 'format'> & { answers?: 'auto' | 'string' | 'regex' } = {},
  metric: AnswerMetric = 'exact-match',
): Promise<AnswerEvaluation> {
  const protocol = options.protocol ?? 'orqa';
  const file = await readPredictions(resolve(path));
  const asked =
    options.questions === undefined
      ? undefined
      : await readQuestions(resolve(options.questions), options.answers ?? 'auto');
  const matched = matchPredictions(file, asked);
  const { others } = matched;
  const counted = countedOf(options.questions ?? path, matched.questions, protocol);
  const questions = counted(matched.questions);
  const predictions = counted(matched.predictions);
  const missing = predictions.filter((prediction) => prediction === undefined).length;
  if (missing > 0) say(`${path}: has no prediction for ${missing} questions, which count as wrong`);
  if (others > 0) say(`${path}: ${others} predictions are of other questions and are left out`);
  const right = questions.map((question, i) => matchOf('exact-match', predictions[i], question, protocol));
  if (metric === 'f1') needStrings(path, questions);
  const strings = hasStrings(questions);
  const overlap = strings
    ? questions.map((question, i) => matchOf('f1', predictions[i], question, protocol))
    : [];
  const other =
    options.against === undefined
      ? undefined
      : matchPredictions(await otherPredictions(options.against), matched.questions);
  return {
    metric,
    file: options.questions ?? path,
    questions: questions.length,
    protocol,
    figures: {
      exactMatch: meanInterval(right, SEED),
      ...(strings ? { f1: meanInterval(overlap, SEED) } : {}),
    },
    questionWords: byQuestionWord(questions, right, SEED),
    ...(other && {
      against: {
        file: options.against!,
        ...compareWith(
          counted(other.predictions).map((theirs, i) => (predictions[i] === undefined ? undefined : theirs)),
          questions,
          metric,
          metric === 'f1' ? overlap : right,
          protocol,
          SEED,
        ),
      },
    }),
  };
}

/** How often a block with an answer is among the first k, for several k. */
export interface RecallEvaluation {
  stage?: string;
  file: string;
  questions: number;
  protocol: Protocol;
  recall: Recall;
  figures: MetricValues;
}

/**
 * Recall of a stage's retriever, before any fine-tuning on questions, beside that of others on the same blocks.
 * @param asked the stage; undefined: pretraining, else the inverse cloze task, else a sentence encoder as it was published
 */
export async function evalRecall(
  context: Context,
  asked: RetrieverSource | undefined,
  options: EvalOptions = {},
): Promise<
  RecallEvaluation & { stage: string; bm25: Recall | undefined; baselines: Record<string, MetricValues> }
> {
  const { run, config } = context;
  const file = questionFile(context, options.questions);
  const given = await readQuestions(file, config.data.answers);
  needOutput(options.to, [file]);
  const stage = asked ?? (hasWeights(context, 'pretrain') ? 'pretrain' : retrieverBeforePretraining(context));
  const corpus = runCorpus(context);
  const questions = encodeAll(corpus, given, config);
  const model = emptyModel(context, corpus);
  stageWeights(context, stage, corpus, model, retrieverShapes(model));
  const index = await matchingIndex(context, stage, model, corpus);
  try {
    const { protocol } = options;
    const most = Math.max(...KS);
    let ranks: number[] = [];
    await withRankings(corpus, options, async (each) => {
      ranks = await retrievalRanks({ model, corpus, index, config }, questions, most, { protocol, each });
    });
    disposeModel(model);
    const baselines = {
      bm25: bm25Ranks(corpus, questions, most, { protocol }),
      'ict-warmup':
        stage === 'ict-warmup' ? undefined : await ictRanks(context, corpus, questions, most, protocol),
    };
    if (!baselines.bm25) say(`recall: BM25 is left out, beyond ${BM25_LIMIT} blocks`);
    const figured = (list: number[]) => rankingMetrics(list, KS, config.seed);
    const result = {
      metric: 'recall',
      stage,
      file,
      questions: questions.length,
      protocol: protocol ?? 'dpr',
      recall: recallOf(ranks, KS),
      bm25: baselines.bm25 && recallOf(baselines.bm25, KS),
      figures: figured(ranks),
      baselines: Object.fromEntries(
        Object.entries(baselines).flatMap(([name, list]) => (list ? [[name, figured(list)]] : [])),
      ),
    };
    record(run, result);
    return result;
  } finally {
    index.close();
    corpus.close();
  }
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
  const protocol = options.protocol ?? 'dpr';
  const dpr = /\.jsonl?(\.gz|\.zst)?$/.test(path);
  if (!dpr && options.questions === undefined) {
    throw new UserError(`${path}: a TREC run tells no questions; name them with --questions FILE`);
  }
  const file = resolve(options.questions ?? path);
  const questions = await readQuestions(file);
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

/** How well the pretrained model guesses masked salient spans of sentences that it was not trained on. */
export async function evalMasked(
  context: Context,
  metric: 'perplexity' | 'utility',
  file?: string,
): Promise<{
  stage: string;
  file: string | null;
  questions: number;
  heldOut: boolean;
  figures: MetricValues;
}> {
  const { run, config } = context;
  const corpus = runCorpus(context);
  const given = file === undefined ? undefined : await sentencesOf(resolve(file), corpus, config);
  const model = emptyModel(context, corpus);
  stageWeights(context, 'pretrain', corpus, model, pretrainedShapes(model));
  const index = await matchingIndex(context, 'pretrain', model, corpus);
  try {
    const steps = stepsDone(run.checkpoint('pretrain'), config.train.use) ?? 0;
    const { examples, heldOut } = given ?? untrainedSentences(corpus, config, steps * config.pretrain.batch);
    if (!heldOut) {
      say(
        `${metric}: pretraining has been through all ${corpus.sentences.count} sentences, so these are none that it has not seen; give others with --sentences FILE`,
      );
    }
    const scores = await scoreMasked(model, corpus, index, examples, config);
    const all = maskedMetrics(scores, config.seed);
    const { retrievalUtility, nullProbability, ...perplexity } = all;
    const result = {
      metric,
      stage: 'pretrain',
      file: file ? resolve(file) : null,
      questions: examples.length,
      heldOut,
      figures: metric === 'utility' ? { retrievalUtility, nullProbability } : perplexity,
    };
    record(run, { ...result, protocol: null });
    return result;
  } finally {
    index.close();
    corpus.close();
  }
}

/**
 * Picks of one value a question those that count. By ORQA's protocol a question that is asked twice counts once, as it was
 * asked the last time, since its script keeps questions by their texts (google-research/language, orqa/utils/eval_utils.py,
 * commit 208f852). All are answered, so that lines and numbers of what is written are those of the file.
 */
function countedOf(path: string, questions: readonly { question: string }[], protocol: Protocol) {
  const last = new Map(questions.map(({ question }, i) => [question, i]));
  if (protocol === 'orqa' && last.size < questions.length) {
    say(`${path}: ${questions.length - last.size} questions are asked again and count once (protocol orqa)`);
  }
  return <T>(values: readonly T[]): T[] =>
    values.filter((_, i) => protocol !== 'orqa' || last.get(questions[i].question) === i);
}

const hasStrings = (questions: readonly { answerKind: string }[]) =>
  questions.every(({ answerKind }) => answerKind === 'string');

function needStrings(path: string, questions: readonly { answerKind: string }[]): void {
  if (hasStrings(questions)) return;
  throw new UserError(
    `${path}: has regular expressions for answers, and F1 counts the words of texts; measure exact-match`,
  );
}

/** A `UserError` where `--to` cannot be written, or names one of the evaluation's `others` files. */
function needOutput(to: string | undefined, others: readonly string[]): void {
  if (to === undefined) return;
  if (others.some((other) => resolve(other) === resolve(to)))
    throw new UserError(`${to}: is a file of this evaluation itself; name another with --to FILE`);
  needWritable(resolve(to));
}

/** Runs an evaluation that writes what it retrieves to `to`, where that is given. */
async function withRankings(
  corpus: Corpus,
  { to, format = 'dpr', protocol }: EvalOptions,
  evaluate: (each?: (ranking: Ranking) => void) => Promise<void>,
): Promise<void> {
  if (to === undefined) return evaluate();
  await writeStreamAtomic(resolve(to), async (write) => {
    const writer = rankingWriter(format, corpus, protocol ?? 'dpr', (text) => write(Buffer.from(text)));
    await evaluate(writer.add);
    writer.end();
  });
}

/** The baseline's exact match, where the run has trained it. */
async function closedBookFigure(
  context: Context,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  protocol: Protocol,
): Promise<MetricValues> {
  if (!hasWeights(context, 'closed-book')) return {};
  const model = emptyModel(context, corpus);
  stageWeights(context, 'closed-book', corpus, model, closedBookShapes(model));
  const matches = await closedBookMatches(model, corpus, questions, context.config, protocol);
  disposeModel(model);
  return { closedBook: meanInterval(matches, context.config.seed) };
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
  stageWeights(context, 'ict-warmup', corpus, model, retrieverShapes(model));
  const ranks = await freshRanks(model, corpus, questions, context.config, most, { protocol });
  disposeModel(model);
  return ranks;
}

/** Answers of the training questions, normalised; undefined where there are none, or where they are expressions. */
async function trainedAnswers({ config }: Context, protocol: Protocol): Promise<Set<string> | undefined> {
  const { train, answers } = config.data;
  if (train === null || !existsSync(train)) return undefined;
  const questions = await readQuestions(train, answers);
  if (!hasStrings(questions)) return undefined;
  return new Set(questions.flatMap((question) => question.answers.map((a) => normalizeAnswer(a, protocol))));
}

/** Predictions of another run, or of a file. */
async function otherPredictions(path: string): Promise<PredictionFile> {
  const folder = statSync(path, { throwIfNoEntry: false })?.isDirectory();
  if (!folder) return readPredictions(resolve(path));
  const { predictions } = runFolder(path);
  if (existsSync(predictions)) return readPredictions(predictions);
  throw new UserError(
    `${path}: holds no predictions.jsonl; make it with "realm eval exact-match --run ${path}", or name a file of predictions`,
  );
}

function matchOf(
  metric: AnswerMetric,
  prediction: string | undefined,
  question: Pick<Question, 'answers' | 'answerKind'>,
  protocol: Protocol,
): number {
  if (prediction === undefined) return 0;
  return metric === 'f1'
    ? f1(prediction, question.answers, protocol)
    : Number(isCorrect(prediction, question, protocol));
}

/** Compares on the questions that `others` has a prediction for. @param others, scores of all questions, in their order */
function compareWith(
  others: readonly (string | undefined)[],
  questions: readonly Pick<Question, 'answers' | 'answerKind'>[],
  metric: AnswerMetric,
  scores: readonly number[],
  protocol: Protocol,
  seed: number,
): Comparison {
  const both = [...others.keys()].filter((i) => others[i] !== undefined);
  return compare(
    both.map((i) => scores[i]),
    both.map((i) => matchOf(metric, others[i], questions[i], protocol)),
    seed,
  );
}

/** Adds the evaluation to the run's log. */
function record(
  { evaluations }: Run,
  result: {
    metric: string;
    stage: string;
    file: string | null;
    questions: number;
    protocol: string | null;
  } & {
    figures: MetricValues;
    baselines?: Record<string, MetricValues>;
  },
): void {
  const { metric, stage, file, questions, protocol, baselines = {} } = result;
  const figures = { ...result.figures };
  for (const [name, of] of Object.entries(baselines))
    for (const [figure, value] of Object.entries(of)) figures[`${name} ${figure}`] = value;
  const time = new Date().toISOString();
  makeFolder(dirname(evaluations));
  appendRecord(evaluations, { time, metric, stage, file, questions, protocol, figures });
}

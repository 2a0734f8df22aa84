import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { protocolFor } from '../answers/default-protocol.ts';
import { f1, isCorrect, normalizeAnswer, type Protocol } from '../answers/metrics.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { readQuestions } from '../datasets/questions.ts';
import type { Question } from '../datasets/types.ts';
import { byQuestionWord, bySeenAnswer, type Part } from '../eval/breakdown.ts';
import { closedBookMatches } from '../eval/closed-book.ts';
import { type Evaluation, evaluateAnswers, recallOf } from '../eval/evaluate.ts';
import { answerMetrics, type MetricValues, rankingMetrics } from '../eval/metric-table.ts';
import { matchPredictions, type PredictionFile, readPredictions } from '../eval/predictions.ts';
import { type Comparison, compare, mean, meanInterval } from '../eval/statistics.ts';
import { disposeModel } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { writeStreamAtomic } from '../system/files.ts';
import { say } from '../system/progress.ts';
import { closedBookShapes } from '../train/closed-book.ts';
import { hybridBm25 } from './bm25.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { type EvalOptions, KS, needOutput, record, SEED, withRankings } from './evaluation.ts';
import { fineTuned } from './fine-tuned.ts';
import { encodeAll, questionFile } from './questions.ts';

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
  const against = options.against === undefined ? undefined : await otherPredictions(options.against);
  const file = questionFile(context, options.questions);
  const given = await readQuestions(file, config.data.answers);
  const chosen = protocolFor(given, options.protocol);
  const protocol = chosen ?? 'orqa';
  if (metric === 'f1') needStrings(file, given);
  const other = against && matchPredictions(against, given);
  needOutput(options.to, [file, run.predictions]);
  const corpus = runCorpus(context);
  const encoded = encodeAll(corpus, given, config);
  const { model, index } = await fineTuned(context, corpus);
  const bm25 = await hybridBm25(context, corpus);
  try {
    const { scores } = await writeStreamAtomic(run.predictions, (write) =>
      withRankings(corpus, { ...options, protocol: chosen }, (each) =>
        evaluateAnswers({ model, corpus, index, bm25, config }, encoded, KS, {
          protocol: chosen,
          each,
          predicted: (prediction) => write(Buffer.from(`${JSON.stringify(prediction)}\n`)),
        }),
      ),
    );
    disposeModel(model);
    const counted = countedOf(file, encoded, protocol);
    const questions = counted(encoded);
    const { exactMatch, tokenExactMatch, f1, readerOracle, spanOracle } = scores;
    const ranks = counted(scores.ranks);
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
    bm25?.close();
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
  const file = await readPredictions(resolve(path));
  const asked =
    options.questions === undefined
      ? undefined
      : await readQuestions(resolve(options.questions), options.answers ?? 'auto');
  const matched = matchPredictions(file, asked);
  const { others } = matched;
  const protocol = protocolFor(matched.questions, options.protocol) ?? 'orqa';
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

/** The baseline's exact match, where the run has trained it. */
async function closedBookFigure(
  context: Context,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  protocol: Protocol,
): Promise<MetricValues> {
  if (!hasWeights(context, 'closed-book')) return {};
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'closed-book', corpus, model, closedBookShapes(model));
  const matches = await closedBookMatches(model, corpus, questions, context.config, protocol);
  disposeModel(model);
  return { closedBook: meanInterval(matches, context.config.seed) };
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

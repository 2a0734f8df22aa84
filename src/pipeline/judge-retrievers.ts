import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { readQueries, readQuestionFile } from '../datasets/questions.ts';
import type { Question } from '../datasets/types.ts';
import { type JudgedRetrieval, retrieveDocuments } from '../eval/judged-retrieval.ts';
import type { MetricValues } from '../eval/metric-table.ts';
import { readRunFile } from '../eval/run-files.ts';
import { disposeModel } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import type { RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { runBm25 } from './bm25.ts';
import { retrieverBeforePretraining } from './build-index.ts';
import { type Context, hasWeights, runCorpus } from './context.ts';
import { type JudgedEvaluation, type JudgedQueries, judge, readJudgements } from './evaluate-judged.ts';
import { DEFAULT_WEIGHT, retrieverOf } from './evaluate-recall.ts';
import { type EvalOptions, needOutput, record, withRankings } from './evaluation.ts';
import { encodeAll, questionFile } from './questions.ts';

/** What the retrievers of a run are measured by. */
export interface JudgeOptions extends Omit<EvalOptions, 'qrels'> {
  /** File of judgements. */
  qrels: string;
  /** A file of results to compare with. */
  against?: string;
  perQuery?: string;
}

/** Measures of a run's retrievers by judgements of documents. */
export interface RunJudgement extends JudgedEvaluation {
  stage: string;
  /** The file of questions. */
  file: string;
  hybridWeight: number;
}

/**
 * A stage's retriever, BM25, and both together, measured by judgements of documents. A document has the rank of its best
 * block. The questions need no answers.
 * @param wanted as for `evalRecall`
 */
export async function judgeRetrievers(
  context: Context,
  wanted: RetrieverSource | undefined,
  options: JudgeOptions,
): Promise<RunJudgement> {
  const { run, config } = context;
  const file = judgedQuestionFile(context, options);
  const { against, perQuery, to } = options;
  const inputs = [file, options.qrels, ...(against === undefined ? [] : [against])];
  needOutput(to, inputs);
  needOutput(perQuery, [...inputs, ...(to === undefined ? [] : [to])], '--per-query');
  const queries = await readJudgements(options.qrels);
  const other = against === undefined ? undefined : await readRunFile(resolve(against));
  const given = await judgedQuestions(file, queries);
  const stage =
    wanted ?? (hasWeights(context, 'pretrain') ? 'pretrain' : retrieverBeforePretraining(context));
  const hybridWeight = config.hybrid.weight ?? DEFAULT_WEIGHT;
  const corpus = runCorpus(context);
  let retrieved: JudgedRetrieval;
  try {
    needJudgedDocuments(corpus, queries);
    const questions = encodeAll(corpus, given, config) as (EncodedQuestion & { id: string })[];
    const { model, index } = await retrieverOf(context, stage, corpus);
    const bm25 = await runBm25(context, corpus);
    try {
      retrieved = await withRankings(corpus, options, (each) =>
        retrieveDocuments({ model, corpus, index, bm25, config }, questions, hybridWeight, each),
      );
    } finally {
      disposeModel(model);
      bm25.close();
      index.close();
    }
  } finally {
    corpus.close();
  }
  const systems = {
    [stage]: retrieved.dense,
    bm25: retrieved.bm25,
    hybrid: retrieved.hybrid,
    ...(other && { [against!]: other }),
  };
  const own = config.hybrid.weight === null ? stage : 'hybrid';
  const pairs = [
    ['hybrid', 'bm25'],
    ['hybrid', stage],
    [stage, 'bm25'],
    ...(other ? [[own, against!]] : []),
  ] as [string, string][];
  const judged = await judge(systems, queries, { pairs, seed: config.seed, perQuery });
  record(run, {
    metric: 'judgements',
    stage,
    file: options.qrels,
    questions: judged.queries,
    protocol: null,
    figures: recorded(judged.figures[stage]),
    baselines: { bm25: recorded(judged.figures.bm25), hybrid: recorded(judged.figures.hybrid) },
  });
  return { stage, file, hybridWeight, ...judged };
}

/** Measures that the run's log keeps; "judged", since recall@k there is by answers. */
function recorded(figures: MetricValues): MetricValues {
  const kept = ['nDCG@10', 'MAP', 'MRR', 'recall@100'];
  return Object.fromEntries(kept.map((name) => [`judged ${name}`, figures[name]]));
}

/** The questions: as given, else the `queries.jsonl` of the folder of BEIR's form that the judgements are in, else the run's. */
function judgedQuestionFile(context: Context, { questions, qrels }: JudgeOptions): string {
  const beside = join(dirname(dirname(resolve(qrels))), 'queries.jsonl');
  if (questions === undefined && existsSync(beside)) return beside;
  return questionFile(context, questions);
}

/** Questions of the file that have judgements, with their ids; a question without an id has its number, from 1. */
async function judgedQuestions(file: string, { path, judgements }: JudgedQueries): Promise<Question[]> {
  const questions: Question[] = [];
  const seen = new Set<string>();
  let number = 0;
  for await (const { id: own, question } of readQueries(file)) {
    number++;
    const id = own ?? String(number);
    if (!judgements.has(id)) continue;
    if (seen.has(id))
      throw new UserError(`${file}: has two questions with the id ${id}; give each its own id`);
    seen.add(id);
    questions.push({ id, question, answers: [], answerKind: 'string' });
  }
  if (questions.length === 0) {
    throw new UserError(
      `${path}: judges none of the ${number} questions in ${file}; give the questions of these judgements with --questions FILE`,
    );
  }
  if (questions.length < number) say(`${file}: ${questions.length} of ${number} questions have judgements`);
  return questions;
}

/** Whether the file has questions with answers, so that recall by answers can be measured, too. */
export async function hasAnswers(context: Context, options: JudgeOptions): Promise<boolean> {
  try {
    const file = judgedQuestionFile(context, options);
    return (await readQuestionFile(file, context.config.data.answers)).questions.length > 0;
  } catch (error) {
    // Queries without answers are no questions for training; they have been read by themselves before.
    if (error instanceof UserError) return false;
    throw error;
  }
}

/** A `UserError` if no document of the corpus is judged: the ids are of other documents. */
function needJudgedDocuments(
  corpus: { blocks: number; documentId(block: number): string },
  { path, judgements }: JudgedQueries,
): void {
  const judged = new Set<string>();
  for (const grades of judgements.values()) for (const id of grades.keys()) judged.add(id);
  for (let block = 0; block < corpus.blocks; block++) if (judged.has(corpus.documentId(block))) return;
  const [first] = judged;
  throw new UserError(
    `${path}: judges no document of the run's corpus; it names documents such as ${first}, the corpus has ${corpus.documentId(0)}; give judgements of these documents, or name the key of their ids in data.fields`,
  );
}

import { dirname, resolve } from 'node:path';
import type { Protocol } from '../answers/metrics.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { MetricValues } from '../eval/metric-table.ts';
import { type Ranking, type RankingFormat, rankingWriter } from '../eval/rankings.ts';
import { appendRecord, type Run } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, needWritable, writeStreamAtomic } from '../system/files.ts';

// What the evaluations of a run share.

/** Ranks at which retrieval is measured. */
export const KS = [1, 5, 20, 100];

/** Of the bootstrap where no run gives one. */
export const SEED = 1;

/** What is evaluated, and how. */
export interface EvalOptions {
  /** File of the questions; data.test, else data.dev, where it is not given. */
  questions?: string;
  /** ORQA's for answers, DPR's for blocks that hold one, where it is not given. */
  protocol?: Protocol;
  /** What was retrieved is written there too, in `format`. */
  to?: string;
  format?: RankingFormat;
  /** Judgements of documents: a TREC run that is written names documents, not blocks. */
  qrels?: string;
}

/** A `UserError` where `to`, the file of `option`, cannot be written, or is one of the evaluation's `others` files. */
export function needOutput(to: string | undefined, others: readonly string[], option = '--to'): void {
  if (to === undefined) return;
  if (others.some((other) => resolve(other) === resolve(to)))
    throw new UserError(`${to}: is a file of this evaluation itself; name another with ${option} FILE`);
  needWritable(resolve(to));
}

/** Runs an evaluation, and writes what it retrieves to `to` if that is given. @returns the evaluation's result */
export async function withRankings<T>(
  corpus: Corpus,
  { to, format = 'dpr', protocol, qrels }: EvalOptions,
  evaluate: (each?: (ranking: Ranking) => void) => Promise<T>,
): Promise<T> {
  if (to === undefined) return evaluate();
  return writeStreamAtomic(resolve(to), async (write) => {
    const form = { format, protocol: protocol ?? 'dpr', byDocument: qrels !== undefined };
    const writer = rankingWriter(corpus, form, (text) => write(Buffer.from(text)));
    const result = await evaluate(writer.add);
    writer.end();
    return result;
  });
}

/** Adds the evaluation to the run's log. */
export function record(
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

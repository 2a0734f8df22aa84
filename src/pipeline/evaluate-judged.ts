import { resolve } from 'node:path';
import { readQrels } from '../datasets/qrels.ts';
import type { Judgements } from '../datasets/types.ts';
import { JUDGED_MEASURES, type JudgedValues, judgedValues } from '../eval/judged.ts';
import type { MetricValues } from '../eval/metric-table.ts';
import { decodedRun, type RetrievedDocuments, readRunFile } from '../eval/run-files.ts';
import { type Comparison, meanIntervals, randomisationTest } from '../eval/statistics.ts';
import { UserError } from '../system/errors.ts';
import { writeStreamAtomic } from '../system/files.ts';
import { say, warn } from '../system/progress.ts';
import { obey } from '../system/stop.ts';
import { needOutput, SEED } from './evaluation.ts';

// Measures by judgements of documents (qrels): of files of results, and of a run's retrievers.

/** One system's measures less those of another, query by query. */
export interface JudgedDifference {
  system: string;
  against: string;
  /** By measure; the p value is that of the paired randomisation test. */
  measures: Record<string, Comparison>;
}

/** Measures of one or more systems by the same judgements. */
export interface JudgedEvaluation {
  /** The file of judgements. */
  qrels: string;
  /** Judged queries, of which every measure is the mean. */
  queries: number;
  /** Those of them without a relevant document, which count as 0. */
  withoutRelevant: number;
  /** By system: each measure with its interval. */
  figures: Record<string, MetricValues>;
  /** By system: judged queries that it has no results for, which count as 0. */
  missing: Record<string, number>;
  differences: JudgedDifference[];
}

/** Judgements with the file that they are from. */
export interface JudgedQueries {
  path: string;
  judgements: Judgements;
}

export async function readJudgements(path: string): Promise<JudgedQueries> {
  return { path, judgements: await readQrels(resolve(path)) };
}

export interface JudgedOptions {
  /** Pairs of systems to compare. */
  pairs?: readonly (readonly [string, string])[];
  seed?: number;
  /** A file that gets one line for each query and system. */
  perQuery?: string;
}

/** Measures systems by the same judgements. @param systems by name, the documents that each retrieved for each query */
export async function judge(
  systems: Readonly<Record<string, RetrievedDocuments>>,
  { path, judgements }: JudgedQueries,
  { pairs = [], seed = SEED, perQuery }: JudgedOptions = {},
): Promise<JudgedEvaluation> {
  const withoutRelevant = [...judgements.values()].filter((grades) =>
    [...grades.values()].every((grade) => grade < 1),
  ).length;
  if (withoutRelevant > 0) {
    say(`${path}: ${withoutRelevant} queries have no relevant document; they count as 0, as in trec_eval`);
  }
  const judged = Object.fromEntries(
    Object.entries(systems).map(([name, run]) => [name, checked(name, run, { path, judgements })]),
  );
  if (perQuery !== undefined) await writePerQuery(perQuery, judged);
  const intervals = (values: Readonly<Record<string, Float64Array>>) => {
    const found = meanIntervals(
      JUDGED_MEASURES.map((name) => values[name]),
      seed,
    );
    return Object.fromEntries(JUDGED_MEASURES.map((name, m) => [name, found[m]]));
  };
  return {
    qrels: path,
    queries: judgements.size,
    withoutRelevant,
    figures: byName(judged, ({ values }) => intervals(values)),
    missing: byName(judged, ({ missing }) => missing),
    differences: pairs.map(([system, against]) => {
      const [own, other] = [judged[system].values, judged[against].values];
      const differences = byName(own, (list, name) => list.map((value, i) => value - other[name][i]));
      const found = intervals(differences);
      return {
        system,
        against,
        measures: byName(differences, (list, name) => {
          obey();
          return {
            questions: list.length,
            difference: found[name],
            better: list.filter((d) => d > 0).length,
            worse: list.filter((d) => d < 0).length,
            pValue: randomisationTest(list, seed),
          };
        }),
      };
    }),
  };
}

function byName<T, U>(
  record: Readonly<Record<string, T>>,
  of: (value: T, name: string) => U,
): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, of(value, name)]));
}

/** A system's values; says what is missing, and refuses results of other queries. */
function checked(name: string, run: RetrievedDocuments, { path, judgements }: JudgedQueries): JudgedValues {
  const decoded = decodedRun(run, judgements);
  const values = judgedValues(decoded, judgements);
  const { queries, missing, unjudged } = values;
  if (missing === queries.length) {
    throw new UserError(
      `${name}: has results for none of the queries in ${path}; give the judgements of the same queries`,
    );
  }
  if (missing > 0) {
    say(`${name}: has no results for ${missing} judged queries; they count as 0, as with trec_eval's -c`);
  }
  if (unjudged > 0) say(`${name}: ${unjudged} queries have no judgement and are left out`);
  const known = queries.some((query) => decoded.get(query)?.some((id) => judgements.get(query)!.has(id)));
  if (!known) {
    warn(
      `${name}: no document that it found is judged in ${path}; check that both name documents by the same ids`,
    );
  }
  return values;
}

/** One line for each query and system: `{query, system, nDCG@1, …}`. */
async function writePerQuery(path: string, judged: Readonly<Record<string, JudgedValues>>): Promise<void> {
  await writeStreamAtomic(resolve(path), async (write) => {
    for (const [system, { queries, values }] of Object.entries(judged)) {
      for (const [i, query] of queries.entries()) {
        const line = { query, system, ...byName(values, (list) => list[i]) };
        write(Buffer.from(`${JSON.stringify(line)}\n`));
      }
    }
  });
}

/** What a file of results is measured by, beside the judgements. */
export interface RunFileOptions {
  /** Another file of results to compare with. */
  against?: string;
  perQuery?: string;
}

/**
 * Measures of a file of results by judgements, without a run or a model.
 * @param path a TREC run, or JSON of `{query: {document: score}}`
 */
export async function scoreRunFile(
  path: string,
  qrels: string,
  { against, perQuery }: RunFileOptions = {},
): Promise<JudgedEvaluation> {
  needOutput(
    perQuery,
    [path, qrels, against].filter((file) => file !== undefined),
    '--per-query',
  );
  if (against !== undefined && resolve(against) === resolve(path)) {
    throw new UserError(`${against}: is the same file as ${path}; name another with --against FILE`);
  }
  const queries = await readJudgements(qrels);
  const systems: Record<string, RetrievedDocuments> = {};
  for (const file of against === undefined ? [path] : [path, against])
    systems[file] = await readRunFile(resolve(file));
  return judge(systems, queries, { pairs: against === undefined ? [] : [[path, against]], perQuery });
}

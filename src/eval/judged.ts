// Measures of a ranking by judgements of documents (qrels), equal to those of trec_eval.

/** The judged documents of a query by id, with their grades: 1 and above is relevant, 0 and below is not. */
export type Grades = ReadonlyMap<string, number>;

/** Numbers of documents at which the measures with a cutoff are taken. */
export const CUTOFFS = [1, 5, 10, 20, 100];

/** Names of the measures, in the order in which they are printed. */
export const JUDGED_MEASURES = [
  ...CUTOFFS.map((k) => `nDCG@${k}`),
  'MAP',
  'MRR',
  'R-precision',
  ...CUTOFFS.map((k) => `recall@${k}`),
  ...CUTOFFS.map((k) => `P@${k}`),
];

/** The least grade that is relevant (trec_eval's default, `-l 1`). */
const RELEVANT = 1;

/**
 * Every measure of `JUDGED_MEASURES` for one query, as trec_eval 9.0.8 computes them (usnistgov/trec_eval, d95ca64,
 * m_ndcg_cut.c, m_map.c, m_recip_rank.c, m_Rprec.c, m_recall.c, m_P.c): ndcg_cut with the grade as the gain and
 * log2(rank + 1) as the discount, map, recip_rank, Rprec, recall, P. A document without a judgement counts as not relevant
 * and keeps its rank; a negative grade gains nothing; P@k divides by k also where fewer were retrieved. All are 0 for a query
 * without a relevant document.
 * @param documents ids, best first, each once
 */
export function judgedMeasures(documents: readonly string[], grades: Grades): Record<string, number> {
  const gains = documents.map((id) => Math.max(0, grades.get(id) ?? 0));
  const ideal = [...grades.values()].filter((grade) => grade > 0).sort((a, b) => b - a);
  const relevant = ideal.filter((grade) => grade >= RELEVANT).length;
  const measures = Object.fromEntries(JUDGED_MEASURES.map((name) => [name, 0]));
  if (relevant === 0) return measures;
  const best = gainSums(ideal);
  const reached = gainSums(gains);
  const found = [0]; // relevant documents among the first k
  let precisions = 0;
  for (const [i, gain] of gains.entries()) {
    found.push(found[i] + Number(gain >= RELEVANT));
    if (gain < RELEVANT) continue;
    precisions += found[i + 1] / (i + 1);
    if (found[i + 1] === 1) measures.MRR = 1 / (i + 1);
  }
  const foundAt = (k: number) => found[Math.min(k, gains.length)];
  measures.MAP = precisions / relevant;
  measures['R-precision'] = foundAt(relevant) / relevant;
  for (const k of CUTOFFS) {
    measures[`nDCG@${k}`] = reached(k) / best(k);
    measures[`recall@${k}`] = foundAt(k) / relevant;
    measures[`P@${k}`] = foundAt(k) / k;
  }
  return measures;
}

/** The discounted cumulative gain of the first k documents. */
function gainSums(gains: readonly number[]): (k: number) => number {
  const sums = [0];
  for (const [i, gain] of gains.entries()) sums.push(sums[i] + gain / Math.log2(i + 2));
  return (k) => sums[Math.min(k, gains.length)];
}

/**
 * The order in which trec_eval reads a query's documents, whatever their ranks and lines in the file: by score, and of equal
 * scores the greater id first, by bytes of UTF-8 (form_res_rels.c). Scores have 32 bits there (trec_format.h; 64 in version
 * 10), so those that differ less count as equal.
 * @returns indexes, best first
 */
export function trecOrder(ids: readonly string[], scores: ArrayLike<number>): number[] {
  const held = Float32Array.from(scores);
  return Array.from(held.keys()).sort((a, b) => held[b] - held[a] || byBytes(ids[b], ids[a]));
}

const byBytes = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** Each document once, at the place of its best block. @param of the document of each block, best block first */
export function firstOfEach(of: readonly string[]): number[] {
  const seen = new Set<string>();
  return [...of.keys()].filter((i) => {
    if (seen.has(of[i])) return false;
    seen.add(of[i]);
    return true;
  });
}

/** Measures of a run, with one value for each judged query, in the order of the judgements. */
export interface JudgedValues {
  queries: string[];
  /** Values of each of `JUDGED_MEASURES`. */
  values: Record<string, Float64Array>;
  /** Judged queries that the run lacks: all their values are 0 (trec_eval's `-c`). */
  missing: number;
  /** Queries of the run without judgements, which count in no measure. */
  unjudged: number;
}

/** Every measure for every judged query. @param run ids of each query's documents, best first */
export function judgedValues(
  run: ReadonlyMap<string, readonly string[]>,
  judgements: ReadonlyMap<string, Grades>,
): JudgedValues {
  const queries = [...judgements.keys()];
  const values = Object.fromEntries(JUDGED_MEASURES.map((name) => [name, new Float64Array(queries.length)]));
  for (const [i, query] of queries.entries()) {
    const documents = run.get(query);
    if (!documents) continue;
    const measures = judgedMeasures(documents, judgements.get(query)!);
    for (const name of JUDGED_MEASURES) values[name][i] = measures[name];
  }
  const missing = queries.filter((query) => !run.has(query)).length;
  return { queries, values, missing, unjudged: run.size - (queries.length - missing) };
}

/**
 * A value with four digits, as trec_eval prints it. C rounds halves to even digits and JavaScript rounds them up; a double
 * lies just between two such numbers only if it is an odd multiple of 1/32.
 */
export function fourDigits(value: number): string {
  if (Math.abs(value * 32) % 2 !== 1) return value.toFixed(4);
  const below = Math.floor(value * 10_000);
  return ((below % 2 === 0 ? below : below + 1) / 10_000).toFixed(4);
}

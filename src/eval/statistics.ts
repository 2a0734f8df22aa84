import { random } from '../random.ts';

// How certain a metric is, and whether two systems differ by more than chance.

/** A metric with its 95 % confidence interval over questions of the same kind. */
export interface Interval {
  value: number;
  low: number;
  high: number;
}

/** Arithmetic mean; 0 for no value. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return values.length === 0 ? 0 : sum / values.length;
}

const RESAMPLES = 1000;

/** The middle 95 % of results of `RESAMPLES` resamples. */
function middle(results: Float64Array): { low: number; high: number } {
  const sorted = results.sort();
  const tail = Math.floor(RESAMPLES * 0.025);
  return { low: sorted[tail], high: sorted[RESAMPLES - 1 - tail] };
}

/** Mean of one value per question, with its bootstrap interval: over means of as many values drawn with replacement. */
export function meanInterval(values: ArrayLike<number>, seed: number): Interval {
  return meanIntervals([values], seed)[0];
}

/** `meanInterval` of several lists of values of the same questions; the draws, which take most of the time, are made once. */
export function meanIntervals(lists: readonly ArrayLike<number>[], seed: number): Interval[] {
  const n = lists[0]?.length ?? 0;
  if (n === 0) return lists.map(() => ({ value: 0, low: 0, high: 0 }));
  const rng = random(seed);
  const drawn = new Int32Array(n);
  const means = lists.map(() => new Float64Array(RESAMPLES));
  for (let r = 0; r < RESAMPLES; r++) {
    for (let i = 0; i < n; i++) drawn[i] = rng.int(n);
    for (const [l, values] of lists.entries()) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += values[drawn[i]];
      means[l][r] = sum / n;
    }
  }
  return lists.map((values, l) => ({ value: mean(values), ...middle(means[l]) }));
}

/**
 * Σ sums / Σ weights with its bootstrap interval: the mean over word pieces. Whole sentences, each with its sum and its
 * number of pieces, are drawn with replacement, since the pieces of one sentence are not independent.
 */
export function ratioInterval(sums: ArrayLike<number>, weights: ArrayLike<number>, seed: number): Interval {
  const n = sums.length;
  if (n === 0) return { value: 0, low: 0, high: 0 };
  const ratio = (at: (i: number) => number) => {
    let sum = 0;
    let weight = 0;
    for (let i = 0; i < n; i++) {
      const j = at(i);
      sum += sums[j];
      weight += weights[j];
    }
    return sum / weight;
  };
  const rng = random(seed);
  const resampled = Float64Array.from({ length: RESAMPLES }, () => ratio(() => rng.int(n)));
  return { value: ratio((i) => i), ...middle(resampled) };
}

/** One system's scores minus another's, on the same questions. */
export interface Comparison {
  questions: number;
  /** Mean difference; the interval is from a paired bootstrap over questions. */
  difference: Interval;
  /** Number of questions on which the first system scores higher, and on which the other does. */
  better: number;
  worse: number;
  /** p value of McNemar's exact test, if every score is 0 or 1. */
  pValue?: number;
}

/** Compares two systems question by question. @param scores, others one value per question, in the same order */
export function compare(scores: ArrayLike<number>, others: ArrayLike<number>, seed: number): Comparison {
  const differences = Float64Array.from({ length: scores.length }, (_, i) => scores[i] - others[i]);
  const better = differences.filter((d) => d > 0).length;
  const worse = differences.filter((d) => d < 0).length;
  const binary = [scores, others].every((list) => Array.from(list).every((s) => s === 0 || s === 1));
  return {
    questions: scores.length,
    difference: meanInterval(differences, seed),
    better,
    worse,
    ...(binary ? { pValue: mcnemar(better, worse) } : {}),
  };
}

/**
 * Two-sided p value of McNemar's exact test: the probability of a split at least as uneven, if each question that only
 * one of the two systems answers right is equally likely to belong to either.
 * @param onlyFirst, onlySecond number of questions that only one system answers right
 */
export function mcnemar(onlyFirst: number, onlySecond: number): number {
  const n = onlyFirst + onlySecond;
  const fewer = Math.min(onlyFirst, onlySecond);
  // C(n, k) / 2^n by logarithms: the numbers themselves exceed the range of a double beyond n = 1029.
  let logTerm = -n * Math.LN2;
  let tail = 0;
  for (let k = 0; k <= fewer; k++) {
    tail += Math.exp(logTerm);
    logTerm += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * tail);
}

const SIGN_FLIPS = 10_000;

/**
 * Two-sided p value of the paired randomisation test, the usual one for measures of retrieval (Smucker, Allan and
 * Carterette 2007, A comparison of statistical significance tests for information retrieval evaluation): the probability
 * of a mean difference at least as far from 0, if the two systems' values of each question are exchanged by chance. All
 * exchanges of up to 13 questions that differ, 10,000 drawn ones of more.
 * @param differences one per question
 */
export function randomisationTest(differences: ArrayLike<number>, seed: number): number {
  const values = Float64Array.from(differences).filter((d) => d !== 0);
  const n = values.length;
  const observed = Math.abs(values.reduce((sum, d) => sum + d, 0));
  const least = observed * (1 - 1e-12); // sums of the same numbers in another order differ in their last digits
  const all = 2 ** n <= SIGN_FLIPS;
  const flips = all ? 2 ** n : SIGN_FLIPS;
  const rng = random(seed);
  let extreme = 0;
  for (let flip = 0; flip < flips; flip++) {
    let sum = 0;
    let signs = flip;
    for (let i = 0; i < n; i++) {
      if (!all && i % 32 === 0) signs = rng.int(2 ** 32);
      sum += (((signs >>> (i % 32)) & 1) * 2 - 1) * values[i];
    }
    if (Math.abs(sum) >= least) extreme++;
  }
  return all ? extreme / flips : (extreme + 1) / (flips + 1);
}

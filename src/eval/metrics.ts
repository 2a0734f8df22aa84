import type { Accepted } from '../corpus/qa.ts';
import { random } from '../random.ts';

// Scores of a predicted answer. Two published evaluations differ in small ways that move figures by points:
//   orqa   google-research/language, orqa/utils/eval_utils.py (ORQA and REALM)
//   dpr    facebookresearch/DPR, dpr/data/qa_validation.py (DPR, FiD, Atlas)

export type Protocol = 'orqa' | 'dpr';

const ASCII_PUNCTUATION = /[!-/:-@[-`{-~]/g;

// Articles as whole words. Python's `re` (ORQA) does not count a combining mark as part of a word, its `regex` module
// (DPR) does; JavaScript's \b would take every letter outside ASCII for the end of a word.
const ARTICLE: Record<Protocol, RegExp> = {
  orqa: /(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu,
  dpr: /(?<![\p{L}\p{N}\p{M}_])(?:a|an|the)(?![\p{L}\p{N}\p{M}_])/gu,
};

/** Lower case, without ASCII punctuation, articles and extra white space; `orqa` takes the text to NFD first (marks stay). */
export function normalizeAnswer(text: string, protocol: Protocol): string {
  const unified = protocol === 'orqa' ? text.normalize('NFD') : text;
  return unified
    .toLowerCase()
    .replace(ASCII_PUNCTUATION, '')
    .replace(ARTICLE[protocol], ' ')
    .split(/\s+/)
    .filter((word) => word !== '')
    .join(' ');
}

/** Whether the prediction equals any answer after normalisation. */
export function exactMatch(prediction: string, answers: readonly string[], protocol: Protocol): boolean {
  const predicted = normalizeAnswer(prediction, protocol);
  return answers.some((answer) => normalizeAnswer(answer, protocol) === predicted);
}

/** SQuAD's word F1 with the best answer, 0 to 1 (SQuAD v1.1 evaluation; 0 where either side has no word left). */
export function f1(prediction: string, answers: readonly string[], protocol: Protocol): number {
  const predicted = words(prediction, protocol);
  return answers.reduce((best, answer) => Math.max(best, wordF1(predicted, words(answer, protocol))), 0);
}

function words(text: string, protocol: Protocol): string[] {
  const normal = normalizeAnswer(text, protocol);
  return normal === '' ? [] : normal.split(' ');
}

function wordF1(predicted: readonly string[], answer: readonly string[]): number {
  const left = new Map<string, number>();
  for (const word of answer) left.set(word, (left.get(word) ?? 0) + 1);
  let same = 0;
  for (const word of predicted) {
    const n = left.get(word) ?? 0;
    if (n === 0) continue;
    left.set(word, n - 1);
    same++;
  }
  return same === 0 ? 0 : (2 * same) / (predicted.length + answer.length);
}

/** Whether the prediction is right: it equals an answer, or an expression matches it (orqa/utils/eval_utils.py, is_correct). */
export function isCorrect(
  prediction: string,
  { answers, answerKind }: Accepted,
  protocol: Protocol,
): boolean {
  return answerKind === 'regex'
    ? regexMatch(prediction, answers, protocol)
    : exactMatch(prediction, answers, protocol);
}

/**
 * Whether any pattern matches, for data whose answers are regular expressions (CuratedTREC): `orqa` at the start of the
 * raw prediction, `dpr` anywhere in it with both in NFD. Case is ignored; a pattern that cannot be compiled never matches.
 * The list of patterns must not change between calls: it is compiled once.
 */
export function regexMatch(prediction: string, patterns: readonly string[], protocol: Protocol): boolean {
  const text = protocol === 'dpr' ? prediction.normalize('NFD') : prediction;
  return compiled(patterns, protocol).some((regex) => {
    regex.lastIndex = 0; // a sticky expression goes on where its last match ended
    return regex.test(text);
  });
}

/** The texts that the patterns match, each once: the answers that a text holds. */
export function regexMatches(text: string, patterns: readonly string[]): string[] {
  const found = compiled(patterns, 'all').flatMap((regex) => text.match(regex) ?? []);
  return [...new Set(found.map((match) => match.trim()))].filter((match) => match !== '');
}

const FLAGS = { orqa: 'imy', dpr: 'im', all: 'img' };
const kept = new WeakMap<readonly string[], Partial<Record<keyof typeof FLAGS, RegExp[]>>>();

function compiled(patterns: readonly string[], use: keyof typeof FLAGS): RegExp[] {
  let uses = kept.get(patterns);
  if (!uses) {
    uses = {};
    kept.set(patterns, uses);
  }
  uses[use] ??= patterns.flatMap((p) => compile(use === 'dpr' ? p.normalize('NFD') : p, FLAGS[use]) ?? []);
  return uses[use];
}

/** Unicode mode first, for its case folding; it refuses escapes such as `\-`, which Python takes. */
function compile(pattern: string, flags: string): RegExp | undefined {
  for (const mode of [`${flags}u`, flags]) {
    try {
      return new RegExp(pattern, mode);
    } catch {
      // next mode
    }
  }
  return undefined;
}

/** Arithmetic mean; 0 for no value. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return values.length === 0 ? 0 : sum / values.length;
}

/** Interval that holds the mean with probability `level`: percentiles of the means of `resamples` draws with replacement. */
export function bootstrapInterval(
  values: ArrayLike<number>,
  seed: number,
  level = 0.95,
  resamples = 1000,
): { low: number; high: number } {
  const n = values.length;
  if (n === 0) return { low: 0, high: 0 };
  const rng = random(seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += values[rng.int(n)];
    means[r] = sum / n;
  }
  means.sort();
  const tail = Math.floor((resamples * (1 - level)) / 2);
  return { low: means[tail], high: means[resamples - 1 - tail] };
}

import type { Accepted } from '../datasets/types.ts';
import { UserError } from '../system/errors.ts';
import { hasUnspaced, UNSPACED } from '../tokenizer/unspaced.ts';
import { type Flavour, pythonRegex, SPACE, WORD } from './python-regex.ts';

// Scores of a predicted answer by five published evaluations, which differ in small ways that change metrics by points:
//   orqa   google-research/language at 208f852, language/orqa/utils/eval_utils.py (ORQA and REALM)
//   dpr    facebookresearch/DPR at a31212d, dpr/data/qa_validation.py (DPR, FiD, Atlas)
//   drqa   facebookresearch/DrQA at 6d7c1b7, scripts/pipeline/eval.py with drqa/reader/utils.py
//   hf     huggingface/evaluate at b6e7c3b, metrics/squad/compute_score.py (SQuAD v1.1's own script)
//   mlqa   facebookresearch/MLQA at 5ef5c73, mlqa_evaluation_v1.py: the same for scripts without spaces (see `mlqaNormal`)
// They equal those scripts for every prediction (test/eval/protocols.test.ts), except for characters that are newer than
// their Python, for regular expressions that JavaScript does not support (python-regex.ts), and for a question without any
// answer, which counts as wrong here and is an error there.

export const PROTOCOLS = ['orqa', 'dpr', 'drqa', 'hf', 'mlqa'] as const;
export type Protocol = (typeof PROTOCOLS)[number];

/**
 * How texts are normalised before they are compared: whether to NFD, and the Python module that finds articles and compiles
 * regular expressions.
 */
const RULES: Record<Exclude<Protocol, 'mlqa'>, { nfd: boolean; flavour: Flavour }> = {
  orqa: { nfd: true, flavour: 're' },
  dpr: { nfd: false, flavour: 'regex' },
  drqa: { nfd: true, flavour: 'regex' },
  hf: { nfd: false, flavour: 're' },
};

/** Python's string.punctuation, which has only ASCII. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Whole words. The two modules differ in what a word is next to a combining mark or ². */
const ARTICLE: Record<Flavour, RegExp> = { re: article('re'), regex: article('regex') };

function article(flavour: Flavour): RegExp {
  return new RegExp(`(?<!${WORD[flavour]})(?:a|an|the)(?!${WORD[flavour]})`, 'gu');
}

const SPACES = new RegExp(`${SPACE}+`);

/** Lower case, without ASCII punctuation, articles and extra white space. `orqa` and `drqa` convert to NFD first (marks stay). */
export function normalizeAnswer(text: string, protocol: Protocol): string {
  if (protocol === 'mlqa') return mlqaNormal(text);
  const { nfd, flavour } = RULES[protocol];
  return (nfd ? text.normalize('NFD') : text)
    .toLowerCase()
    .replace(PUNCTUATION, '')
    .replace(ARTICLE[flavour], ' ')
    .split(SPACES)
    .filter((word) => word !== '')
    .join(' ');
}

const ALL_PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/gu;
const CHARACTER = new RegExp(`${UNSPACED}\\p{M}*`, 'gu');

/**
 * As MLQA's script with the language zh for a text in a script without spaces, else en: lower case, without any punctuation,
 * each character of such a script a word by itself. The script does so for Chinese characters (U+4E00 to U+9FA5) alone, and
 * has no other language without spaces; MKQA's adds Japanese, Thai and Khmer.
 */
function mlqaNormal(text: string): string {
  const bare = text.toLowerCase().replace(ALL_PUNCTUATION, '');
  return (hasUnspaced(bare) ? bare.replace(CHARACTER, ' $& ') : bare.replace(ARTICLE.re, ' '))
    .split(SPACES)
    .filter((word) => word !== '')
    .join(' ');
}

/** Whether the prediction equals any answer after normalisation. */
export function exactMatch(prediction: string, answers: readonly string[], protocol: Protocol): boolean {
  const predicted = normalizeAnswer(prediction, protocol);
  return answers.some((answer) => normalizeAnswer(answer, protocol) === predicted);
}

/**
 * SQuAD's word F1 with the best answer, 0 to 1; 0 if either side has no words left, as in the scripts that have an F1:
 * `hf`, and `drqa` (f1_score; over texts in NFD, as in DrQA's pipeline; its reader's training compares them without NFD).
 * `mlqa` too has the same; for `orqa` and `dpr` it is that F1 over their normalised words.
 */
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
  if (same === 0) return 0;
  // Not 2 same / (predicted + answer), which differs in the last bit from the scripts.
  const precision = same / predicted.length;
  const recall = same / answer.length;
  return (2 * precision * recall) / (precision + recall);
}

/** Whether the prediction is right: it equals an answer, or a regular expression matches it (orqa/utils/eval_utils.py, is_correct). */
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
 * Whether any pattern matches a prediction, for data whose answers are regular expressions (CuratedTREC): `orqa` and `drqa`
 * at its start, `dpr` anywhere in it; `orqa` without normalisation, `dpr` and `drqa` with both in NFD (where a pattern's
 * `\é` is a bad escape, as in Python). Case is ignored; a pattern that cannot be compiled never matches.
 * DPR's reader has no rule for regular expressions: the rule for DPR's passages is used.
 * The list of patterns must not change between calls: it is compiled once.
 * @throws UserError for `hf` and `mlqa`: their scripts would compare the regular expressions as texts
 */
export function regexMatch(prediction: string, patterns: readonly string[], protocol: Protocol): boolean {
  if (protocol === 'hf' || protocol === 'mlqa') {
    throw new UserError(
      `protocol ${protocol} has no rule for answers that are regular expressions; score them with orqa, dpr or drqa`,
    );
  }
  if (protocol === 'dpr') return regexSearch(prediction, patterns, protocol);
  return anyMatches(prediction, patterns, `${protocol} start`);
}

/**
 * Whether any pattern matches anywhere in a retrieved text; otherwise like `regexMatch`, with `hf` and `mlqa` as `dpr`. `drqa` uses
 * only the first pattern (scripts/retriever/eval.py).
 */
export function regexSearch(text: string, patterns: readonly string[], protocol: Protocol): boolean {
  return anyMatches(text, patterns, protocol === 'orqa' || protocol === 'drqa' ? protocol : 'dpr');
}

/** The texts that the patterns match, each once: the answers in a text. */
export function regexMatches(text: string, patterns: readonly string[]): string[] {
  const found = compiled(patterns, 'all').flatMap((regex) => text.match(regex) ?? []);
  return [...new Set(found.map((match) => match.trim()))].filter((match) => match !== '');
}

/** Ways to use a list of patterns; `first`: only the first one. */
const USES = {
  orqa: { nfd: false, flavour: 're', flags: '', first: false },
  dpr: { nfd: true, flavour: 'regex', flags: '', first: false },
  drqa: { nfd: true, flavour: 'regex', flags: '', first: true },
  'orqa start': { nfd: false, flavour: 're', flags: 'y', first: false },
  'drqa start': { nfd: true, flavour: 'regex', flags: 'y', first: false },
  all: { nfd: false, flavour: 're', flags: 'g', first: false },
} as const;
type Use = keyof typeof USES;
const kept = new WeakMap<readonly string[], Partial<Record<Use, RegExp[]>>>();

function anyMatches(text: string, patterns: readonly string[], use: Use): boolean {
  const read = USES[use].nfd ? text.normalize('NFD') : text;
  return compiled(patterns, use).some((regex) => {
    regex.lastIndex = 0; // a sticky regular expression continues where its last match ended
    return regex.test(read);
  });
}

function compiled(patterns: readonly string[], use: Use): RegExp[] {
  let uses = kept.get(patterns);
  if (!uses) {
    uses = {};
    kept.set(patterns, uses);
  }
  const { nfd, flavour, flags, first } = USES[use];
  uses[use] ??= (first ? patterns.slice(0, 1) : patterns).flatMap(
    (p) => pythonRegex(nfd ? p.normalize('NFD') : p, flavour, flags) ?? [],
  );
  return uses[use];
}

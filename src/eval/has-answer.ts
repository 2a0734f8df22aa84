import type { Accepted } from '../corpus/qa.ts';
import { drqaTokens } from './drqa-tokens.ts';
import { type Protocol, regexSearch } from './metrics.ts';

// Where answers stand in a text: by words for evaluation and the retriever's gold, by word pieces for the reader's.

/** A run of letters, digits and marks is one token, any other visible character one more (DPR, dpr/utils/tokenizers.py). */
const TOKEN = /[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]/gu;
const WORD = '[\\p{L}\\p{N}\\p{M}]';
const WORD_START = /^[\p{L}\p{N}\p{M}]/u;
const GAP = '[\\p{Z}\\p{C}]';

interface Pattern {
  /** The answer's longest token: a text without it cannot hold the answer, and finding that out is cheap. */
  rarest: string;
  whole: RegExp;
}

const compiled = new WeakMap<readonly string[], Pattern[]>();

/**
 * Whether any answer occurs in the text, as the scripts behind the protocols judge a retrieved passage:
 *   dpr    DPR at a31212d, dpr/data/qa_validation.py, has_answer: both in NFD and lower case, the answer's tokens in the text's
 *          tokens as a contiguous run; an expression matches anywhere in the text
 *   drqa   DrQA at 6d7c1b7, scripts/retriever/eval.py, has_answer: the same with tokens of its own; of a question's
 *          expressions only the first is read
 *   orqa   google-research/language, language/orqa/ops/orqa_ops.cc, HasAnswerOp: the answer's characters stand in the
 *          text, case and all, also within words. It knows no expressions: they match anywhere in the text as it is
 *   hf     SQuAD's script judges no passage: as dpr
 * An answer without a token is in every text, as in all of them.
 * The list of answers must not change between calls: its patterns are kept as long as the list.
 */
export function hasAnswer(
  text: string,
  { answers, answerKind }: Accepted,
  protocol: Protocol = 'dpr',
): boolean {
  if (answerKind === 'regex') return regexSearch(text, answers, protocol);
  if (protocol === 'orqa') return answers.some((answer) => text.includes(answer));
  if (answers.some((answer) => !VISIBLE.test(answer))) return true;
  return protocol === 'drqa' ? drqaHasAnswer(text, answers) : foldedHasAnswer(foldText(text), answers);
}

/** What every token of either tokeniser has one of. */
const VISIBLE = /[^\p{Z}\p{C}]/u;

function oneSigma(text: string): string {
  return text.toLowerCase().replaceAll('ς', 'σ');
}

/** Answers by their tokens, and the longest that is not a replaced one: see `Pattern`. */
const tokenised = new WeakMap<readonly string[], { rarest: string; tokens: string[] }[]>();

function drqaHasAnswer(text: string, answers: readonly string[]): boolean {
  let wanted = tokenised.get(answers);
  if (!wanted) {
    wanted = answers.map((answer) => {
      const tokens = drqaTokens(answer.normalize('NFD'));
      return { rarest: oneSigma(longest(tokens.filter((token) => WORD_START.test(token)))), tokens };
    });
    tokenised.set(answers, wanted);
  }
  const unified = text.normalize('NFD');
  const folded = oneSigma(unified);
  const possible = wanted.filter(({ rarest }) => folded.includes(rarest));
  if (possible.length === 0) return false;
  const all = drqaTokens(unified);
  return possible.some(({ tokens }) =>
    all.some((_, at) => tokens.every((token, i) => all[at + i] === token)),
  );
}

/** `hasAnswer` by `dpr` for answers that are texts; one without a token is in no text, as it teaches nothing. @param folded by `foldText`, which takes most of the time */
export function foldedHasAnswer(folded: string, answers: readonly string[]): boolean {
  let patterns = compiled.get(answers);
  if (!patterns) {
    patterns = answers.map(foldText).flatMap(patternOf);
    compiled.set(answers, patterns);
  }
  for (const { rarest, whole } of patterns) if (folded.includes(rarest) && whole.test(folded)) return true;
  return false;
}

/** A text in NFD and lower case, token by token: whether Σ becomes ς or σ hangs on what stands beside it. */
export function foldText(text: string): string {
  const unified = text.normalize('NFD');
  return unified.includes('Σ')
    ? unified.replace(TOKEN, (token) => token.toLowerCase())
    : unified.toLowerCase();
}

/**
 * A pattern that matches exactly where the tokens of `answer` stand side by side, so that texts need no tokenising:
 * between two words there must be a gap, beside other characters there may be one, and a word at either end must be whole.
 */
function patternOf(answer: string): Pattern[] {
  const tokens = answer.match(TOKEN);
  if (!tokens) return [];
  let source = WORD_START.test(tokens[0]) ? `(?<!${WORD})` : '';
  tokens.forEach((token, i) => {
    const isWord = WORD_START.test(token);
    if (i > 0) source += isWord && WORD_START.test(tokens[i - 1]) ? `${GAP}+` : `${GAP}*`;
    source += isWord ? token : `\\u{${token.codePointAt(0)!.toString(16)}}`;
  });
  if (WORD_START.test(tokens[tokens.length - 1])) source += `(?!${WORD})`;
  return [{ rarest: longest(tokens), whole: new RegExp(source, 'u') }];
}

function longest(tokens: readonly string[]): string {
  return tokens.reduce((best, token) => (token.length > best.length ? token : best), '');
}

/**
 * Every place where the word pieces of an answer stand in a block: pairs [start, end) of token positions, each pair once,
 * by start and then end.
 */
export function answerSpans(tokenIds: Int32Array, answerIds: readonly Int32Array[]): Int32Array {
  const found: [number, number][] = [];
  for (const answer of answerIds) {
    if (answer.length === 0) continue;
    const last = tokenIds.length - answer.length;
    for (
      let at = tokenIds.indexOf(answer[0]);
      at >= 0 && at <= last;
      at = tokenIds.indexOf(answer[0], at + 1)
    ) {
      let same = 1;
      while (same < answer.length && tokenIds[at + same] === answer[same]) same++;
      const end = at + answer.length;
      if (same === answer.length && !found.some(([s, e]) => s === at && e === end)) found.push([at, end]);
    }
  }
  found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return Int32Array.from(found.flat());
}

/**
 * Share of the questions with a right block among the first k retrieved, for each k.
 * @param rankedHas for each question, whether each retrieved block is right, best first
 */
export function recallAtK(rankedHas: readonly (readonly boolean[])[], ks: readonly number[]): number[] {
  const hits = new Array<number>(ks.length).fill(0);
  for (const has of rankedHas) {
    const first = has.indexOf(true);
    ks.forEach((k, i) => {
      if (first >= 0 && first < k) hits[i]++;
    });
  }
  return hits.map((n) => (rankedHas.length === 0 ? 0 : n / rankedHas.length));
}

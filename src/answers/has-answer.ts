import type { Accepted } from '../datasets/types.ts';
import { UNSPACED } from '../tokenizer/unspaced.ts';
import { drqaTokens } from './drqa-tokens.ts';
import { type Protocol, regexSearch } from './metrics.ts';

// Finds answers in a text: by words for evaluation and the retriever's gold blocks, by word pieces for the reader's.

/** A run of letters, digits and marks is one token, any other visible character one more (DPR, dpr/utils/tokenizers.py). */
const DPR = tokensOf('[\\p{L}\\p{N}\\p{M}]');
/**
 * The same, but each character of a script without spaces, with its marks, is a token: such a run is a whole clause, and an
 * answer must be found anywhere in it. MLQA's script compares Chinese in the same way (`mixed_segmentation`).
 */
const CHARACTERS = tokensOf(`(?:(?!${UNSPACED})[\\p{L}\\p{N}\\p{M}])`);

/** @param letter a character of a word: words need a gap between them */
function tokensOf(letter: string) {
  return {
    all: new RegExp(`${letter}+|${UNSPACED}\\p{M}*|[^\\p{Z}\\p{C}]`, 'gu'),
    startsWord: new RegExp(`^${letter}`, 'u'),
    // Matched only at one position, `lastIndex`.
    wordHere: new RegExp(letter, 'uy'),
    wordBefore: new RegExp(`(?<=${letter})`, 'uy'),
    wanted: new WeakMap<readonly string[], Wanted[]>(),
  };
}

const WORD_START = /^[\p{L}\p{N}\p{M}]/u;
const VISIBLE = /[^\p{Z}\p{C}]/u;
const MARK_HERE = /\p{M}/uy;
const GAP_HERE = /[\p{Z}\p{C}]*/uy;

/** An answer by its tokens. */
interface Wanted {
  tokens: string[];
  /** The longest token: a text without it cannot contain the answer, which is cheap to find out. */
  rarest: string;
}

const byDrqa = new WeakMap<readonly string[], Wanted[]>();

/**
 * Whether any answer occurs in the text, as the scripts behind the protocols judge a retrieved passage:
 *   dpr    DPR at a31212d, dpr/data/qa_validation.py, has_answer: both in NFD and lower case, the answer's tokens in the text's
 *          tokens as a contiguous run; a regular expression matches anywhere in the text
 *   drqa   DrQA at 6d7c1b7, scripts/retriever/eval.py, has_answer: the same with other tokens; only the first of a
 *          question's regular expressions is used
 *   orqa   google-research/language, language/orqa/ops/orqa_ops.cc, HasAnswerOp: the text contains the answer's
 *          characters in the same case, also within words. It has no regular expressions: here they match anywhere in
 *          the text as it is
 *   mlqa   MLQA's script judges no passages: as dpr, but each character of a script without spaces is a token
 *   hf     SQuAD's script judges no passages: as dpr
 * An answer without a token is in every text, as in all of them.
 * The list of answers must not change between calls: its patterns are cached as long as the list exists.
 */
export function hasAnswer(
  text: string,
  { answers, answerKind }: Accepted,
  protocol: Protocol = 'dpr',
): boolean {
  if (answerKind === 'regex') return regexSearch(text, answers, protocol);
  if (protocol === 'orqa') return answers.some((answer) => text.includes(answer));
  if (protocol === 'drqa') return drqaHasAnswer(text, answers);
  if (answers.some((answer) => !VISIBLE.test(answer))) return true;
  return foldedHasAnswer(foldText(text), answers, protocol === 'mlqa' ? CHARACTERS : DPR);
}

/** `hasAnswer` by `drqa`, which has to tokenise the text. */
function drqaHasAnswer(text: string, answers: readonly string[]): boolean {
  let wanted = byDrqa.get(answers);
  if (!wanted) {
    wanted = answers.map((answer) => {
      const tokens = drqaTokens(answer.normalize('NFD'));
      // Tokens of words are the words themselves; quotes and dashes are replaced.
      return { tokens, rarest: oneSigma(longest(tokens.filter((token) => WORD_START.test(token)))) };
    });
    byDrqa.set(answers, wanted);
  }
  const unified = text.normalize('NFD');
  const folded = oneSigma(unified);
  const possible = wanted.filter(({ rarest }) => folded.includes(rarest));
  if (possible.length === 0) return false;
  const all = drqaTokens(unified);
  return possible.some(
    ({ tokens }) => tokens.length === 0 || all.some((_, at) => tokens.every((t, i) => all[at + i] === t)),
  );
}

function oneSigma(text: string): string {
  return text.toLowerCase().replaceAll('ς', 'σ');
}

/**
 * `hasAnswer` by `mlqa` for answers that are texts: the same as by `dpr`, except in scripts without spaces. Here an answer
 * without a token is in no text: it would teach nothing.
 * @param folded text from `foldText`, which takes most of the time
 */
export function foldedHasAnswer(folded: string, answers: readonly string[], rule = CHARACTERS): boolean {
  let wanted = rule.wanted.get(answers);
  if (!wanted) {
    wanted = answers.flatMap((answer) => {
      const tokens = foldText(answer).match(rule.all);
      return tokens ? [{ tokens, rarest: longest(tokens) }] : [];
    });
    rule.wanted.set(answers, wanted);
  }
  for (const { tokens, rarest } of wanted) {
    if (!folded.includes(rarest)) continue;
    for (let at = folded.indexOf(tokens[0]); at >= 0; at = folded.indexOf(tokens[0], at + 1)) {
      if (tokensAt(folded, at, tokens, rule)) return true;
    }
  }
  return false;
}

/**
 * Whether the tokens follow one another from `at`, so that texts need not be tokenised. There must be a gap between two
 * words and there may be one next to other characters; a word at either end must be whole.
 */
function tokensAt(folded: string, at: number, tokens: readonly string[], rule: typeof DPR): boolean {
  let word = rule.startsWord.test(tokens[0]);
  if (word && looking(rule.wordBefore, folded, at)) return false;
  let here = at;
  for (const [i, token] of tokens.entries()) {
    if (i > 0) {
      const afterWord = word;
      const gap = looking(GAP_HERE, folded, here) && GAP_HERE.lastIndex > here;
      if (gap) here = GAP_HERE.lastIndex;
      word = rule.startsWord.test(token);
      if (!gap && word && afterWord) return false;
    }
    if (!folded.startsWith(token, here)) return false;
    here += token.length;
    // A character of a script without spaces ends with its marks.
    if (!word && WORD_START.test(token) && looking(MARK_HERE, folded, here)) return false;
  }
  return !(word && looking(rule.wordHere, folded, here));
}

function looking(sticky: RegExp, text: string, at: number): boolean {
  sticky.lastIndex = at;
  return sticky.test(text);
}

/** A text in NFD and lower case, token by token: whether Σ becomes ς or σ depends on the characters around it. */
export function foldText(text: string): string {
  const unified = text.normalize('NFD');
  return unified.includes('Σ')
    ? unified.replace(DPR.all, (token) => token.toLowerCase())
    : unified.toLowerCase();
}

function longest(tokens: readonly string[]): string {
  return tokens.reduce((best, token) => (token.length > best.length ? token : best), '');
}

/**
 * Every occurrence of the word pieces of an answer in a block: pairs [start, end) of token positions, each pair once,
 * ordered by start and then end.
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

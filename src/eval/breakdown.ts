import { normalizeAnswer, type Protocol } from '../answers/metrics.ts';
import type { Accepted } from '../datasets/types.ts';
import { type Interval, meanInterval } from './statistics.ts';

/** Exact match over a part of the questions. */
export interface Part {
  name: string;
  questions: number;
  exactMatch: Interval;
}

const QUESTION_WORDS = ['who', 'when', 'where', 'what', 'which', 'how'] as const;
const WORDS: Record<string, string> = { whom: 'who', whose: 'who' };

/** The question word: the first of who (whom, whose), when, where, what, which and how; `other` for none. */
export function questionWord(question: string): string {
  for (const [found] of question.toLowerCase().matchAll(/\p{L}+/gu)) {
    const word = WORDS[found] ?? found;
    if ((QUESTION_WORDS as readonly string[]).includes(word)) return word;
  }
  return 'other';
}

/** Exact match by question word, in the order of the list above. */
export function byQuestionWord(
  questions: readonly { question: string }[],
  correct: ArrayLike<number>,
  seed: number,
): Part[] {
  const words = questions.map(({ question }) => questionWord(question));
  return parts([...QUESTION_WORDS, 'other'], (i) => words[i], correct, seed);
}

/**
 * Exact match for questions with and without an answer that is also the answer of a training question, after
 * normalisation (Lewis et al. 2021, arXiv 2008.02637, answer overlap). A gap between the two shows a model that memorises answers.
 * @param trained normalised answers of the training questions
 */
export function bySeenAnswer(
  questions: readonly Accepted[],
  trained: ReadonlySet<string>,
  correct: ArrayLike<number>,
  protocol: Protocol,
  seed: number,
): Part[] {
  const seen = questions.map(({ answers }) => answers.some((a) => trained.has(normalizeAnswer(a, protocol))));
  return parts(
    ['seen in training', 'unseen'],
    (i) => (seen[i] ? 'seen in training' : 'unseen'),
    correct,
    seed,
  );
}

/** The named parts that have questions. */
function parts(
  names: readonly string[],
  of: (i: number) => string,
  correct: ArrayLike<number>,
  seed: number,
): Part[] {
  const values = new Map(names.map((name) => [name, [] as number[]]));
  for (let i = 0; i < correct.length; i++) values.get(of(i))!.push(correct[i]);
  return [...values]
    .filter(([, list]) => list.length > 0)
    .map(([name, list]) => ({ name, questions: list.length, exactMatch: meanInterval(list, seed) }));
}

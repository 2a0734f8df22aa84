import type { Accepted } from '../datasets/types.ts';
import { warn } from '../system/progress.ts';
import { hasUnspaced } from '../tokenizer/unspaced.ts';
import type { Protocol } from './metrics.ts';

/**
 * The protocol to score these questions by: the chosen one; else `mlqa` if most of them have answers in scripts without
 * spaces, which the other protocols read as one word a clause; else undefined, the usual one. Warns if only some have.
 */
export function protocolFor(
  questions: readonly Accepted[],
  chosen: Protocol | undefined,
): Protocol | undefined {
  if (chosen !== undefined) return chosen;
  const unspaced = questions.filter(
    ({ answers, answerKind }) => answerKind === 'string' && answers.some(hasUnspaced),
  ).length;
  if (unspaced > questions.length / 2) return 'mlqa';
  if (unspaced > 0)
    warn(
      `${unspaced} of ${questions.length} questions have answers in a script without spaces, where a word is found only if it stands alone; score them with --protocol mlqa`,
    );
  return undefined;
}

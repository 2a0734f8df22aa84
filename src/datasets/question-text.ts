import { UserError } from '../system/errors.ts';

/** Whether a question has a letter or a digit of any script. Without one there is nothing to search for. */
export function hasWords(question: string): boolean {
  return /[\p{L}\p{N}]/u.test(question);
}

export const NO_WORDS =
  'a question has no letter or digit; write it as text, for example: realm ask "who wrote it?"';

/** A `UserError` for a question without a letter or a digit. */
export function needWords(question: string): void {
  if (!hasWords(question)) throw new UserError(NO_WORDS);
}

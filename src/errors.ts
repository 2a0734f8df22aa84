/**
 * A mistake that the reader of the message can mend: bad input, a missing file, a wrong option.
 * The command line prints its message alone and exits with code 2; anything else is a bug and shows a stack.
 * The message names the file, the line where there is one, and what to do.
 */
export class UserError extends Error {
  override name = 'UserError';
}

/** Node's error code (`ENOENT`, `ENOSPC`, …) of anything thrown, or undefined. */
export function errorCode(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

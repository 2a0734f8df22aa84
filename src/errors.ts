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

/** A value of somebody's file as a message shows it: cut short, since it may be of any length and depth. */
export function shown(value: unknown, most = 40): string {
  if (value === undefined) return 'nothing';
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch {
    return 'something nested too deep to show'; // JSON.parse has no limit of depth, JSON.stringify has one
  }
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/**
 * A mistake that the reader of the message can fix: bad input, a missing file, a wrong option.
 * The command line prints only its message and exits with code 2; any other error is a bug and shows a stack.
 * The message names the file, the line if there is one, and what to do.
 */
export class UserError extends Error {
  override name = 'UserError';
}

/** Node's error code (`ENOENT`, `ENOSPC`, …) of anything thrown, or undefined. */
export function errorCode(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

/** By error code: why the operating system refused something, and what to do about it. */
const SYSTEM_ERRORS: Record<string, string> = {
  ENOSPC: 'the disk is full; free some space and run the same command again',
  EFBIG: 'is larger than this user may write (ulimit -f); raise the limit and run the same command again',
  EDQUOT: 'your disk quota is used up; free some space and run the same command again',
  EACCES: 'access is denied; change its permissions or name another path',
  EPERM: 'access is denied; change its permissions or name another path',
  EROFS: 'is on a disk that is mounted read-only; name another path',
  ENOENT: 'does not exist, or was removed meanwhile; put it back or name another path',
  ENOTDIR: 'a part of this path is a file, not a folder; name another path',
  EISDIR: 'is a folder where a file is expected; name another path',
  ENOTEMPTY: 'is not empty although it was just emptied; make sure that no other program writes there',
  EEXIST: 'already exists; make sure that no other program writes there',
  ELOOP: 'is a link that leads to itself; name another path',
  ENAMETOOLONG: 'is too long for a path; name a shorter one',
  EIO: 'the disk failed to read or write; check the disk, then run the same command again',
  ESTALE: 'the file server has lost it; mount it again and run the same command again',
  EMFILE: 'too many files are open; raise the limit (ulimit -n) and run the same command again',
  ENFILE: 'too many files are open on this machine; close some and run the same command again',
  ENOMEM: 'the machine is out of memory; stop other programs or reduce the sizes in the settings',
};

/** One sentence for an error of the operating system that is not a bug; undefined for any other error. */
export function explainSystemError(error: unknown): string | undefined {
  const { code, syscall, path } = (error ?? {}) as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined || !Object.hasOwn(SYSTEM_ERRORS, code)) return undefined;
  return `${path ?? `the system's ${syscall}`}: ${SYSTEM_ERRORS[code]}`;
}

/** A value from a user's file as a message shows it: shortened, since it may have any length and depth. */
export function shown(value: unknown, maxLength = 40): string {
  if (value === undefined) return 'nothing';
  if (nestedDeeper(value, 100)) return 'something nested too deep to show';
  const text = JSON.stringify(value);
  return text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
}

/** JSON.parse has no limit of depth; the limit of JSON.stringify depends on the version of Node. */
function nestedDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => nestedDeeper(inner, levels - 1));
}

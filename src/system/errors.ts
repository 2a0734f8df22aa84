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

/** What the operating system refuses, in words, and what to do about it. */
const TROUBLE: Record<string, string> = {
  ENOSPC: 'the disk is full; free some room and run the same command again',
  EDQUOT: 'your quota of the disk is used up; free some room and run the same command again',
  EACCES: 'access is denied; change its permissions or name another path',
  EPERM: 'access is denied; change its permissions or name another path',
  EROFS: 'lies on a disk that is mounted read-only; name another path',
  ENOENT: 'is not there, or was removed meanwhile; put it back or name another path',
  ENOTDIR: 'a part of this path is a file, not a folder; name another path',
  EISDIR: 'is a folder where a file is expected; name another path',
  ENOTEMPTY: 'is not empty though it was just emptied; another program writes there',
  EEXIST: 'is there already; another program writes there',
  ELOOP: 'is a link that leads to itself; name another path',
  ENAMETOOLONG: 'is too long for a path; name a shorter one',
  EIO: 'the disk fails to read or write; look after it, then run the same command again',
  ESTALE: 'the file server has lost it; mount it anew and run the same command again',
  EMFILE: 'too many files are open; raise the limit (ulimit -n) and run the same command again',
  ENFILE: 'too many files are open on this machine; close some and run the same command again',
  ENOMEM: 'the machine is out of memory; stop other work or lower the sizes in the settings',
};

/** One sentence for an error of the operating system that is no bug; undefined for any other. */
export function systemTrouble(error: unknown): string | undefined {
  const { code, syscall, path } = (error ?? {}) as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined || !Object.hasOwn(TROUBLE, code)) return undefined;
  return `${path ?? `the system's ${syscall}`}: ${TROUBLE[code]}`;
}

/** A value of somebody's file as a message shows it: cut short, since it may be of any length and depth. */
export function shown(value: unknown, most = 40): string {
  if (value === undefined) return 'nothing';
  if (nestedDeeper(value, 100)) return 'something nested too deep to show';
  const text = JSON.stringify(value);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** JSON.parse has no limit of depth; that of JSON.stringify differs from Node to Node. */
function nestedDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => nestedDeeper(inner, levels - 1));
}

import {
  constants,
  copyFileSync,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { isAlive } from './alive.ts';
import { errorCode } from './errors.ts';

// A lock file names the process that works in a folder by its id, its start time and its host. A killed process leaves
// its lock behind; the next process sees that nobody holds the lock and takes it over.

export interface Holder {
  pid: number;
  host: string;
  /** Start time, to recognise a later process with the same id; empty if the system does not provide it. */
  started: string;
  /** The command. */
  work: string;
}

/** This process as the holder of a lock. */
export function thisProcess(work: string): Holder {
  return { pid: process.pid, host: hostname(), started: statOf(process.pid).started, work };
}

/**
 * The process that holds the lock file `path`, or left it behind; undefined if there is none. Changes nothing.
 * @returns `lives` is undefined for a process of another host, which cannot be checked
 */
export function lookAtLock(path: string): (Holder & { lives: boolean | undefined }) | undefined {
  const holder = readHolder(path);
  return holder && { ...holder, lives: holder.host === hostname() ? isHeld(holder) : undefined };
}

/**
 * Takes the lock file `path`.
 * @param released called once when the lock is released, at the end of the process at the latest
 * @returns a function that releases the lock, or the process that holds it
 */
export function takeLock(
  path: string,
  work: string,
  released: () => void = () => {},
): { release: () => void; holder?: undefined } | { holder: Holder } {
  const mine = thisProcess(work);
  // A complete temporary file is linked: no other process can see an empty lock, and only one link succeeds.
  const aside = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(aside, `${JSON.stringify(mine)}\n`);
    for (;;) {
      try {
        place(aside, path);
        break;
      } catch (error) {
        if (errorCode(error) !== 'EEXIST') throw error;
      }
      const holder = readHolder(path);
      if (holder && isHeld(holder)) return { holder };
      clear(path, holder);
    }
  } finally {
    rmSync(aside, { force: true });
  }
  const release = () => {
    if (!held.delete(release)) return;
    process.off('exit', release);
    released();
    try {
      if (readHolder(path)?.pid === process.pid) rmSync(path, { force: true });
    } catch {} // on a disk that can no longer be written it stays, and counts as left by a process that has ended
  };
  held.add(release);
  process.on('exit', release);
  return { release };
}

/** The locks of this process. */
const held = new Set<() => void>();

/** Releases every lock that this process holds, when its work is done but the process may still run. */
export function releaseLocks(): void {
  for (const release of held) release();
}

/** Gives a file a second name. Fails with EEXIST if the name exists. */
function place(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    // Some file systems have no links; there two processes at the same moment may both believe that they are first.
    if (!['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'].includes(errorCode(error) ?? '')) throw error;
    copyFileSync(from, to, constants.COPYFILE_EXCL);
  }
}

/** Removes the lock of a process that has ended. Two may try at once: a new lock that one moves away by mistake is put back. */
function clear(path: string, seen: Holder | undefined): void {
  const aside = `${path}.${process.pid}.old`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  const moved = readHolder(aside);
  if (moved && (moved.pid !== seen?.pid || moved.started !== seen.started) && isHeld(moved)) {
    try {
      place(aside, path);
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') throw error;
    }
  }
  unlinkSync(aside);
}

/** Undefined if there is no lock, or one without valid content (as a full disk may leave it). */
function readHolder(path: string): Holder | undefined {
  try {
    const { pid, host, started, work } = JSON.parse(readFileSync(path, 'utf8'));
    if (Number.isSafeInteger(pid) && pid > 0 && typeof host === 'string') return { pid, host, started, work };
  } catch {}
  return undefined;
}

/** A process of another host cannot be checked: its lock counts as held. */
function isHeld({ pid, host, started }: Holder): boolean {
  if (host !== hostname()) return true;
  if (!isAlive(pid)) return false;
  const now = statOf(pid);
  // A process that has ended keeps its id (state Z) until its parent reads its exit code.
  return started === now.started && now.state !== 'Z';
}

/** State and start time (in ticks since the system started) of a process, from Linux's /proc; empty elsewhere. */
function statOf(pid: number): { state: string; started: string } {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0], started: fields[19] };
  } catch {
    return { state: '', started: '' };
  }
}

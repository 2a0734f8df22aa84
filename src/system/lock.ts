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
import { errorCode } from './errors.ts';

// A lock file tells who works in a folder: a process, by its id and its time of start, on a host. A process that was
// killed leaves its lock behind; the next one sees that nobody holds it and takes it over.

export interface Holder {
  pid: number;
  host: string;
  /** Tells a process from a later one with its id; empty where the system does not say. */
  started: string;
  /** What it does there. */
  work: string;
}

/** This process as the holder of a lock. */
export function thisProcess(work: string): Holder {
  return { pid: process.pid, host: hostname(), started: statOf(process.pid).started, work };
}

/**
 * Who holds the lock file `path`, or left it behind; undefined where there is none. Changes nothing.
 * @returns `lives` is undefined for a process of another host, which cannot be asked
 */
export function lookAtLock(path: string): (Holder & { lives: boolean | undefined }) | undefined {
  const holder = readHolder(path);
  return holder && { ...holder, lives: holder.host === hostname() ? isHeld(holder) : undefined };
}

/**
 * Takes the lock file `path`.
 * @returns gives the lock back, and undefined, or who holds it
 */
export function takeLock(
  path: string,
  work: string,
): { release: () => void; holder?: undefined } | { holder: Holder } {
  const mine = thisProcess(work);
  // Written whole aside, then linked: no other process ever meets an empty lock, and only one link succeeds.
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
    try {
      if (readHolder(path)?.pid === process.pid) rmSync(path, { force: true });
    } catch {} // on a disk that cannot be written any more it stays, and counts as left by a process that has ended
  };
  held.add(release);
  process.on('exit', release);
  return { release };
}

/** The locks of this process. */
const held = new Set<() => void>();

/** Gives back every lock that this process holds: its work is done, whether or not it goes on to live. */
export function releaseLocks(): void {
  for (const release of held) release();
}

/** Gives a file a second name that must be new. */
function place(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    // Some file systems know no links; there two that come within the same moment may both think they are first.
    if (!['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'].includes(errorCode(error) ?? '')) throw error;
    copyFileSync(from, to, constants.COPYFILE_EXCL);
  }
}

/** Takes away the lock of a process that is gone. Two may try at once: what one of them moves away by mistake is put back. */
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

/** Undefined where there is no lock, or one that says nothing (a full disk may leave it so). */
function readHolder(path: string): Holder | undefined {
  try {
    const { pid, host, started, work } = JSON.parse(readFileSync(path, 'utf8'));
    if (Number.isSafeInteger(pid) && pid > 0 && typeof host === 'string') return { pid, host, started, work };
  } catch {}
  return undefined;
}

/** A process of another host cannot be asked: its lock counts. */
function isHeld({ pid, host, started }: Holder): boolean {
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errorCode(error) === 'ESRCH') return false;
  }
  const now = statOf(pid);
  // One that has ended and that nobody asked for its exit code yet still has an id.
  return started === now.started && now.state !== 'Z';
}

/** State and time of start (in ticks since the system's) of a process, where Linux's /proc tells them. */
function statOf(pid: number): { state: string; started: string } {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0], started: fields[19] };
  } catch {
    return { state: '', started: '' };
  }
}

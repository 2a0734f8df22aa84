import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { errorCode } from '../system/errors.ts';

/** What is made of a log, line by line. */
export interface Fold<T> {
  take(record: Record<string, unknown>): void;
  result: T;
}

/** Bytes read at once; a longer line is passed over. */
const PIECE = 4 << 20;

/** How far a log was read last time, and what was made of it: a page that is drawn anew reads what is new. */
const followed = new Map<string, { file: string; offset: number; fold: Fold<unknown> }>();

/**
 * Folds the records of a JSONL log, which may be growing; undefined where there is none, or a folder in its place. A line that is no JSON object (a
 * kill cut it short) is left out. A file that took the log's place since the last call is read from its beginning.
 */
export function readLog<T>(path: string, begin: () => Fold<T>): T | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    followed.delete(path);
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return undefined;
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return undefined;
    const { ino, birthtimeMs, size } = stat;
    const file = `${ino} ${birthtimeMs}`;
    let state = followed.get(path) as { file: string; offset: number; fold: Fold<T> } | undefined;
    if (!state || state.file !== file || size < state.offset) {
      state = { file, offset: 0, fold: begin() };
      followed.set(path, state);
    }
    state.offset = readLines(fd, state.offset, (record) => state.fold.take(record));
    return state.fold.result;
  } finally {
    closeSync(fd);
  }
}

/** @returns where the last whole line ends */
function readLines(fd: number, from: number, take: (record: Record<string, unknown>) => void): number {
  const piece = Buffer.allocUnsafe(PIECE);
  let offset = from;
  let within = false; // a line that is passed over
  for (;;) {
    const n = readSync(fd, piece, 0, PIECE, offset);
    const end = piece.subarray(0, n).lastIndexOf(10) + 1;
    if (end === 0) {
      if (n === PIECE) {
        within = true;
        offset += n;
        continue;
      }
      // The last line may lack its line feed; half a record is no JSON.
      const record = within ? undefined : parse(piece.toString('utf8', 0, n));
      if (record) take(record);
      return record ? offset + n : offset;
    }
    let at = within ? piece.indexOf(10) + 1 : 0;
    within = false;
    while (at < end) {
      const next = piece.indexOf(10, at);
      const record = parse(piece.toString('utf8', at, next));
      if (record) take(record);
      at = next + 1;
    }
    offset += end;
  }
}

function parse(line: string): Record<string, unknown> | undefined {
  try {
    const record = JSON.parse(line);
    return typeof record === 'object' && record !== null && !Array.isArray(record) ? record : undefined;
  } catch {
    return undefined;
  }
}

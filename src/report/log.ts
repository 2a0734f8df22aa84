import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { errorCode } from '../system/errors.ts';

/** Builds a result from the records of a log, one by one. */
export interface Fold<T> {
  take(record: Record<string, unknown>): void;
  result: T;
}

/** Read at once; longer lines are skipped. */
const READ_BYTES = 4 << 20;

/** How far each log was read last time, and the result so far: a page that is drawn again reads only new records. */
const followed = new Map<string, { file: string; offset: number; fold: Fold<unknown> }>();

/**
 * Folds the records of a JSONL log, which may be growing; undefined if the file is missing or is a folder. A line that is
 * not a JSON object (for example one cut short by a kill) is skipped. If the file was replaced since the last call, it is
 * read from its start.
 */
export function readLog<T>(path: string, start: () => Fold<T>): T | undefined {
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
      state = { file, offset: 0, fold: start() };
      followed.set(path, state);
    }
    state.offset = readLines(fd, state.offset, (record) => state.fold.take(record));
    return state.fold.result;
  } finally {
    closeSync(fd);
  }
}

/** @returns where the last complete line ends */
function readLines(fd: number, from: number, take: (record: Record<string, unknown>) => void): number {
  const piece = Buffer.allocUnsafe(READ_BYTES);
  let offset = from;
  let within = false; // a line that is skipped
  for (;;) {
    const n = readSync(fd, piece, 0, READ_BYTES, offset);
    const end = piece.subarray(0, n).lastIndexOf(10) + 1;
    if (end === 0) {
      if (n === READ_BYTES) {
        within = true;
        offset += n;
        continue;
      }
      // The last line may lack its line feed; half a record is not valid JSON.
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

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { errorCode } from '../system/errors.ts';
import type { FileDigest } from '../system/files.ts';
import { inside } from '../system/files.ts';
import type { NamedDigest } from './manifest.ts';

/** How work that takes minutes reports that it is alive, and how it is stopped. */
export interface TaskControl {
  /**
   * Called between two pieces of work.
   * @param bytes how much the next blocking call reads or writes; 0 if it is little
   */
  onHeartbeat?(bytes: number): void;
  /** Stops the work between two pieces with `signal.reason`. */
  signal?: AbortSignal;
}

/** Called between two blocking calls: lets messages and timers run, and stops the work if requested. */
export async function yieldToEventLoop({ onHeartbeat, signal }: TaskControl, bytes = 0): Promise<void> {
  onHeartbeat?.(bytes);
  await new Promise((resolve) => setImmediate(resolve));
  signal?.throwIfAborted();
}

/** Bytes hashed between two calls of `yieldToEventLoop`. */
const BYTES_PER_PIECE = 1 << 23;

/** Length and SHA-256 of a file that may take a minute to read. */
export async function digestFile(path: string, control: TaskControl): Promise<FileDigest> {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(BYTES_PER_PIECE);
  let bytes = 0;
  const fd = openSync(path, 'r');
  try {
    for (let n = readSync(fd, piece); n > 0; n = readSync(fd, piece)) {
      hash.update(piece.subarray(0, n));
      bytes += n;
      await yieldToEventLoop(control);
    }
  } finally {
    closeSync(fd);
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Whether a file of the index folder `dir` exists with the length and SHA-256 of its digest. */
export async function isWhole(dir: string, expected: NamedDigest, control: TaskControl): Promise<boolean> {
  try {
    const { bytes, sha256 } = await digestFile(inside(dir, expected.name), control);
    return bytes === expected.bytes && sha256 === expected.sha256;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { errorCode } from '../system/errors.ts';
import type { FileDigest } from '../system/files.ts';
import { inside } from '../system/files.ts';
import type { NamedDigest } from './manifest.ts';

/** How work that takes minutes shows that it goes on, and hears that it should not. */
export interface TaskControl {
  /**
   * Called between two pieces of work.
   * @param bytes how much is read or written next in one blocking call; 0 for nothing worth telling
   */
  onHeartbeat?(bytes: number): void;
  /** Stops the work between two pieces with `signal.reason`. */
  signal?: AbortSignal;
}

/** Lets messages and timers in between two blocking calls, and is the place to stop. */
export async function yieldToEventLoop(
  { onHeartbeat: onAlive, signal }: TaskControl,
  bytes = 0,
): Promise<void> {
  onAlive?.(bytes);
  await new Promise((resolve) => setImmediate(resolve));
  signal?.throwIfAborted();
}

/** Bytes hashed between two breaths. */
const PIECE = 1 << 23;

/** Length and SHA-256 of a file that may take a minute to read. */
export async function digestFile(path: string, control: TaskControl): Promise<FileDigest> {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(PIECE);
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

/** Whether a file of the index folder `dir` is there with the content that the manifest says. */
export async function isWhole(dir: string, seal: NamedDigest, control: TaskControl): Promise<boolean> {
  try {
    const { bytes, sha256 } = await digestFile(inside(dir, seal.name), control);
    return bytes === seal.bytes && sha256 === seal.sha256;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

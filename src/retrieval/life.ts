import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { errorCode } from '../system/errors.ts';
import type { FileSeal } from '../system/files.ts';
import { inside } from '../system/files.ts';
import type { NamedSeal } from './manifest.ts';

/** How work that takes minutes shows that it goes on, and hears that it should not. */
export interface Life {
  /**
   * Called between two pieces of work.
   * @param bytes how much is read or written next in one blocking call; 0 for nothing worth telling
   */
  onAlive?(bytes: number): void;
  /** Stops the work between two pieces with `signal.reason`. */
  signal?: AbortSignal;
}

/** Lets messages and timers in between two blocking calls, and is the place to stop. */
export async function breathe({ onAlive, signal }: Life, bytes = 0): Promise<void> {
  onAlive?.(bytes);
  await new Promise((resolve) => setImmediate(resolve));
  signal?.throwIfAborted();
}

/** Bytes hashed between two breaths. */
const PIECE = 1 << 23;

/** Length and SHA-256 of a file that may take a minute to read. */
export async function sealFile(path: string, life: Life): Promise<FileSeal> {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(PIECE);
  let bytes = 0;
  const fd = openSync(path, 'r');
  try {
    for (let n = readSync(fd, piece); n > 0; n = readSync(fd, piece)) {
      hash.update(piece.subarray(0, n));
      bytes += n;
      await breathe(life);
    }
  } finally {
    closeSync(fd);
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Whether a file of the index folder `dir` is there with the content that the manifest says. */
export async function isWhole(dir: string, seal: NamedSeal, life: Life): Promise<boolean> {
  try {
    const { bytes, sha256 } = await sealFile(inside(dir, seal.name), life);
    return bytes === seal.bytes && sha256 === seal.sha256;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

import { closeSync, openSync } from 'node:fs';
import { inside, readFully } from '../system/files.ts';
import type { IndexManifest } from './manifest.ts';
import { isWhole, type TaskControl, yieldToEventLoop } from './task-control.ts';

// Copies vectors from an index of another corpus: the same text, embedded with the same weights, has the same vector.

export interface Reuse {
  /** SHA-256 of the embeddings. */
  sha256: string;
  /** The row of the block with this hash; -1 if there is none. */
  row(hash: bigint): number;
  /** Copies the embeddings of `rows` to `out` [n, P], in order; for a row of -1, `out` is left unchanged. */
  copy(rows: Int32Array, out: Float32Array): void;
  close(): void;
}

/**
 * Opens the index folder `dir` to copy from; undefined if its files do not match the manifest.
 * Memory: 8 bytes per row for the hashes and 6 to 12 for the hash table.
 */
export async function openReuse(
  dir: string,
  manifest: IndexManifest,
  control: TaskControl,
): Promise<Reuse | undefined> {
  const { rows, dimensions } = manifest;
  for (const digest of [manifest.blocks, manifest.embeddings]) {
    if (!(await isWhole(dir, digest, control))) return undefined;
  }
  const words = new Uint32Array(rows * 2); // of the hashes, low word first
  const hashes = openSync(inside(dir, manifest.blocks.name), 'r');
  try {
    readFully(hashes, new Uint8Array(words.buffer), 0);
  } finally {
    closeSync(hashes);
  }
  // Open addressing: row + 1 is stored in the slot given by its hash's low word, or in the next free slot after it.
  let size = 1;
  while (size < rows * 1.5) size *= 2;
  const table = new Uint32Array(size);
  for (let row = 0; row < rows; row++) {
    table[slot(words[2 * row], words[2 * row + 1])] = row + 1; // of several copies of a block, the last one counts
    if (row % HASHES_AT_ONCE === 0) await yieldToEventLoop(control);
  }
  const file = openSync(inside(dir, manifest.embeddings.name), 'r');

  /** The slot of the hash, or the free slot where it would be stored. */
  function slot(low: number, high: number): number {
    let at = low & (size - 1);
    for (; table[at] !== 0; at = (at + 1) & (size - 1)) {
      const row = table[at] - 1;
      if (words[2 * row] === low && words[2 * row + 1] === high) break;
    }
    return at;
  }

  return {
    sha256: manifest.embeddings.sha256,
    row: (hash) => table[slot(Number(hash & 0xffffffffn), Number(hash >> 32n))] - 1,
    copy(wanted, out) {
      const bytes = new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
      const rowBytes = dimensions * 4;
      for (let i = 0; i < wanted.length; ) {
        if (wanted[i] < 0) {
          i++;
          continue;
        }
        let n = 1; // consecutive rows are read together
        while (i + n < wanted.length && wanted[i + n] === wanted[i] + n) n++;
        readFully(file, bytes.subarray(i * rowBytes, (i + n) * rowBytes), wanted[i] * rowBytes);
        i += n;
      }
    },
    close: () => closeSync(file),
  };
}

/** Hashes added to the table between two calls of `yieldToEventLoop`. */
const HASHES_AT_ONCE = 1 << 16;

import { random } from '../random.ts';
import { readFully } from '../system/files.ts';
import { exactPieces } from './exact.ts';
import type { Found } from './graph.ts';
import { type TaskControl, yieldToEventLoop } from './task-control.ts';

// How much graphs miss: their results compared with an exact search over the embeddings file [rows, P].

const PROBE_ROWS = 64;

/** Up to 64 of the `rows` rows of the embeddings file from `first` on; the choice depends only on `rows`. */
export function sampleRows(file: number, first: number, rows: number, dimensions: number): Float32Array {
  const n = Math.min(PROBE_ROWS, rows);
  const rng = random(rows);
  const picked = new Set<number>();
  while (picked.size < n) picked.add(rng.int(rows));
  const probes = new Float32Array(n * dimensions);
  let at = 0;
  for (const row of picked) {
    const bytes = new Uint8Array(probes.buffer, at * 4, dimensions * 4);
    readFully(file, bytes, (first + row) * dimensions * 4);
    at += dimensions;
  }
  return probes;
}

/** An open embeddings file [rows, dimensions]. */
export interface EmbeddingsFile {
  file: number;
  rows: number;
  dimensions: number;
}

/** Mean share of the k exactly best rows that are in `found` [n*k]. @param probes [n, P] */
export async function recallOf(
  found: Found,
  k: number,
  probes: Float32Array,
  { file, rows, dimensions }: EmbeddingsFile,
  threads: number,
  control: TaskControl,
): Promise<number> {
  const pieces = exactPieces(file, rows, dimensions, probes, k, threads);
  let step = pieces.next();
  for (; !step.done; step = pieces.next()) await yieldToEventLoop(control);
  const exact = step.value;
  const n = probes.length / dimensions;
  let hits = 0;
  for (let q = 0; q < n; q++) {
    const best = new Set(exact.blocks.subarray(q * k, (q + 1) * k));
    for (let i = 0; i < found.counts[q]; i++) if (best.has(found.blocks[q * k + i])) hits++;
  }
  return hits / (n * k);
}

import { exactSearch, MetricKind } from 'usearch';
import { readFully } from '../files.ts';
import { random } from '../random.ts';
import type { Found } from './graph.ts';
import { breathe, type Life } from './life.ts';

// What a graph misses: its answers beside those of an exact search over the embeddings file [rows, P].

const PROBES = 64;

/** Rows searched at a time: the scratch memory of exact search grows with rows times queries. */
const PIECE = 4096;

/** Up to 64 rows of the embeddings file, the same ones for every index of as many rows. */
export function sampleRows(file: number, rows: number, dimensions: number): Float32Array {
  const n = Math.min(PROBES, rows);
  const rng = random(rows);
  const picked = new Set<number>();
  while (picked.size < n) picked.add(rng.int(rows));
  const probes = new Float32Array(n * dimensions);
  let at = 0;
  for (const row of picked) {
    readFully(file, new Uint8Array(probes.buffer, at * 4, dimensions * 4), row * dimensions * 4);
    at += dimensions;
  }
  return probes;
}

/** Mean share of the k exactly best rows that `found` [n*k] names. @param probes [n, P], with a buffer of its own */
export async function recallOf(
  found: Found,
  k: number,
  probes: Float32Array,
  file: number,
  rows: number,
  dimensions: number,
  threads: number,
  life: Life,
): Promise<number> {
  const exact = await exactTop(file, rows, dimensions, probes, k, threads, life);
  const n = probes.length / dimensions;
  let hits = 0;
  for (let q = 0; q < n; q++) {
    const best = new Set(exact.subarray(q * k, (q + 1) * k));
    for (let i = 0; i < found.counts[q]; i++) if (best.has(found.blocks[q * k + i])) hits++;
  }
  return hits / (n * k);
}

/** The k rows of largest inner product for each query, best first: [n*k] row numbers. */
async function exactTop(
  file: number,
  rows: number,
  dimensions: number,
  queries: Float32Array,
  k: number,
  threads: number,
  life: Life,
): Promise<Int32Array> {
  const n = queries.length / dimensions;
  const best = new Int32Array(n * k).fill(-1);
  const distances = new Float32Array(n * k).fill(Infinity);
  // Exact search reads its arrays from the start of their buffers, whatever their offset.
  const piece = new Float32Array(Math.min(PIECE, rows) * dimensions);
  for (let first = 0; first < rows; first += PIECE) {
    const here = Math.min(PIECE, rows - first);
    readFully(file, new Uint8Array(piece.buffer, 0, here * dimensions * 4), first * dimensions * 4);
    const wanted = Math.min(k, here);
    const vectors = piece.subarray(0, here * dimensions);
    const found = exactSearch(vectors, queries, dimensions, wanted, MetricKind.IP, threads);
    for (let q = 0; q < n; q++) {
      for (let i = q * wanted; i < (q + 1) * wanted; i++) {
        insert(q * k, first + Number(found.keys[i]), found.distances[i]);
      }
    }
    await breathe(life);
  }
  return best;

  /** Puts a row among the k of the query whose places begin at `start`, where it is better than the last. */
  function insert(start: number, row: number, distance: number): void {
    let slot = start + k - 1;
    if (distance >= distances[slot]) return;
    for (; slot > start && distances[slot - 1] > distance; slot--) {
      distances[slot] = distances[slot - 1];
      best[slot] = best[slot - 1];
    }
    distances[slot] = distance;
    best[slot] = row;
  }
}

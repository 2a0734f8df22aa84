import { closeSync, fsyncSync, openSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Index, MetricKind, ScalarKind } from 'usearch';
import { errorCode, UserError } from '../system/errors.ts';
import { explainWrite, syncFile, writeFully } from '../system/files.ts';
import { orderTies } from './ties.ts';

// The HNSW graph of usearch, with checks: usearch accepts wrong input silently, or crashes the process.
// Letters: n queries, k wanted blocks, P dimensions of a vector.

export type Graph = Index;

/** How a graph is built. The metric is always `ip`: i8 would normalise the vectors and is therefore not offered. */
export interface GraphShape {
  /** P. */
  dimensions: number;
  /** Type of the vectors in the graph; f16 halves their size and costs about 0.001 of recall. */
  dtype: 'f32' | 'f16';
  /** Links per node (M in the HNSW paper). */
  m: number;
  /** Candidates examined when a node is added. */
  efConstruction: number;
  /** Candidates examined in a search (at least k); not stored in the file. */
  efSearch: number;
}

/** Most rows for which `auto` keeps the vectors in full precision. */
const FULL_PRECISION = 1e6;

/** What `index.dtype` means for an index of this many rows. */
export function dtypeOf(setting: 'auto' | 'f32' | 'f16', rows: number): 'f32' | 'f16' {
  if (setting !== 'auto') return setting;
  return rows > FULL_PRECISION ? 'f16' : 'f32';
}

/** usearch examines at least this many candidates. */
const LEAST_BREADTH = 64;
/** How many candidates a search of a graph examines, if k is not larger. */
const breadths = new WeakMap<Graph, number>();

export function newGraph(shape: GraphShape): Graph {
  const graph = new Index({
    metric: MetricKind.IP,
    quantization: shape.dtype === 'f16' ? ScalarKind.F16 : ScalarKind.F32,
    dimensions: shape.dimensions,
    connectivity: shape.m,
    expansion_add: shape.efConstruction,
    expansion_search: shape.efSearch,
    multi: false,
  });
  breadths.set(graph, Math.max(shape.efSearch, LEAST_BREADTH));
  return graph;
}

/** What a search finds: `blocks` and `scores` [n*k], `counts` [n]; see `SearchIndex.search`. */
export interface Found {
  blocks: Int32Array;
  scores: Float32Array;
  counts: Int32Array;
}

export function nothingFound(n: number, k: number): Found {
  return {
    blocks: new Int32Array(n * k).fill(-1),
    scores: new Float32Array(n * k).fill(-Infinity),
    counts: new Int32Array(n),
  };
}

/**
 * All candidates that usearch examines are asked for, since those of equal score that it would leave out are any of them. So
 * the result of a smaller k is the beginning of that of a larger one, as long as both are at most efSearch.
 * @param queries [n, P]
 */
export function searchGraph(
  graph: Graph,
  queries: Float32Array,
  n: number,
  k: number,
  threads: number,
): Found {
  const best = nothingFound(n, k);
  const wanted = Math.min(Math.max(k, breadths.get(graph) ?? 0), graph.size());
  if (n === 0 || wanted === 0) return best;
  const found = graph.search(queries, wanted, threads);
  // The result of one query has only `count` entries; for several it is a matrix with garbage beyond each row's count.
  const perQuery = 'counts' in found ? (found.counts as BigUint64Array) : undefined;
  const keys = new Uint32Array(found.keys.buffer, found.keys.byteOffset, found.keys.length * 2); // low word first
  const row = nothingFound(1, wanted);
  for (let q = 0; q < n; q++) {
    const count = perQuery ? Number(perQuery[q]) : found.keys.length;
    for (let i = 0; i < count; i++) {
      row.blocks[i] = keys[2 * (q * wanted + i)];
      row.scores[i] = 1 - found.distances[q * wanted + i]; // usearch's `ip` distance is 1 − inner product
    }
    orderTies(row, 0, count);
    best.counts[q] = Math.min(count, k);
    best.blocks.set(row.blocks.subarray(0, best.counts[q]), q * k);
    best.scores.set(row.scores.subarray(0, best.counts[q]), q * k);
  }
  return best;
}

/** Number of threads for usearch: an opened graph has one slot per core and throws if more search; 0 means all cores. */
export function usableThreads(threads: number): number {
  const cores = availableParallelism();
  return threads > 0 ? Math.min(threads, cores) : cores;
}

/** Maps the graph file `path`, which must be readable. If it is incomplete, throws and leaves the graph empty. */
export function viewGraph(graph: Graph, path: string, rows: number, dimensions: number): void {
  // If usearch cannot map a file, for example an empty one, it closes descriptor 0, which may belong to something else.
  if (statSync(path).size === 0) throw new Error('it is empty');
  graph.view(path);
  // usearch silently accepts a file of another shape and adopts its settings.
  if (graph.size() !== rows || graph.dimensions() !== dimensions) {
    throw new Error(
      `it holds ${graph.size()} vectors of ${graph.dimensions()} where ${rows} of ${dimensions} are expected`,
    );
  }
}

/**
 * Writes the graph to `path`, syncs it, and views the file: afterwards the vectors are in the file, no longer in memory.
 * If the disk gets full at the very end, usearch silently leaves out the end of the file; viewing throws for a file that
 * lacks even one byte. An incomplete file is a `UserError`, and is removed to free the disk.
 */
export function saveGraph(graph: Graph, path: string, rows: number, dimensions: number): void {
  try {
    graph.save(path);
    syncFile(path);
    viewGraph(graph, path, rows, dimensions);
  } catch (error) {
    const explained = explainSave(path, error);
    rmSync(path, { force: true });
    throw explained;
  }
}

/** usearch does not report why it could not write: an attempt to write more finds out. */
export function explainSave(path: string, error: unknown): unknown {
  if (errorCode(error) !== undefined) return explainWrite(path, error);
  try {
    const fd = openSync(path, 'a');
    try {
      writeFully(fd, new Uint8Array(1 << 20), null);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (reason) {
    return explainWrite(path, reason);
  }
  return new UserError(
    `${path}: was not written completely (${(error as Error).message}); check the disk and run the same command again`,
  );
}

/** A file that exists and is not a graph. */
const NOT_A_GRAPH = fileURLToPath(import.meta.url);

/**
 * Frees a graph now. usearch has no `close`: memory and mapping would stay until garbage collection, which does not know
 * their size. Viewing a file frees them first, and keeps nothing if the file is not a graph.
 */
export function release(graph: Graph): void {
  try {
    graph.view(NOT_A_GRAPH);
  } catch {}
}

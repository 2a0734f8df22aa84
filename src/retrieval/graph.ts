import { closeSync, fsyncSync, openSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Index, MetricKind, ScalarKind } from 'usearch';
import { errorCode, UserError } from '../system/errors.ts';
import { explainWrite, syncFile, writeFully } from '../system/files.ts';

// The HNSW graph of usearch, behind checks: usearch takes wrong input in silence, or brings the process down.
// Letters: n queries, k wanted blocks, P dimensions of a vector.

export type Graph = Index;

/** How a graph is built. Only `ip` is ever used: i8 would normalise the vectors and is therefore not offered. */
export interface GraphShape {
  /** P. */
  dimensions: number;
  /** Kept in the graph; f16 halves it for about 0.001 of recall. */
  dtype: 'f32' | 'f16';
  /** Links a node (M of the HNSW paper). */
  m: number;
  /** Candidates looked at while a node is added. */
  efConstruction: number;
  /** Candidates looked at in a search (at least k); not stored in the file. */
  efSearch: number;
}

/** Rows up to which `auto` keeps the vectors in full. */
const FULL_PRECISION = 1e6;

/** What `index.dtype` stands for in an index of so many rows. */
export function dtypeOf(setting: 'auto' | 'f32' | 'f16', rows: number): 'f32' | 'f16' {
  if (setting !== 'auto') return setting;
  return rows > FULL_PRECISION ? 'f16' : 'f32';
}

export function newGraph(shape: GraphShape): Graph {
  return new Index({
    metric: MetricKind.IP,
    quantization: shape.dtype === 'f16' ? ScalarKind.F16 : ScalarKind.F32,
    dimensions: shape.dimensions,
    connectivity: shape.m,
    expansion_add: shape.efConstruction,
    expansion_search: shape.efSearch,
    multi: false,
  });
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

/** @param queries [n, P] */
export function searchGraph(
  graph: Graph,
  queries: Float32Array,
  n: number,
  k: number,
  threads: number,
): Found {
  const { blocks, scores, counts } = nothingFound(n, k);
  const wanted = Math.min(k, graph.size());
  if (n === 0 || wanted === 0) return { blocks, scores, counts };
  const found = graph.search(queries, wanted, threads);
  // One query comes back cut to its count, several as a matrix whose rows are rubbish beyond their counts.
  const perQuery = 'counts' in found ? (found.counts as BigUint64Array) : undefined;
  const keys = new Uint32Array(found.keys.buffer, found.keys.byteOffset, found.keys.length * 2); // low word first
  for (let q = 0; q < n; q++) {
    const count = perQuery ? Number(perQuery[q]) : found.keys.length;
    counts[q] = count;
    for (let i = 0; i < count; i++) {
      blocks[q * k + i] = keys[2 * (q * wanted + i)];
      scores[q * k + i] = 1 - found.distances[q * wanted + i]; // usearch's `ip` distance is 1 − inner product
    }
  }
  return { blocks, scores, counts };
}

/** Threads that usearch is given: an opened graph has one slot a core and throws when more search; 0 means all cores. */
export function usableThreads(threads: number): number {
  const cores = availableParallelism();
  return threads > 0 ? Math.min(threads, cores) : cores;
}

/** Maps the graph file `path`, which can be opened. Throws, and leaves the graph empty, where it is not whole. */
export function viewGraph(graph: Graph, path: string, rows: number, dimensions: number): void {
  // Where usearch cannot map a file, as an empty one, it closes descriptor 0, whosever that is by now.
  if (statSync(path).size === 0) throw new Error('it is empty');
  graph.view(path);
  // A file of another shape is taken over silently: usearch adopts whatever the file says.
  if (graph.size() !== rows || graph.dimensions() !== dimensions) {
    throw new Error(
      `it holds ${graph.size()} vectors of ${graph.dimensions()} where ${rows} of ${dimensions} are expected`,
    );
  }
}

/**
 * Writes the graph to `path`, synced, and views what was written: afterwards the vectors lie in the file, no longer in
 * memory. usearch leaves out the end of the file without a word when the disk gets full at the very last; viewing
 * throws for a file that lacks but one byte. A file that is not whole is a `UserError`, and does not go on filling the disk.
 */
export function saveGraph(graph: Graph, path: string, rows: number, dimensions: number): void {
  try {
    graph.save(path);
    syncFile(path);
    viewGraph(graph, path, rows, dimensions);
  } catch (error) {
    const told = explainSave(path, error);
    rmSync(path, { force: true });
    throw told;
  }
}

/** usearch does not tell why it could not write: an attempt to write more does. */
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
  } catch (told) {
    return explainWrite(path, told);
  }
  return new UserError(
    `${path}: was not written whole (${(error as Error).message}); check the disk and run the same command again`,
  );
}

/** A file that is there and no graph. */
const NO_GRAPH = fileURLToPath(import.meta.url);

/**
 * Frees a graph now. usearch has no `close`: memory and mapping would stay until garbage collection, which knows
 * nothing of their size. Viewing a file drops them first, and holds nothing when the file turns out to be no graph.
 */
export function release(graph: Graph): void {
  try {
    graph.view(NO_GRAPH);
  } catch {}
}

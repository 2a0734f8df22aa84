import { join } from 'node:path';
import type { FileDigest } from '../system/files.ts';
import { keepBest } from './best.ts';
import {
  explainSave,
  type Found,
  type Graph,
  type GraphShape,
  newGraph,
  release,
  saveGraph,
  searchGraph,
  viewGraph,
} from './graph.ts';
import { sampleRows } from './recall.ts';
import { digestFile, isWhole, type TaskControl, yieldToEventLoop } from './task-control.ts';

// The graphs (sub-indexes) that share the rows of an index: graph i of N holds the rows from i × ceil(rows / N) on,
// numbered from 0. So a build needs memory for only one of them. They are searched one after the other.

/** How many graphs share the rows if `subIndexes` are requested: each has at least one row. */
export function graphCount(rows: number, subIndexes: number): number {
  return subIndexes === 0 ? 0 : Math.ceil(rows / Math.ceil(rows / subIndexes));
}

/** First row of graph `i` of `graphs`, and its number of rows. */
export function rowsOf(i: number, graphs: number, rows: number): { first: number; count: number } {
  const size = Math.ceil(rows / graphs);
  return { first: i * size, count: Math.min(size, rows - i * size) };
}

export function graphName(i: number, graphs: number): string {
  return graphs === 1 ? 'graph.usearch' : `graph-${i + 1}.usearch`;
}

/** `searchGraph` over all graphs of an index of `rows` rows. */
export function searchGraphs(
  graphs: readonly Graph[],
  rows: number,
  queries: Float32Array,
  n: number,
  k: number,
  threads: number,
): Found {
  const best = searchGraph(graphs[0], queries, n, k, threads);
  for (let i = 1; i < graphs.length; i++) {
    const found = searchGraph(graphs[i], queries, n, k, threads);
    const { first } = rowsOf(i, graphs.length, rows);
    for (let at = 0; at < found.blocks.length; at++) found.blocks[at] += first;
    keepBest(best, found);
  }
  return best;
}

export interface GrowOptions {
  shape: GraphShape;
  /** Rows of the index. */
  rows: number;
  /** Number of graphs that share them. */
  graphCount: number;
  threads: number;
  /** The embeddings file, which holds the first `rowsOnDisk` rows. */
  embeddings: number;
  rowsOnDisk: number;
  /** Digests of the first graphs of an earlier build; graphs of rows on the disk are kept if undamaged. */
  earlierDigests: readonly FileDigest[];
  /** Called when one more graph is complete. */
  onGraph(): void;
}

/** Graphs of an index that is being built; rows are added in order. */
export interface Growing {
  /** The complete graphs: written, digested and viewed. */
  graphs: Graph[];
  digests: FileDigest[];
  /** The row to add next. */
  next(): number;
  /** @param floats the next rows, already in the embeddings file */
  add(floats: Float32Array): Promise<void>;
  release(): void;
}

/**
 * Builds or resumes the graphs in the folder `part`: as soon as the last row of a graph is added, it is written, compared
 * with the graph in memory, and its digest is computed.
 */
export async function growGraphs(part: string, options: GrowOptions, control: TaskControl): Promise<Growing> {
  const { shape, rows, threads, rowsOnDisk } = options;
  const { dimensions } = shape;
  const total = options.graphCount;
  const graphs: Graph[] = [];
  const digests: FileDigest[] = [];
  let growing: Graph | undefined;
  let added = 0; // rows in `growing`

  for (const [i, digest] of options.earlierDigests.entries()) {
    const name = graphName(i, total);
    const { first, count } = rowsOf(i, total, rows);
    if (first + count > rowsOnDisk || !(await isWhole(part, { name, ...digest }, control))) break;
    const graph = newGraph(shape);
    viewGraph(graph, join(part, name), count, dimensions);
    graphs.push(graph);
    digests.push(digest);
  }

  /** Writes a graph that has all its rows. */
  const finish = async (graph: Graph, first: number, count: number) => {
    const path = join(part, graphName(graphs.length, total));
    const probes = sampleRows(options.embeddings, first, count, dimensions);
    const n = probes.length / dimensions;
    const answers = () =>
      Buffer.from(searchGraph(graph, probes, n, Math.min(10, count), threads).scores.buffer);
    const before = answers();
    // One call writes the whole graph: vectors, and 2 M links of 4 bytes each for a node.
    await yieldToEventLoop(control, count * (dimensions * 4 + 8 * shape.m));
    saveGraph(graph, path, count, dimensions);
    await yieldToEventLoop(control);
    if (Buffer.compare(before, answers()) !== 0) {
      throw explainSave(path, new Error('it gives other results than the graph in memory'));
    }
    const digest = await digestFile(path, control);
    graphs.push(graph);
    digests.push(digest);
    growing = undefined;
    added = 0;
    options.onGraph();
  };

  return {
    graphs,
    digests,
    next: () => (graphs.length === total ? rows : rowsOf(graphs.length, total, rows).first + added),
    async add(floats) {
      for (let at = 0; at < floats.length && graphs.length < total; ) {
        const { first, count } = rowsOf(graphs.length, total, rows);
        growing ??= newGraph(shape);
        const n = Math.min(floats.length / dimensions - at / dimensions, count - added);
        const keys = BigUint64Array.from({ length: n }, (_, i) => BigInt(added + i));
        growing.add(keys, floats.subarray(at, at + n * dimensions), threads);
        added += n;
        at += n * dimensions;
        if (added === count) await finish(growing, first, count);
      }
    },
    release() {
      for (const graph of graphs) release(graph);
      if (growing) release(growing);
    },
  };
}

import { closeSync, fstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode, UserError } from '../system/errors.ts';
import { inside } from '../system/files.ts';
import { changedFile } from '../system/verified.ts';
import { exactTop } from './exact.ts';
import { type Found, type Graph, newGraph, release, usableThreads, viewGraph } from './graph.ts';
import { rowsOf, searchGraphs } from './graphs.ts';
import {
  digestsOf,
  type IndexManifest,
  MANIFEST,
  type NamedDigest,
  REBUILD,
  readManifest,
} from './manifest.ts';
import { readRows } from './rows.ts';

// ---------------------------------------------------------------- open and search

export interface SearchIndex {
  readonly dir: string;
  readonly manifest: IndexManifest;
  /**
   * The k blocks of largest inner product for each query [B, P], best first: `blocks` and `scores` [B*k],
   * `counts` [B] how many of each k are filled (the rest are −1 and −Infinity). There are fewer than k if the corpus is
   * smaller, and sometimes a few less if k is close to the corpus size, since a graph need not reach every node.
   * In an f16 index the scores are rounded accordingly. An index without a graph finds exactly the best.
   */
  search(queries: Float32Array, k: number): Found;
  /** The embeddings of `blocks` in full precision, [n, P]. */
  vectors(blocks: Int32Array): Float32Array;
  /**
   * Swaps in the index in `dir`, between two searches; on failure the old one stays in use.
   * `hash: false` skips the SHA-256 check, for an index that a child of this run has just built and hashed: hashing
   * gigabytes would make the trainer wait.
   */
  swap(dir: string, options?: { hash?: boolean }): void;
  /** Unmaps and closes the files; a search afterwards throws. */
  close(): void;
}

export interface OpenOptions {
  /** `Corpus.sha256` of the corpus in use; an index of another corpus is refused. */
  corpusSha256?: string;
  efSearch: number;
  /** Threads for a search, by default all cores; the results do not depend on it. */
  threads?: number;
}

/**
 * Opens the index folder `dir` for searching. Manifest, lengths and SHA-256 of its files are checked first
 * (`UserError` naming the file), since usearch crashes the process, or answers wrongly, on a damaged graph.
 */
export function openIndex(dir: string, options: OpenOptions): SearchIndex {
  const threads = usableThreads(options.threads ?? 0);
  let open: Opened | undefined = openFolder(dir, options, true);

  const opened = () => {
    if (!open) throw new Error('the index is closed');
    return open;
  };
  return {
    get dir() {
      return opened().dir;
    },
    get manifest() {
      return opened().manifest;
    },
    search(queries, k) {
      const { graphs, embeddings, dir, manifest } = opened();
      const n = queries.length / manifest.dimensions;
      if (!Number.isInteger(n)) {
        throw new Error(
          `queries: ${queries.length} floats are not a whole number of rows of ${manifest.dimensions}`,
        );
      }
      if (!Number.isSafeInteger(k) || k < 1)
        throw new Error(`k must be a whole number of at least 1, not ${k}`);
      for (let i = 0; i < queries.length; i++) {
        if (Number.isFinite(queries[i])) continue;
        throw new UserError(
          `query embedding ${Math.floor(i / manifest.dimensions)} holds ${queries[i]}; training has diverged: go back to an earlier checkpoint with a lower learning rate`,
        );
      }
      const { rows, dimensions } = manifest;
      if (graphs.length > 0) return searchGraphs(graphs, rows, queries, n, k, threads);
      if (fstatSync(embeddings).size !== manifest.embeddings.bytes)
        throw truncated(join(dir, manifest.embeddings.name));
      return exactTop(embeddings, rows, dimensions, queries, k, threads);
    },
    vectors(blocks) {
      const { embeddings, manifest } = opened();
      const { dimensions, rows } = manifest;
      for (const block of blocks) {
        if (!(block >= 0 && block < rows)) throw new Error(`block ${block} is not in 0 … ${rows - 1}`);
      }
      try {
        return readRows(embeddings, dimensions, blocks);
      } catch (error) {
        if (errorCode(error) !== undefined) throw error;
        throw truncated(join(opened().dir, manifest.embeddings.name));
      }
    },
    swap(nextDir, { hash = true } = {}) {
      const old = opened();
      const next = openFolder(nextDir, options, hash, old.manifest);
      open = next;
      closeFolder(old);
    },
    close() {
      if (open) closeFolder(open);
      open = undefined;
    },
  };
}

interface Opened {
  dir: string;
  manifest: IndexManifest;
  graphs: Graph[];
  /** Descriptor of the embeddings file. */
  embeddings: number;
}

/** @param inUse manifest of the index that this one replaces */
function openFolder(dir: string, options: OpenOptions, hash: boolean, inUse?: IndexManifest): Opened {
  const manifest = readManifest(dir);
  const { corpusSha256 = inUse?.corpusSha256 } = options;
  if (corpusSha256 !== undefined && manifest.corpusSha256 !== corpusSha256) {
    throw new UserError(`${join(dir, MANIFEST)}: this index belongs to another corpus; ${REBUILD}`);
  }
  if (inUse && (manifest.rows !== inUse.rows || manifest.dimensions !== inUse.dimensions)) {
    throw new UserError(
      `${join(dir, MANIFEST)}: ${manifest.rows} rows of ${manifest.dimensions} cannot replace the ${inUse.rows} of ${inUse.dimensions} in use; ${REBUILD}`,
    );
  }
  const digests = digestsOf(manifest);
  for (const digest of digests) checkLength(dir, digest);
  const changed =
    hash && changedFile(dir, Object.fromEntries(digests.map((digest) => [digest.name, digest])));
  if (changed)
    throw new UserError(`${join(dir, changed)}: is damaged (its SHA-256 is not the manifest's); ${REBUILD}`);
  const graphs: Graph[] = [];
  const embeddings = openSync(inside(dir, manifest.embeddings.name), 'r');
  const opened = { dir, manifest, graphs, embeddings };
  for (const [i, { name }] of manifest.graphs.entries()) {
    const path = inside(dir, name);
    try {
      const graph = newGraph({ ...manifest, efSearch: options.efSearch });
      graphs.push(graph);
      viewGraph(graph, path, rowsOf(i, manifest.graphs.length, manifest.rows).count, manifest.dimensions);
    } catch (error) {
      closeFolder(opened);
      throw new UserError(`${path}: cannot be opened (${(error as Error).message}); ${REBUILD}`);
    }
  }
  return opened;
}

function closeFolder({ graphs, embeddings }: Opened): void {
  closeSync(embeddings);
  for (const graph of graphs) release(graph);
}

function checkLength(dir: string, expected: NamedDigest): void {
  const path = inside(dir, expected.name);
  const bytes = sizeOf(path);
  if (bytes !== expected.bytes) {
    throw new UserError(
      `${path}: has ${bytes} bytes, not ${expected.bytes} as its manifest says; ${REBUILD}`,
    );
  }
}

/** Bytes of a file, which is opened first: usearch must never get a file that cannot be opened (see `viewGraph`). */
function sizeOf(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw new UserError(`${path}: the index lacks this file; ${REBUILD}`);
    throw error;
  }
  try {
    return fstatSync(fd).size;
  } finally {
    closeSync(fd);
  }
}

function truncated(path: string): UserError {
  return new UserError(`${path}: was truncated while in use; ${REBUILD}`);
}

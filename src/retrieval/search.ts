import { closeSync, existsSync, fstatSync, openSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { errorCode, UserError } from '../errors.ts';
import {
  type FileSeal,
  inside,
  isAside,
  PART,
  readJson,
  readText,
  recoverFolders,
  removeFolder,
  syncFolder,
  writeFileAtomic,
} from '../files.ts';
import { changedFile } from '../verified.ts';
import { exactTop } from './exact.ts';
import { type Found, type Graph, newGraph, release, usableThreads, viewGraph } from './graph.ts';
import { rowsOf, searchGraphs } from './graphs.ts';
import { readRows } from './rows.ts';

// Maximum inner product search over the block embeddings: one folder holds
//   graph.usearch     the HNSW graph with its own copy of the vectors (f32 or f16), viewed (mapped), never loaded; of several
//                     graph-1.usearch, graph-2.usearch, …; in an index that is searched exactly there is none
//   embeddings.f32    the block embeddings as they came, [rows, P] little-endian floats, read by position
//   blocks.u64        the hash of the block of each row (`Corpus.hash`), little-endian
//   manifest.json     what they are, with length and SHA-256 of each
// Letters: B queries, K wanted blocks, P projection (dimensions of an embedding).

export interface NamedSeal extends FileSeal {
  name: string;
}

export interface IndexManifest {
  format: 3;
  dimensions: number;
  /** Of a graph, like the two that follow. */
  scalar: 'f32' | 'f16';
  connectivity: number;
  expansionAdd: number;
  rows: number;
  /** `Corpus.sha256` of the blocks that were embedded. */
  corpusSha256: string;
  /** Training step of the weights that embedded them. */
  step: number;
  weightsSha256: string;
  /** Tells how blocks become tokens and tokens become vectors, apart from the weights: rows of another encoding cannot be reused. */
  encoding: string;
  /** Rows copied from an earlier index instead of embedded. */
  reused: number;
  /** ISO 8601. */
  createdAt: string;
  /** Mean share of the exact ten best that the graphs find, at `expansionSearch`. */
  recall10?: { probes: number; value: number };
  /** Those that share the rows (see graphs.ts); none: all rows are looked at in every search. */
  graphs: NamedSeal[];
  embeddings: NamedSeal;
  blocks: NamedSeal;
}

const seal = z.strictObject({
  name: z.string(),
  bytes: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

const manifestSchema: z.ZodType<IndexManifest> = z.strictObject({
  format: z.literal(3),
  dimensions: z.int().positive(),
  scalar: z.enum(['f32', 'f16']),
  connectivity: z.int().nonnegative(),
  expansionAdd: z.int().nonnegative(),
  rows: z.int().positive(),
  corpusSha256: z.string(),
  step: z.int().nonnegative(),
  weightsSha256: z.string(),
  encoding: z.string(),
  reused: z.int().nonnegative(),
  createdAt: z.string(),
  recall10: z.strictObject({ probes: z.int().positive(), value: z.number() }).optional(),
  graphs: z.array(seal),
  embeddings: seal,
  blocks: seal,
});

export const MANIFEST = 'manifest.json';
export const EMBEDDINGS = 'embeddings.f32';
export const BLOCKS = 'blocks.u64';
const CURRENT = 'current';

const REBUILD = 'make it again with "realm build-index"';

// ---------------------------------------------------------------- publish

/** Makes the index folder `name` in `indexRoot` the current one, by an atomic change of the pointer file `current`. */
export function publish(indexRoot: string, name: string): void {
  readManifest(inside(indexRoot, name));
  writeFileAtomic(join(indexRoot, CURRENT), `${name}\n`);
  clearIndexes(indexRoot, name);
  syncFolder(indexRoot);
}

/**
 * Removes all but the newest `keep` indexes, the current one and those named `inUse`. Readers of a removed one keep
 * what they have open.
 */
export function pruneIndexes(indexRoot: string, keep: number, inUse: readonly string[]): void {
  const current = currentIndex(indexRoot);
  const held = new Set([...inUse, ...(current ? [basename(current)] : [])]);
  const folders = indexFolders(indexRoot);
  for (const { name } of folders.slice(keep)) {
    if (!held.has(name)) removeFolder(join(indexRoot, name));
  }
}

/** Clears up after builds that were cut short; what has been made of the index `name`, a build of it goes on with. */
export function clearIndexes(indexRoot: string, name: string): void {
  recoverFolders(indexRoot);
  for (const entry of readdirSync(indexRoot)) {
    if (entry.endsWith(PART) && entry !== `${name}${PART}`) {
      rmSync(join(indexRoot, entry), { recursive: true, force: true });
    }
  }
}

/** The folder that `current` points to, or undefined when nothing was published yet. */
export function currentIndex(indexRoot: string): string | undefined {
  const path = join(indexRoot, CURRENT);
  if (!existsSync(path)) return undefined;
  return inside(indexRoot, readText(path, 'pointer to an index', REBUILD).trim());
}

/** Index folders with a readable manifest, newest first; anything else in `indexRoot` is not ours to touch. */
export function indexFolders(indexRoot: string): (IndexManifest & { name: string })[] {
  const found: (IndexManifest & { name: string })[] = [];
  for (const entry of readdirSync(indexRoot, { withFileTypes: true })) {
    if (!entry.isDirectory() || isAside(entry.name) || entry.name.endsWith(PART)) continue;
    try {
      found.push({ name: entry.name, ...readManifest(join(indexRoot, entry.name)) });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }
  return found.sort((a, b) =>
    a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : a.name < b.name ? 1 : -1,
  );
}

// ---------------------------------------------------------------- open and search

export interface SearchIndex {
  readonly dir: string;
  readonly manifest: IndexManifest;
  /**
   * The k blocks of largest inner product for each query [B, P], best first: `blocks` and `scores` [B*k],
   * `counts` [B] how many of each k are filled (the rest are −1 and −Infinity). Fewer than k come when the corpus
   * is smaller, and sometimes a few less when k nears the corpus size, since a graph need not reach every node.
   * In an f16 index the scores carry its rounding. An index without a graph finds exactly the best.
   */
  search(queries: Float32Array, k: number): Found;
  /** The embeddings of `blocks` in full precision, [n, P]. */
  vectors(blocks: Int32Array): Float32Array;
  /**
   * Goes over to the index in `dir`, between two searches; on failure the old one stays in use.
   * `hash: false` leaves out the SHA-256 check, for an index that a child of this run has just built and hashed:
   * hashing gigabytes would make the trainer wait.
   */
  swap(dir: string, options?: { hash?: boolean }): void;
  /** Unmaps and closes the files; a search afterwards throws. */
  close(): void;
}

export interface OpenOptions {
  /** `Corpus.sha256` of the corpus in use; an index of another corpus is refused. */
  corpusSha256?: string;
  expansionSearch: number;
  /** Threads of a search, all cores by default; the results do not depend on it. */
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
          `queries: ${queries.length} floats are no whole number of rows of ${manifest.dimensions}`,
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
        throw cutShort(join(dir, manifest.embeddings.name));
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
        throw cutShort(join(opened().dir, manifest.embeddings.name));
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

/** @param inUse of the index that this one is to replace */
function openFolder(dir: string, options: OpenOptions, hash: boolean, inUse?: IndexManifest): Opened {
  const manifest = readManifest(dir);
  const { corpusSha256 = inUse?.corpusSha256 } = options;
  if (corpusSha256 !== undefined && manifest.corpusSha256 !== corpusSha256) {
    throw new UserError(`${join(dir, MANIFEST)}: this index belongs to another corpus; ${REBUILD}`);
  }
  if (inUse && (manifest.rows !== inUse.rows || manifest.dimensions !== inUse.dimensions)) {
    throw new UserError(
      `${join(dir, MANIFEST)}: ${manifest.rows} rows of ${manifest.dimensions} cannot take the place of the ${inUse.rows} of ${inUse.dimensions} in use; ${REBUILD}`,
    );
  }
  const seals = sealsOf(manifest);
  for (const seal of seals) checkLength(dir, seal);
  const changed = hash && changedFile(dir, Object.fromEntries(seals.map((seal) => [seal.name, seal])));
  if (changed)
    throw new UserError(`${join(dir, changed)}: is damaged (its SHA-256 is not the manifest's); ${REBUILD}`);
  const graphs: Graph[] = [];
  const embeddings = openSync(inside(dir, manifest.embeddings.name), 'r');
  const opened = { dir, manifest, graphs, embeddings };
  for (const [i, { name }] of manifest.graphs.entries()) {
    const path = inside(dir, name);
    try {
      const graph = newGraph({ ...manifest, expansionSearch: options.expansionSearch });
      graphs.push(graph);
      viewGraph(graph, path, rowsOf(i, manifest.graphs.length, manifest.rows).count, manifest.dimensions);
    } catch (error) {
      closeFolder(opened);
      throw new UserError(`${path}: cannot be opened (${(error as Error).message}); ${REBUILD}`);
    }
  }
  return opened;
}

/** All files of an index besides its manifest. */
export function sealsOf({ graphs, embeddings, blocks }: IndexManifest): NamedSeal[] {
  return [...graphs, embeddings, blocks];
}

function closeFolder({ graphs, embeddings }: Opened): void {
  closeSync(embeddings);
  for (const graph of graphs) release(graph);
}

/** Manifest of an index folder, checked; `UserError` for a missing or wrong one. */
export function readManifest(dir: string): IndexManifest {
  const path = join(dir, MANIFEST);
  const json = ofThisFormat(readJson(path, 'index manifest', REBUILD));
  if ((json as { format?: unknown } | null)?.format === 1) {
    throw new UserError(`${path}: made by an older version; ${REBUILD}`);
  }
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new UserError(`${path}: ${issue.path.join('.') || 'manifest'}: ${issue.message}; ${REBUILD}`);
  }
  const { rows, dimensions, embeddings, blocks } = parsed.data;
  if (embeddings.bytes !== rows * dimensions * 4 || blocks.bytes !== rows * 8) {
    throw new UserError(
      `${path}: ${rows} rows of ${dimensions} do not make ${embeddings.bytes} and ${blocks.bytes} bytes; ${REBUILD}`,
    );
  }
  return parsed.data;
}

/** An index of format 2 had one graph, `file`, and is the same otherwise. */
function ofThisFormat(json: unknown): unknown {
  if ((json as { format?: unknown } | null)?.format !== 2) return json;
  const { file, ...rest } = json as Record<string, unknown>;
  return { ...rest, format: 3, graphs: [file] };
}

function checkLength(dir: string, expected: NamedSeal): void {
  const path = inside(dir, expected.name);
  const bytes = sizeOf(path);
  if (bytes !== expected.bytes) {
    throw new UserError(
      `${path}: has ${bytes} bytes, not ${expected.bytes} as its manifest says; ${REBUILD}`,
    );
  }
}

/** Bytes of a file that can be opened: usearch must not be the first to find out that it cannot (see `viewGraph`). */
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

function cutShort(path: string): UserError {
  return new UserError(`${path}: was cut short while in use; ${REBUILD}`);
}

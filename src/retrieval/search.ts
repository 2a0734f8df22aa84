import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Index, MetricKind, ScalarKind } from 'usearch';
import { z } from 'zod';
import { errorCode, UserError } from '../errors.ts';
import {
  type FileSeal,
  inside,
  isAside,
  readJson,
  recoverFolders,
  sha256File,
  writeFileAtomic,
  writeFolderAtomic,
} from '../files.ts';
import { random } from '../random.ts';

// Maximum inner product search over the block embeddings: one folder holds
//   graph.usearch     the HNSW graph with its own copy of the vectors (f32 or f16), viewed (mapped), never loaded
//   embeddings.f32    the block embeddings as they came, [rows, P] little-endian floats, read by position
//   manifest.json     what both are, with length and SHA-256 of each
// Letters: B queries, K wanted blocks, P projection (dimensions of an embedding).

/** How the graph is built. Only `ip` is ever used: i8 would normalise the vectors and is therefore not offered. */
export interface IndexOptions {
  /** P. */
  dimensions: number;
  /** Kept in the graph; f16 halves it for about 0.001 of recall. */
  scalar: 'f32' | 'f16';
  /** Links a node (M of the HNSW paper). */
  connectivity: number;
  /** Candidates looked at while a node is added. */
  expansionAdd: number;
  /** Candidates looked at in a search (at least k); not stored in the file. */
  expansionSearch: number;
  /** Threads that add; the graph is the same to the byte in every build only with 1. */
  threads: number;
}

export interface NamedSeal extends FileSeal {
  name: string;
}

export interface IndexManifest {
  format: 1;
  dimensions: number;
  scalar: 'f32' | 'f16';
  connectivity: number;
  expansionAdd: number;
  rows: number;
  /** `Corpus.sha256` of the blocks that were embedded. */
  corpusSha256: string;
  /** Training step of the weights that embedded them. */
  step: number;
  weightsSha256?: string;
  /** ISO 8601. */
  createdAt: string;
  /** Mean share of the exact ten best that the graph finds, at `expansionSearch`. */
  recall10?: { probes: number; value: number };
  file: NamedSeal;
  embeddings: NamedSeal;
}

const seal = z.strictObject({
  name: z.string(),
  bytes: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

const manifestSchema: z.ZodType<IndexManifest> = z.strictObject({
  format: z.literal(1),
  dimensions: z.int().positive(),
  scalar: z.enum(['f32', 'f16']),
  connectivity: z.int().positive(),
  expansionAdd: z.int().positive(),
  rows: z.int().positive(),
  corpusSha256: z.string(),
  step: z.int().nonnegative(),
  weightsSha256: z.string().optional(),
  createdAt: z.string(),
  recall10: z.strictObject({ probes: z.int().positive(), value: z.number() }).optional(),
  file: seal,
  embeddings: seal,
});

const MANIFEST = 'manifest.json';
const GRAPH = 'graph.usearch';
const EMBEDDINGS = 'embeddings.f32';
const CURRENT = 'current';

/** Rows handed to the graph at once: another number gives another graph, and each call blocks the process (1024 rows of 128: about 0.1 s). */
const ADD_ROWS = 1024;

/** Largest finite half-precision float; beyond it f16 becomes infinite. */
const F16_MAX = 65504;

const REBUILD = 'make it again with "realm build-index"';

// ---------------------------------------------------------------- build

export interface BuildInput {
  /** Blocks 0, 1, 2, … in order: consecutive rows, any whole number of them a piece. */
  embeddings: AsyncIterable<Float32Array> | Iterable<Float32Array>;
  /** How many rows must come in all. */
  rows: number;
  corpusSha256: string;
  step: number;
  weightsSha256?: string;
  /** Queries [n, P] for the recall measured; without them 64 of the blocks themselves (their own row is then easy to find). */
  probes?: Float32Array;
  /** Called about every `ADD_ROWS` rows: the sign of life of a process that is otherwise busy. */
  onProgress?(done: number, total: number): void;
  /** Stops the build between two pieces with `signal.reason`; nothing is left behind. */
  signal?: AbortSignal;
}

/**
 * Streams the embeddings into a new index folder `dir`, which appears whole or not at all.
 * Memory is that of the graph and a few pieces; with one thread the files are the same to the byte every time,
 * whatever the size of the pieces. A `dir` that stands is replaced, so give each build a name of its own.
 */
export async function buildIndex(
  dir: string,
  input: BuildInput,
  options: IndexOptions,
): Promise<IndexManifest> {
  const { dimensions } = options;
  const { rows } = input;
  if (rows === 0) throw new UserError(`${dir}: there is no block to index; give a corpus with text`);
  return writeFolderAtomic(dir, async (aside) => {
    const threads = usableThreads(options.threads);
    const graph = newGraph(options);
    const file = openSync(join(aside, EMBEDDINGS), 'w+');
    try {
      const hash = createHash('sha256');
      const chunk = new Float32Array(ADD_ROWS * dimensions);
      const keys = new BigUint64Array(ADD_ROWS);
      let added = 0;
      let held = 0; // floats waiting in `chunk`

      const flush = async () => {
        const n = held / dimensions;
        const floats = chunk.subarray(0, held);
        refuseBadRows(floats, added, dimensions, options.scalar);
        for (let i = 0; i < n; i++) keys[i] = BigInt(added + i);
        graph.add(keys.subarray(0, n), floats, threads);
        const bytes = new Uint8Array(chunk.buffer, 0, held * 4);
        hash.update(bytes);
        writeFully(file, bytes, added * dimensions * 4);
        added += n;
        held = 0;
        input.onProgress?.(added, rows);
        await breathe(input.signal);
      };

      for await (const piece of input.embeddings) {
        if (piece.length % dimensions !== 0) {
          throw new Error(`embeddings: ${piece.length} floats are no whole number of rows of ${dimensions}`);
        }
        if (added + (held + piece.length) / dimensions > rows)
          throw new Error(`more than ${rows} embeddings came`);
        for (let at = 0; at < piece.length; ) {
          const n = Math.min(piece.length - at, chunk.length - held);
          chunk.set(piece.subarray(at, at + n), held);
          at += n;
          held += n;
          if (held === chunk.length) await flush();
        }
      }
      if (held > 0) await flush();
      if (added !== rows) throw new Error(`${added} embeddings came where the corpus has ${rows} blocks`);
      fsyncSync(file);

      const recall10 = await measureRecall(graph, file, rows, dimensions, input, threads);
      graph.save(join(aside, GRAPH));
      syncFile(join(aside, GRAPH));
      const manifest: IndexManifest = {
        format: 1,
        dimensions,
        scalar: options.scalar,
        connectivity: options.connectivity,
        expansionAdd: options.expansionAdd,
        rows,
        corpusSha256: input.corpusSha256,
        step: input.step,
        weightsSha256: input.weightsSha256,
        createdAt: new Date().toISOString(),
        recall10,
        file: {
          name: GRAPH,
          bytes: statSync(join(aside, GRAPH)).size,
          sha256: sha256File(join(aside, GRAPH)),
        },
        embeddings: { name: EMBEDDINGS, bytes: rows * dimensions * 4, sha256: hash.digest('hex') },
      };
      writeFileAtomic(join(aside, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
      return manifest;
    } finally {
      closeSync(file);
      release(graph);
    }
  });
}

/** usearch takes NaN without a word and then ranks that block first for every query. */
function refuseBadRows(
  floats: Float32Array,
  firstRow: number,
  dimensions: number,
  scalar: 'f32' | 'f16',
): void {
  const limit = scalar === 'f16' ? F16_MAX : 3.4028234663852886e38;
  for (let i = 0; i < floats.length; i++) {
    const value = floats[i];
    if (value <= limit && value >= -limit) continue; // false for NaN
    const block = firstRow + Math.floor(i / dimensions);
    throw new UserError(
      `the embedding of block ${block} holds ${value}, which ${scalar} cannot keep; training has diverged: go back to an earlier checkpoint with a lower learning rate`,
    );
  }
}

// ---------------------------------------------------------------- recall of the graph

const PROBES = 64;

/** recall@10 of the graph against exact inner products over the embeddings file, read once in pieces. */
async function measureRecall(
  graph: Index,
  file: number,
  rows: number,
  dimensions: number,
  input: BuildInput,
  threads: number,
): Promise<{ probes: number; value: number }> {
  const probes = input.probes?.slice() ?? sampleRows(file, rows, dimensions);
  const n = probes.length / dimensions;
  const k = Math.min(10, rows);
  const exact = await exactTop(file, rows, dimensions, probes, k, input.signal);
  const found = searchGraph(graph, probes, n, k, threads);
  let hits = 0;
  for (let q = 0; q < n; q++) {
    const best = new Set(exact.subarray(q * k, (q + 1) * k));
    for (let i = 0; i < found.counts[q]; i++) if (best.has(found.blocks[q * k + i])) hits++;
  }
  return { probes: n, value: hits / (n * k) };
}

/** Up to `PROBES` rows, the same ones for every index of as many rows. */
function sampleRows(file: number, rows: number, dimensions: number): Float32Array {
  const n = Math.min(PROBES, rows);
  const rng = random(rows);
  const picked = new Set<number>();
  while (picked.size < n) picked.add(rng.int(rows));
  const probes = new Float32Array(n * dimensions);
  let at = 0;
  for (const row of picked) {
    readFully(file, bytesOf(probes, at, dimensions), row * dimensions * 4);
    at += dimensions;
  }
  return probes;
}

/** The k rows of largest inner product for each query, best first: [n*k] row numbers. */
async function exactTop(
  file: number,
  rows: number,
  dimensions: number,
  queries: Float32Array,
  k: number,
  signal?: AbortSignal,
): Promise<Int32Array> {
  const n = queries.length / dimensions;
  const best = new Int32Array(n * k).fill(-1);
  const scores = new Float32Array(n * k).fill(-Infinity);
  const piece = new Float32Array(ADD_ROWS * dimensions);
  for (let first = 0; first < rows; first += ADD_ROWS) {
    const here = Math.min(ADD_ROWS, rows - first);
    readFully(file, bytesOf(piece, 0, here * dimensions), first * dimensions * 4);
    for (let q = 0; q < n; q++) {
      const last = q * k + k - 1;
      for (let r = 0; r < here; r++) {
        let score = 0;
        for (let d = 0, a = q * dimensions, b = r * dimensions; d < dimensions; d++)
          score += queries[a + d] * piece[b + d];
        if (score <= scores[last]) continue;
        let slot = last;
        for (; slot > q * k && scores[slot - 1] < score; slot--) {
          scores[slot] = scores[slot - 1];
          best[slot] = best[slot - 1];
        }
        scores[slot] = score;
        best[slot] = first + r;
      }
    }
    await breathe(signal);
  }
  return best;
}

// ---------------------------------------------------------------- publish

/**
 * Makes the index folder `name` in `indexRoot` the current one, by an atomic change of the pointer file `current`;
 * then removes all but the newest `keep` indexes. Readers of a removed one keep what they have open.
 */
export function publish(indexRoot: string, name: string, keep = 2): void {
  readManifest(inside(indexRoot, name));
  writeFileAtomic(join(indexRoot, CURRENT), `${name}\n`);
  const others = indexFolders(indexRoot).filter((folder) => folder.name !== name);
  for (const folder of others.slice(Math.max(0, keep - 1))) {
    rmSync(join(indexRoot, folder.name), { recursive: true, force: true });
  }
  recoverFolders(indexRoot);
}

/** The folder that `current` points to, or undefined when nothing was published yet. */
export function currentIndex(indexRoot: string): string | undefined {
  try {
    return inside(indexRoot, readFileSync(join(indexRoot, CURRENT), 'utf8').trim());
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Index folders with a readable manifest, newest first; anything else in `indexRoot` is not ours to touch. */
function indexFolders(indexRoot: string): { name: string; createdAt: string }[] {
  const found: { name: string; createdAt: string }[] = [];
  for (const entry of readdirSync(indexRoot, { withFileTypes: true })) {
    if (!entry.isDirectory() || isAside(entry.name)) continue;
    try {
      found.push({ name: entry.name, createdAt: readManifest(join(indexRoot, entry.name)).createdAt });
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
   * In an f16 index the scores carry its rounding.
   */
  search(queries: Float32Array, k: number): { blocks: Int32Array; scores: Float32Array; counts: Int32Array };
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
 * Opens the index folder `dir` for searching. Manifest, lengths and SHA-256 of both files are checked first
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
      const { graph, manifest } = opened();
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
      return searchGraph(graph, queries, n, k, threads);
    },
    vectors(blocks) {
      const { embeddings, manifest } = opened();
      const { dimensions, rows } = manifest;
      const out = new Float32Array(blocks.length * dimensions);
      const bytes = Buffer.from(out.buffer);
      const rowBytes = dimensions * 4;
      for (let i = 0; i < blocks.length; i++) {
        if (!(blocks[i] >= 0 && blocks[i] < rows))
          throw new Error(`block ${blocks[i]} is not in 0 … ${rows - 1}`);
        if (readSync(embeddings, bytes, i * rowBytes, rowBytes, blocks[i] * rowBytes) !== rowBytes) {
          throw cutShort(join(opened().dir, manifest.embeddings.name));
        }
      }
      return out;
    },
    swap(nextDir, { hash = true } = {}) {
      const old = opened();
      const next = openFolder(nextDir, { ...options, corpusSha256: old.manifest.corpusSha256 }, hash);
      if (next.manifest.dimensions !== old.manifest.dimensions) {
        closeFolder(next);
        throw new UserError(
          `${nextDir}: its embeddings have ${next.manifest.dimensions} dimensions, those in use ${old.manifest.dimensions}; ${REBUILD}`,
        );
      }
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
  graph: Index;
  /** Descriptor of the embeddings file. */
  embeddings: number;
}

function openFolder(dir: string, options: OpenOptions, hash: boolean): Opened {
  const manifest = readManifest(dir);
  if (options.corpusSha256 !== undefined && manifest.corpusSha256 !== options.corpusSha256) {
    throw new UserError(`${join(dir, MANIFEST)}: this index belongs to another corpus; ${REBUILD}`);
  }
  checkSeal(dir, manifest.file, hash);
  checkSeal(dir, manifest.embeddings, hash);
  const graphPath = inside(dir, manifest.file.name);
  const embeddings = openSync(inside(dir, manifest.embeddings.name), 'r');
  const graph = newGraph({ ...manifest, expansionSearch: options.expansionSearch });
  try {
    graph.view(graphPath);
    // A file of another shape is taken over silently: usearch adopts whatever the file says.
    if (graph.size() !== manifest.rows || graph.dimensions() !== manifest.dimensions) {
      throw new UserError(
        `${graphPath}: holds ${graph.size()} vectors of ${graph.dimensions()} where the manifest says ${manifest.rows} of ${manifest.dimensions}; ${REBUILD}`,
      );
    }
  } catch (error) {
    closeFolder({ dir, manifest, graph, embeddings });
    if (error instanceof UserError) throw error;
    throw new UserError(`${graphPath}: cannot be opened (${(error as Error).message}); ${REBUILD}`);
  }
  return { dir, manifest, graph, embeddings };
}

function closeFolder(opened: Opened): void {
  closeSync(opened.embeddings);
  release(opened.graph);
}

/** Manifest of an index folder, checked; `UserError` for a missing or wrong one. */
export function readManifest(dir: string): IndexManifest {
  const path = join(dir, MANIFEST);
  const parsed = manifestSchema.safeParse(readJson(path, 'index manifest', REBUILD));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new UserError(`${path}: ${issue.path.join('.') || 'manifest'}: ${issue.message}; ${REBUILD}`);
  }
  const { rows, dimensions, embeddings } = parsed.data;
  if (embeddings.bytes !== rows * dimensions * 4) {
    throw new UserError(
      `${path}: ${rows} rows of ${dimensions} do not make ${embeddings.bytes} bytes; ${REBUILD}`,
    );
  }
  return parsed.data;
}

function checkSeal(dir: string, expected: NamedSeal, hash: boolean): void {
  const path = inside(dir, expected.name);
  const bytes = sizeOf(path);
  if (bytes !== expected.bytes) {
    throw new UserError(
      `${path}: has ${bytes} bytes, not ${expected.bytes} as its manifest says; ${REBUILD}`,
    );
  }
  if (hash && sha256File(path) !== expected.sha256) {
    throw new UserError(`${path}: is damaged (its SHA-256 is not the manifest's); ${REBUILD}`);
  }
}

/** Bytes of a file that can be opened: usearch must not be the first to find out that it cannot (see `release`). */
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

/** `queries` [n, P]; see `SearchIndex.search`. */
function searchGraph(graph: Index, queries: Float32Array, n: number, k: number, threads: number) {
  const blocks = new Int32Array(n * k).fill(-1);
  const scores = new Float32Array(n * k).fill(-Infinity);
  const counts = new Int32Array(n);
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

const SHAPE = {
  metric: MetricKind.IP,
  quantization: ScalarKind.F32,
  connectivity: 16,
  expansion_add: 128,
  expansion_search: 64,
  multi: false,
};

function newGraph(
  shape: Pick<IndexOptions, 'dimensions' | 'scalar' | 'connectivity' | 'expansionAdd' | 'expansionSearch'>,
): Index {
  return new Index({
    ...SHAPE,
    dimensions: shape.dimensions,
    quantization: shape.scalar === 'f16' ? ScalarKind.F16 : ScalarKind.F32,
    connectivity: shape.connectivity,
    expansion_add: shape.expansionAdd,
    expansion_search: shape.expansionSearch,
  });
}

/**
 * Frees a graph now. usearch has no `close`: memory and mapping would stay until garbage collection, which knows
 * nothing of their size. Viewing an empty index drops them and holds nothing. (A failing view would drop them too,
 * but where the file cannot be opened usearch 2.26.2 then closes descriptor 0, whosever that is by now.)
 */
function release(graph: Index): void {
  try {
    const aside = mkdtempSync(join(tmpdir(), 'realm-'));
    try {
      const empty = join(aside, GRAPH);
      new Index({ ...SHAPE, dimensions: 1 }).save(empty);
      graph.view(empty);
    } finally {
      rmSync(aside, { recursive: true, force: true });
    }
  } catch {
    // No temporary file can be written: it stays until garbage collection.
  }
}

/** An opened graph has one slot a core and throws when more threads than that search; 0 means all cores. */
function usableThreads(threads: number): number {
  const cores = availableParallelism();
  return threads > 0 ? Math.min(threads, cores) : cores;
}

/** Lets messages and timers in between two blocking calls, and is the place to stop. */
async function breathe(signal?: AbortSignal): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  signal?.throwIfAborted();
}

function bytesOf(floats: Float32Array, at: number, length: number): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset + at * 4, length * 4);
}

function readFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) {
    const n = readSync(fd, bytes, at, bytes.length - at, position + at);
    if (n === 0) throw new Error('the embeddings file ends early');
    at += n;
  }
}

function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at);
}

function syncFile(path: string): void {
  const fd = openSync(path, 'r+');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function cutShort(path: string): UserError {
  return new UserError(`${path}: was cut short while in use; ${REBUILD}`);
}

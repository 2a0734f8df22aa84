import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  rmSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from '../errors.ts';
import {
  explainWrite,
  makeFolder,
  readFully,
  recoverFolders,
  replaceFolder,
  writeFileAtomic,
  writeFully,
} from '../files.ts';
import {
  explainSave,
  type Graph,
  type GraphShape,
  newGraph,
  release,
  saveGraph,
  searchGraph,
  usableThreads,
} from './graph.ts';
import { breathe, type Life, sealFile } from './life.ts';
import { recallOf, sampleRows } from './recall.ts';
import { BLOCKS, EMBEDDINGS, GRAPH, type IndexManifest, MANIFEST } from './search.ts';
import { type Identity, PART, RESUME, readShards, SHARD, type Shard, writeShards } from './shards.ts';

export interface BuildOptions extends GraphShape {
  /** Threads that add; the graph is the same to the byte in every build only with 1. */
  threads: number;
}

export interface BuildInput extends Life {
  /**
   * Embeddings of the blocks `first`, `first` + 1, … in order: consecutive rows, any whole number of them a piece.
   * `first` is a multiple of `SHARD`; whatever it is, a row has the same value.
   */
  embeddings(first: number): AsyncIterable<Float32Array> | Iterable<Float32Array>;
  /** How many rows must come in all. */
  rows: number;
  corpusSha256: string;
  weightsSha256: string;
  /** See `IndexManifest.encoding`. */
  encoding: string;
  step: number;
  /** `Corpus.hash` of a block. */
  blockHash(block: number): bigint;
  /** Which embeddings some rows are copied from (SHA-256), and how many. */
  reuse?: { sha256: string; rows: number };
  /** Queries [n, P] for the recall measured; without them 64 of the blocks themselves (their own row is then easy to find). */
  probes?: Float32Array;
  /** Called about every `ADD_ROWS` rows. */
  onProgress?(done: number, total: number): void;
}

/** Rows handed to the graph at once: another number gives another graph, and each call blocks the process (1024 rows of 128: about 0.1 s). */
const ADD_ROWS = 1024;

/** Largest finite half-precision float; beyond it f16 becomes infinite. */
const F16_MAX = 65504;

/**
 * Streams the embeddings into a new index folder `dir`, which appears whole or not at all. They come to lie in
 * `dir`.part first, shard by shard; a build that was cut short is gone on with by the next one of the same corpus,
 * weights and settings, and what it leaves is the same. The graph alone is made from its first row on again.
 * Memory is that of the graph and a few pieces; with one thread the files are the same to the byte every time,
 * whatever the size of the pieces. A `dir` that stands is replaced. Only one process may build at a time.
 */
export async function buildIndex(
  dir: string,
  input: BuildInput,
  options: BuildOptions,
): Promise<IndexManifest> {
  if (input.rows === 0) throw new UserError(`${dir}: there is no block to index; give a corpus with text`);
  const part = `${dir}${PART}`;
  try {
    recoverFolders(dirname(dir));
    const manifest = await fill(part, input, options);
    replaceFolder(part, dir);
    // Last: a kill before it costs nothing.
    rmSync(join(dir, RESUME), { force: true });
    return manifest;
  } catch (error) {
    // Whole shards stay for the next attempt; without one there is nothing to keep.
    if (!existsSync(join(part, RESUME))) rmSync(part, { recursive: true, force: true });
    throw explainWrite(dir, error);
  }
}

async function fill(part: string, input: BuildInput, options: BuildOptions): Promise<IndexManifest> {
  const { rows } = input;
  const { dimensions, scalar, connectivity, expansionAdd } = options;
  const shape = { dimensions, scalar, connectivity, expansionAdd };
  const { corpusSha256, weightsSha256, encoding } = input;
  const reusedFrom = input.reuse?.sha256 ?? '';
  const identity: Identity = { corpusSha256, weightsSha256, encoding, reusedFrom, rows, ...shape };
  const threads = usableThreads(options.threads);
  const left = readShards(part, identity);
  if (left.length === 0) rmSync(part, { recursive: true, force: true });
  makeFolder(part);
  recoverFolders(part);
  const paths = { graph: join(part, GRAPH), embeddings: join(part, EMBEDDINGS), blocks: join(part, BLOCKS) };
  const graph = newGraph(options);
  try {
    const file = openSync(paths.embeddings, constants.O_RDWR | constants.O_CREAT);
    try {
      await addAll(graph, file, part, left, identity, threads, input);
      const probes = input.probes?.slice() ?? sampleRows(file, rows, dimensions);
      const n = probes.length / dimensions;
      const k = Math.min(10, rows);
      const found = searchGraph(graph, probes, n, k, threads);
      const value = await recallOf(found, k, probes, file, rows, dimensions, threads, input);
      await writeBlockHashes(paths.blocks, input);

      // One call that writes all of the graph: vectors, and two links of 4 bytes for each of the connectivity.
      await breathe(input, rows * (dimensions * 4 + 8 * connectivity));
      saveGraph(graph, paths.graph, rows, dimensions);
      await breathe(input);
      const again = searchGraph(graph, probes, n, k, threads);
      if (Buffer.compare(Buffer.from(again.scores.buffer), Buffer.from(found.scores.buffer)) !== 0) {
        throw explainSave(paths.graph, new Error('it answers otherwise than the graph in memory'));
      }
      const seals = {
        file: { name: GRAPH, ...(await sealFile(paths.graph, input)) },
        embeddings: { name: EMBEDDINGS, ...(await sealFile(paths.embeddings, input)) },
        blocks: { name: BLOCKS, ...(await sealFile(paths.blocks, input)) },
      };
      const manifest: IndexManifest = {
        format: 2,
        ...shape,
        rows,
        corpusSha256,
        weightsSha256,
        encoding,
        step: input.step,
        reused: input.reuse?.rows ?? 0,
        createdAt: new Date().toISOString(),
        recall10: { probes: n, value },
        ...seals,
      };
      writeFileAtomic(join(part, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
      return manifest;
    } finally {
      closeSync(file);
    }
  } finally {
    release(graph);
  }
}

/**
 * Adds all rows to the graph and brings them into the embeddings file: first the whole shards that stand in it, then
 * what is embedded now.
 */
async function addAll(
  graph: Graph,
  file: number,
  part: string,
  left: readonly Shard[],
  identity: Identity,
  threads: number,
  input: BuildInput,
): Promise<void> {
  const { rows, dimensions } = identity;
  const keys = new BigUint64Array(ADD_ROWS);
  const chunk = new Float32Array(ADD_ROWS * dimensions);
  const shards: Shard[] = [];
  let added = 0;
  let held = 0; // floats waiting in `chunk`
  let hash = createHash('sha256'); // of the shard so far

  /** @param floats at most `ADD_ROWS` rows, which stand in the file */
  const add = (floats: Float32Array) => {
    const n = floats.length / dimensions;
    for (let i = 0; i < n; i++) keys[i] = BigInt(added + i);
    graph.add(keys.subarray(0, n), floats, threads);
    added += n;
  };
  const show = async () => {
    input.onProgress?.(added, rows);
    await breathe(input);
  };

  for (const shard of left) {
    const floats = readShard(file, shard, added, dimensions);
    if (!floats) break;
    for (let at = 0; at < floats.length; at += chunk.length) {
      add(floats.subarray(at, at + chunk.length));
      await show();
    }
    shards.push(shard);
  }
  ftruncateSync(file, added * dimensions * 4);
  fsyncSync(file);
  if (added === rows) return;

  const flush = async () => {
    const floats = chunk.subarray(0, held);
    refuseBadRows(floats, added, dimensions, identity.scalar);
    const bytes = bytesOf(floats);
    writeFully(file, bytes, added * dimensions * 4);
    hash.update(bytes);
    add(floats);
    held = 0;
    if (added % SHARD === 0 || added === rows) {
      fsyncSync(file);
      shards.push({ rows: added - shards.length * SHARD, sha256: hash.digest('hex') });
      writeShards(part, identity, shards);
      hash = createHash('sha256');
    }
    await show();
  };
  for await (const piece of input.embeddings(added)) {
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
}

/** The rows of a shard that begins at row `first`; undefined where the file does not hold what was sealed. */
function readShard(file: number, shard: Shard, first: number, dimensions: number): Float32Array | undefined {
  if (fstatSync(file).size < (first + shard.rows) * dimensions * 4) return undefined;
  const floats = new Float32Array(shard.rows * dimensions);
  readFully(file, bytesOf(floats), first * dimensions * 4);
  return createHash('sha256').update(bytesOf(floats)).digest('hex') === shard.sha256 ? floats : undefined;
}

/** usearch takes NaN without a word and then ranks that block first for every query. */
function refuseBadRows(floats: Float32Array, firstRow: number, dimensions: number, scalar: string): void {
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

/** Hashes written between two breaths. */
const HASHES = 1 << 16;

/** Tells a later build, perhaps of another corpus, which blocks the rows belong to. */
async function writeBlockHashes(path: string, input: BuildInput): Promise<void> {
  const hashes = new BigUint64Array(Math.min(HASHES, input.rows));
  const file = openSync(path, 'w');
  try {
    for (let first = 0; first < input.rows; first += HASHES) {
      const n = Math.min(HASHES, input.rows - first);
      for (let i = 0; i < n; i++) hashes[i] = input.blockHash(first + i);
      writeFully(file, new Uint8Array(hashes.buffer, 0, n * 8), null);
      await breathe(input);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function bytesOf(floats: Float32Array): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

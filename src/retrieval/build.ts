import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import {
  makeFolder,
  readFully,
  recoverFolders,
  writeFileAtomic,
  writeFolderResumable,
  writeFully,
} from '../files.ts';
import { type GraphShape, usableThreads } from './graph.ts';
import { type Growing, graphCount, graphName, growGraphs, searchGraphs } from './graphs.ts';
import { breathe, type Life, sealFile } from './life.ts';
import { recallOf, sampleRows } from './recall.ts';
import { BLOCKS, EMBEDDINGS, type IndexManifest, MANIFEST } from './search.ts';
import { type Identity, readWhole, SHARD, type Shard, writeWhole } from './shards.ts';

export interface BuildOptions extends GraphShape {
  /** Graphs that share the rows; 0: none is built, and every search looks at all rows. */
  shards: number;
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

/** Rows handed to a graph at once: another number gives another graph, and each call blocks the process (1024 rows of 128: about 0.1 s). */
const ADD_ROWS = 1024;

/** Largest finite half-precision float; beyond it f16 becomes infinite. */
const F16_MAX = 65504;

/**
 * Streams the embeddings into a new index folder `dir`, which appears whole or not at all. They come to lie in
 * `dir`.part first, shard by shard; a build that was cut short is gone on with by the next one of the same corpus,
 * weights and settings, and what it leaves is the same. A graph that was not whole is made from its first row on again.
 * Memory is that of one graph and a few pieces; with one thread the files are the same to the byte every time,
 * whatever the size of the pieces. A `dir` that stands is replaced. Only one process may build at a time.
 */
export async function buildIndex(
  dir: string,
  input: BuildInput,
  options: BuildOptions,
): Promise<IndexManifest> {
  if (input.rows === 0) throw new UserError(`${dir}: there is no block to index; give a corpus with text`);
  return writeFolderResumable(dir, (part) => fill(part, input, options));
}

async function fill(part: string, input: BuildInput, options: BuildOptions): Promise<IndexManifest> {
  const { rows } = input;
  const { dimensions, scalar, connectivity, expansionAdd } = options;
  const shape = { dimensions, scalar, connectivity, expansionAdd };
  const { corpusSha256, weightsSha256, encoding } = input;
  const reusedFrom = input.reuse?.sha256 ?? '';
  const total = graphCount(rows, options.shards);
  const identity: Identity = {
    corpusSha256,
    weightsSha256,
    encoding,
    reusedFrom,
    rows,
    ...shape,
    graphs: total,
  };
  const threads = usableThreads(options.threads);
  const left = readWhole(part, identity);
  if (left.shards.length === 0) rmSync(part, { recursive: true, force: true });
  makeFolder(part);
  recoverFolders(part);
  const paths = { embeddings: join(part, EMBEDDINGS), blocks: join(part, BLOCKS) };
  const file = openSync(paths.embeddings, constants.O_RDWR | constants.O_CREAT);
  let growing: Growing | undefined;
  try {
    const shards = await wholeShards(file, left.shards, dimensions, input);
    const held = shards.reduce((sum, shard) => sum + shard.rows, 0);
    ftruncateSync(file, held * dimensions * 4);
    fsyncSync(file);
    const note = () => writeWhole(part, identity, { shards, graphs: growing!.seals });
    growing = await growGraphs(part, options, rows, total, threads, left.graphs, held, file, input, note);
    const { seals, graphs } = growing;
    await addHeld(growing, file, held, dimensions, input);
    await addNew(growing, file, shards, held, identity, input, note);
    await writeBlockHashes(paths.blocks, input);
    const manifest: IndexManifest = {
      format: 3,
      ...shape,
      rows,
      corpusSha256,
      weightsSha256,
      encoding,
      step: input.step,
      reused: input.reuse?.rows ?? 0,
      createdAt: new Date().toISOString(),
      graphs: seals.map((seal, i) => ({ name: graphName(i, total), ...seal })),
      embeddings: { name: EMBEDDINGS, ...(await sealFile(paths.embeddings, input)) },
      blocks: { name: BLOCKS, ...(await sealFile(paths.blocks, input)) },
    };
    if (total > 0) {
      const probes = input.probes ?? sampleRows(file, 0, rows, dimensions);
      const n = probes.length / dimensions;
      const k = Math.min(10, rows);
      const found = searchGraphs(graphs, rows, probes, n, k, threads);
      const value = await recallOf(found, k, probes, file, rows, dimensions, threads, input);
      manifest.recall10 = { probes: n, value };
    }
    writeFileAtomic(join(part, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest;
  } finally {
    closeSync(file);
    growing?.release();
  }
}

/** The shards that stand undamaged in the embeddings file, up to the first that does not. */
async function wholeShards(
  file: number,
  left: readonly Shard[],
  dimensions: number,
  life: Life,
): Promise<Shard[]> {
  const whole: Shard[] = [];
  for (const [i, shard] of left.entries()) {
    if (!isHeld(file, shard, i * SHARD, dimensions)) break;
    whole.push(shard);
    await breathe(life);
  }
  return whole;
}

/** Adds the rows before `held`, which stand in the embeddings file, to the graphs that lack them. */
async function addHeld(
  growing: Growing,
  file: number,
  held: number,
  dimensions: number,
  input: BuildInput,
): Promise<void> {
  for (let row = growing.next(); row < held; ) {
    // The same pieces as when the rows came.
    const floats = new Float32Array(Math.min(ADD_ROWS - (row % ADD_ROWS), held - row) * dimensions);
    readFully(file, bytesOf(floats), row * dimensions * 4);
    await growing.add(floats);
    row += floats.length / dimensions;
    input.onProgress?.(row, input.rows);
    await breathe(input);
  }
}

/** Brings the rows from `held` on, which are embedded now, into the file, shard by shard, and adds them to the graphs. */
async function addNew(
  growing: Growing,
  file: number,
  shards: Shard[],
  held: number,
  identity: Identity,
  input: BuildInput,
  note: () => void,
): Promise<void> {
  const { rows, dimensions } = identity;
  if (held === rows) return;
  const chunk = new Float32Array(ADD_ROWS * dimensions);
  let written = held;
  let waiting = 0; // floats in `chunk`
  let hash = createHash('sha256'); // of the shard so far

  const flush = async () => {
    const floats = chunk.subarray(0, waiting);
    refuseBadRows(floats, written, dimensions, identity.scalar);
    const bytes = bytesOf(floats);
    writeFully(file, bytes, written * dimensions * 4);
    hash.update(bytes);
    written += waiting / dimensions;
    waiting = 0;
    if (written % SHARD === 0 || written === rows) {
      fsyncSync(file);
      shards.push({ rows: written - shards.length * SHARD, sha256: hash.digest('hex') });
      note();
      hash = createHash('sha256');
    }
    await growing.add(floats);
    input.onProgress?.(written, rows);
    await breathe(input);
  };
  for await (const piece of input.embeddings(held)) {
    if (piece.length % dimensions !== 0) {
      throw new Error(`embeddings: ${piece.length} floats are no whole number of rows of ${dimensions}`);
    }
    if (written + (waiting + piece.length) / dimensions > rows)
      throw new Error(`more than ${rows} embeddings came`);
    for (let at = 0; at < piece.length; ) {
      const n = Math.min(piece.length - at, chunk.length - waiting);
      chunk.set(piece.subarray(at, at + n), waiting);
      at += n;
      waiting += n;
      if (waiting === chunk.length) await flush();
    }
  }
  if (waiting > 0) await flush();
  if (written !== rows) throw new Error(`${written} embeddings came where the corpus has ${rows} blocks`);
}

/** Whether the file holds the rows of a shard that begins at row `first` as they were sealed. */
function isHeld(file: number, shard: Shard, first: number, dimensions: number): boolean {
  if (fstatSync(file).size < (first + shard.rows) * dimensions * 4) return false;
  const bytes = new Uint8Array(shard.rows * dimensions * 4);
  readFully(file, bytes, first * dimensions * 4);
  return createHash('sha256').update(bytes).digest('hex') === shard.sha256;
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

import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../system/errors.ts';
import {
  makeFolder,
  readFully,
  recoverFolders,
  writeFileAtomic,
  writeFolderResumable,
  writeFully,
} from '../system/files.ts';
import { type GraphShape, usableThreads } from './graph.ts';
import { type Growing, graphCount, graphName, growGraphs, searchGraphs } from './graphs.ts';
import { BLOCKS, EMBEDDINGS, type IndexManifest, MANIFEST, type Precision } from './manifest.ts';
import { recallOf, sampleRows } from './recall.ts';
import { type Identity, readProgress, SEGMENT_ROWS, type Segment, writeProgress } from './resume-segments.ts';
import { digestFile, type TaskControl, yieldToEventLoop } from './task-control.ts';

export interface BuildOptions extends GraphShape {
  /** Number of graphs that share the rows; 0: none, every search examines all rows. */
  subIndexes: number;
  /** Threads that add rows; only with 1 is the graph byte-identical in every build. */
  threads: number;
}

export interface BuildInput extends TaskControl {
  /**
   * Embeddings of the blocks `first`, `first` + 1, … in order: consecutive rows, any whole number of them per piece.
   * `first` is a multiple of `SEGMENT_ROWS`; the value of a row must not depend on it.
   */
  embeddings(first: number): AsyncIterable<Float32Array> | Iterable<Float32Array>;
  /** Total number of rows. */
  rows: number;
  corpusSha256: string;
  weightsSha256: string;
  /** See `IndexManifest.encoding`. */
  encoding: string;
  /** See `IndexManifest.precision`; f32 by default. */
  precision?: Precision;
  step: number;
  /** `Corpus.hash` of a block. */
  blockHash(block: number): bigint;
  /** SHA-256 of the embeddings that some rows are copied from, and how many. */
  reuse?: { sha256: string; rows: number };
  /** Queries [n, P] to measure recall with; by default 64 of the blocks themselves (which are easy to find). */
  probes?: Float32Array;
  /** Called about every `ADD_ROWS` rows. */
  onProgress?(done: number, total: number): void;
}

/** Rows added to a graph at once: the graph depends on this number, and each call blocks the process (1024 rows of 128: about 0.1 s). */
const ADD_ROWS = 1024;

/** Largest finite half-precision float; beyond it f16 becomes infinite. */
const F16_MAX = 65504;

/**
 * Streams the embeddings into a new index folder `dir`, which appears complete or not at all. They are written to
 * `dir`.part first, in segments; the next build of the same corpus, weights and settings resumes an interrupted
 * one, with the same result. An incomplete graph is rebuilt from its first row.
 * Needs memory for one graph and a few pieces. With one thread the files are byte-identical every time, whatever the
 * size of the pieces. An existing `dir` is replaced. Only one process may build at a time.
 */
export async function buildIndex(
  dir: string,
  input: BuildInput,
  options: BuildOptions,
): Promise<IndexManifest> {
  if (input.rows === 0) throw new UserError(`${dir}: there are no blocks to index; give a corpus with text`);
  return writeFolderResumable(dir, (part) => fill(part, input, options));
}

async function fill(part: string, input: BuildInput, options: BuildOptions): Promise<IndexManifest> {
  const { rows } = input;
  const { dimensions, dtype, m, efConstruction } = options;
  const shape = { dimensions, dtype, m, efConstruction };
  const { corpusSha256, weightsSha256, encoding, precision = 'f32' } = input;
  const reusedFrom = input.reuse?.sha256 ?? '';
  const total = graphCount(rows, options.subIndexes);
  const identity: Identity = {
    corpusSha256,
    weightsSha256,
    encoding,
    precision,
    reusedFrom,
    rows,
    ...shape,
    graphs: total,
  };
  const threads = usableThreads(options.threads);
  const earlier = readProgress(part, identity);
  if (earlier.segments.length === 0) rmSync(part, { recursive: true, force: true });
  makeFolder(part);
  recoverFolders(part);
  const paths = { embeddings: join(part, EMBEDDINGS), blocks: join(part, BLOCKS) };
  const file = openSync(paths.embeddings, constants.O_RDWR | constants.O_CREAT);
  let growing: Growing | undefined;
  try {
    const segments = await intactSegments(file, earlier.segments, dimensions, input);
    const rowsOnDisk = segments.reduce((sum, segment) => sum + segment.rows, 0);
    ftruncateSync(file, rowsOnDisk * dimensions * 4);
    fsyncSync(file);
    const saveProgress = () => writeProgress(part, identity, { segments, graphs: growing!.digests });
    growing = await growGraphs(
      part,
      {
        shape: options,
        rows,
        graphCount: total,
        threads,
        embeddings: file,
        rowsOnDisk,
        earlierDigests: earlier.graphs,
        onGraph: saveProgress,
      },
      input,
    );
    const { digests, graphs } = growing;
    const build: Build = { input, identity, file, segments, growing, saveProgress };
    await addFromDisk(build, rowsOnDisk);
    await addNew(build, rowsOnDisk);
    await writeBlockHashes(paths.blocks, input);
    const manifest: IndexManifest = {
      format: 4,
      ...shape,
      rows,
      corpusSha256,
      weightsSha256,
      encoding,
      step: input.step,
      precision,
      reused: input.reuse?.rows ?? 0,
      createdAt: new Date().toISOString(),
      graphs: digests.map((digest, i) => ({ name: graphName(i, total), ...digest })),
      embeddings: { name: EMBEDDINGS, ...(await digestFile(paths.embeddings, input)) },
      blocks: { name: BLOCKS, ...(await digestFile(paths.blocks, input)) },
    };
    if (total > 0) {
      const probes = input.probes ?? sampleRows(file, 0, rows, dimensions);
      const n = probes.length / dimensions;
      const k = Math.min(10, rows);
      const found = searchGraphs(graphs, rows, probes, n, k, threads);
      const value = await recallOf(found, k, probes, { file, rows, dimensions }, threads, input);
      manifest.recall10 = { probes: n, value };
    }
    writeFileAtomic(join(part, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest;
  } finally {
    closeSync(file);
    growing?.release();
  }
}

/** A build in progress. */
interface Build {
  input: BuildInput;
  identity: Identity;
  /** Descriptor of the embeddings file. */
  file: number;
  /** Its complete segments. */
  segments: Segment[];
  growing: Growing;
  /** Records on the disk which segments and graphs are complete. */
  saveProgress(): void;
}

/** The segments in the embeddings file before the first damaged one. */
async function intactSegments(
  file: number,
  earlier: readonly Segment[],
  dimensions: number,
  control: TaskControl,
): Promise<Segment[]> {
  const whole: Segment[] = [];
  for (const [i, segment] of earlier.entries()) {
    if (!isOnDisk(file, segment, i * SEGMENT_ROWS, dimensions)) break;
    whole.push(segment);
    await yieldToEventLoop(control);
  }
  return whole;
}

/** Adds the first `rowsOnDisk` rows, read from the embeddings file, to the graphs that lack them. */
async function addFromDisk({ growing, file, identity, input }: Build, rowsOnDisk: number): Promise<void> {
  const { dimensions } = identity;
  for (let row = growing.next(); row < rowsOnDisk; ) {
    // The same batches as in the build that wrote the rows.
    const floats = new Float32Array(Math.min(ADD_ROWS - (row % ADD_ROWS), rowsOnDisk - row) * dimensions);
    readFully(file, bytesOf(floats), row * dimensions * 4);
    await growing.add(floats);
    row += floats.length / dimensions;
    input.onProgress?.(row, input.rows);
    await yieldToEventLoop(input);
  }
}

/** Embeds the rows from `rowsOnDisk` on, writes them to the file in segments, and adds them to the graphs. */
async function addNew(build: Build, rowsOnDisk: number): Promise<void> {
  const { growing, file, segments, identity, input } = build;
  const { rows, dimensions } = identity;
  if (rowsOnDisk === rows) return;
  const batch = new Float32Array(ADD_ROWS * dimensions);
  let written = rowsOnDisk;
  let waiting = 0; // floats in `batch`
  let hash = createHash('sha256'); // of the segment so far

  const flush = async () => {
    const floats = batch.subarray(0, waiting);
    refuseBadRows(floats, written, dimensions, identity.dtype);
    const bytes = bytesOf(floats);
    writeFully(file, bytes, written * dimensions * 4);
    hash.update(bytes);
    written += waiting / dimensions;
    waiting = 0;
    if (written % SEGMENT_ROWS === 0 || written === rows) {
      fsyncSync(file);
      segments.push({ rows: written - segments.length * SEGMENT_ROWS, sha256: hash.digest('hex') });
      build.saveProgress();
      hash = createHash('sha256');
    }
    await growing.add(floats);
    input.onProgress?.(written, rows);
    await yieldToEventLoop(input);
  };
  for await (const piece of input.embeddings(rowsOnDisk)) {
    if (piece.length % dimensions !== 0) {
      throw new Error(`embeddings: ${piece.length} floats are not a whole number of rows of ${dimensions}`);
    }
    if (written + (waiting + piece.length) / dimensions > rows)
      throw new Error(`more than ${rows} embeddings were made`);
    for (let at = 0; at < piece.length; ) {
      const n = Math.min(piece.length - at, batch.length - waiting);
      batch.set(piece.subarray(at, at + n), waiting);
      at += n;
      waiting += n;
      if (waiting === batch.length) await flush();
    }
  }
  if (waiting > 0) await flush();
  if (written !== rows) throw new Error(`${written} embeddings were made, but the corpus has ${rows} blocks`);
}

/** Whether the file holds the rows of a segment, from row `first` on, with the recorded SHA-256. */
function isOnDisk(file: number, segment: Segment, first: number, dimensions: number): boolean {
  if (fstatSync(file).size < (first + segment.rows) * dimensions * 4) return false;
  const bytes = new Uint8Array(segment.rows * dimensions * 4);
  readFully(file, bytes, first * dimensions * 4);
  return createHash('sha256').update(bytes).digest('hex') === segment.sha256;
}

/** usearch accepts NaN silently and then ranks such a block first for every query. */
function refuseBadRows(floats: Float32Array, firstRow: number, dimensions: number, dtype: string): void {
  const limit = dtype === 'f16' ? F16_MAX : 3.4028234663852886e38;
  for (let i = 0; i < floats.length; i++) {
    const value = floats[i];
    if (value <= limit && value >= -limit) continue; // false for NaN
    const block = firstRow + Math.floor(i / dimensions);
    throw new UserError(
      `the embedding of block ${block} holds ${value}, which ${dtype} cannot represent; training has diverged: go back to an earlier checkpoint with a lower learning rate`,
    );
  }
}

const HASHES_AT_ONCE = 1 << 16;

/** Writes the block hashes, by which a later build, perhaps of another corpus, finds the row of a block. */
async function writeBlockHashes(path: string, input: BuildInput): Promise<void> {
  const hashes = new BigUint64Array(Math.min(HASHES_AT_ONCE, input.rows));
  const file = openSync(path, 'w');
  try {
    for (let first = 0; first < input.rows; first += HASHES_AT_ONCE) {
      const n = Math.min(HASHES_AT_ONCE, input.rows - first);
      for (let i = 0; i < n; i++) hashes[i] = input.blockHash(first + i);
      writeFully(file, new Uint8Array(hashes.buffer, 0, n * 8), null);
      await yieldToEventLoop(input);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function bytesOf(floats: Float32Array): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

// Builds one index in a separate process, for index.ts: `index-one.ts ROWS SHARDS SCALAR DIR` prints `Indexed`.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { random } from '../src/random.ts';
import { openIndex } from '../src/retrieval/search.ts';
import { buildIndex } from '../src/retrieval/write-index.ts';

export interface Indexed {
  /** Time of the build. */
  seconds: number;
  /** Peak resident bytes while building. */
  peak: number;
  /** Bytes of all files. */
  disk: number;
  /** Share of the exact best 10 that searches find. */
  recall10: number;
  /** Milliseconds per query: in a search of 16 queries for 10 blocks, and of one query for 5,000 blocks. */
  query10: number;
  query5000: number;
}

const P = 128;
const PIECE = 1024;
const CENTRES = 2000;
/** Standard deviation of rows around their centres, and of queries around rows; the centres' is 1 in each dimension. */
const SPREAD = 0.8;
const QUERIES = 64;

const [rows, subIndexes] = process.argv.slice(2, 4).map(Number);
const [dtype, dir] = process.argv.slice(4);
const centres = rng(CENTRES, 1);

const startTime = performance.now();
const manifest = await buildIndex(
  dir,
  {
    embeddings: pieces,
    rows,
    corpusSha256: 'c'.repeat(64),
    weightsSha256: 'e'.repeat(64),
    encoding: 'bench',
    step: 0,
    blockHash: BigInt,
    probes: queries(),
  },
  {
    dimensions: P,
    dtype: dtype as 'f32',
    subIndexes,
    m: 16,
    efConstruction: 128,
    efSearch: 128,
    threads: 0,
  },
);
const seconds = (performance.now() - startTime) / 1000;
const peak = process.resourceUsage().maxRSS * 1024;

const index = openIndex(dir, { efSearch: 128 });
const asked = queries();
const query10 = middle(16, 10);
const query5000 = middle(1, Math.min(5000, rows));
index.close();
const files = [...manifest.graphs, manifest.embeddings, manifest.blocks];
const indexed: Indexed = {
  seconds,
  peak,
  disk: files.reduce((sum, { name }) => sum + statSync(join(dir, name)).size, 0),
  recall10: manifest.recall10?.value ?? 1,
  query10,
  query5000,
};
console.log(JSON.stringify(indexed));

/** Median milliseconds per query, in searches of `n` queries at once. */
function middle(n: number, k: number): number {
  const times: number[] = [];
  for (let at = 0; at + n <= QUERIES; at += n) {
    const before = performance.now();
    index.search(asked.slice(at * P, (at + n) * P), k);
    times.push((performance.now() - before) / n);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

function* pieces(first: number): Generator<Float32Array> {
  for (let at = first; at < rows; at += PIECE) yield piece(at, Math.min(PIECE, rows - at));
}

/** Rows around centres; they do not depend on the number of rows. */
function piece(at: number, n: number): Float32Array {
  const vectors = rng(n, at + 2);
  const { int } = random(at + 3);
  for (let row = 0; row < n; row++) {
    const centre = int(CENTRES) * P;
    for (let d = 0; d < P; d++) vectors[row * P + d] = centres[centre + d] + SPREAD * vectors[row * P + d];
  }
  return vectors;
}

function queries(): Float32Array {
  const vectors = piece(0, Math.min(QUERIES, rows));
  const away = rng(vectors.length / P, 5);
  return vectors.map((value, i) => value + SPREAD * away[i]);
}

/** Random values [n, P] with mean 0 and variance 1. */
function rng(n: number, seed: number): Float32Array {
  const { float } = random(seed);
  return Float32Array.from({ length: n * P }, () => (2 * float() - 1) * Math.sqrt(3));
}

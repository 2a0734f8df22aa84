import { exactSearch, MetricKind } from 'usearch';
import { readFully } from '../system/files.ts';
import { obey } from '../system/stop.ts';
import { keepBest } from './best.ts';
import { type Found, nothingFound, usableThreads } from './graph.ts';
import { orderTies } from './ties.ts';

/**
 * Rows read and searched at a time: exact search needs 16 bytes of scratch memory per row and query.
 * usearch searched 4,096 rows of 128 with 64 queries in 11 ms; the native engine's product alone took 65 (both on two
 * busy cores). It also needs no engine, and is synchronous, unlike a product on a GPU.
 */
const ROWS_PER_PIECE = 16384;

/**
 * The k rows with the largest inner product for each query, over the embeddings file [rows, P]; yields after each piece.
 * @param queries [n, P]
 */
export function* exactPieces(
  file: number,
  rows: number,
  dimensions: number,
  queries: Float32Array,
  k: number,
  threads: number,
): Generator<undefined, Found> {
  const n = queries.length / dimensions;
  const best = nothingFound(n, k);
  if (n === 0) return best;
  const vectors = fromStart(queries);
  const piece = new Float32Array(Math.min(ROWS_PER_PIECE, rows) * dimensions);
  for (let first = 0; first < rows; first += ROWS_PER_PIECE) {
    const here = Math.min(ROWS_PER_PIECE, rows - first);
    readFully(file, new Uint8Array(piece.buffer, 0, here * dimensions * 4), first * dimensions * 4);
    keepBest(best, searchPiece(piece.subarray(0, here * dimensions), first, vectors, dimensions, k, threads));
    yield;
  }
  return best;
}

/** usearch ignores the offset of an array in its buffer. */
function fromStart(values: Float32Array): Float32Array {
  return values.byteOffset === 0 ? values : values.slice();
}

/** How many rows are asked for beyond k, to see whether more rows have the score of the k-th. */
const BEYOND = 16;

/** The best rows in `vectors`, which start at row `first`. */
function searchPiece(
  vectors: Float32Array,
  first: number,
  queries: Float32Array,
  dimensions: number,
  k: number,
  threads: number,
): Found {
  const n = queries.length / dimensions;
  const rows = vectors.length / dimensions;
  const wanted = Math.min(k, rows);
  for (let asked = Math.min(wanted + BEYOND, rows); ; asked = Math.min(2 * asked, rows)) {
    const { keys, distances } = exactSearch(vectors, queries, dimensions, asked, MetricKind.IP, threads);
    const words = new Uint32Array(keys.buffer, keys.byteOffset, keys.length * 2); // low word first
    const all = {
      blocks: Int32Array.from({ length: n * asked }, (_, i) => first + words[2 * i]),
      scores: Float32Array.from({ length: n * asked }, (_, i) => 1 - distances[i]), // see `searchGraph`
      counts: new Int32Array(n).fill(wanted),
    };
    // usearch leaves out any of the rows with the score of the last.
    const tied = (q: number) => all.scores[q * asked + wanted - 1] === all.scores[(q + 1) * asked - 1];
    if (asked < rows && all.counts.some((_, q) => tied(q))) continue;
    return firstOf(all, asked, wanted);
  }
}

/** The first `wanted` of `asked` rows of each query, with equal scores in order. */
function firstOf(all: Found, asked: number, wanted: number): Found {
  const n = all.counts.length;
  const blocks = new Int32Array(n * wanted);
  const scores = new Float32Array(n * wanted);
  for (let q = 0; q < n; q++) {
    orderTies(all, q * asked, (q + 1) * asked);
    blocks.set(all.blocks.subarray(q * asked, q * asked + wanted), q * wanted);
    scores.set(all.scores.subarray(q * asked, q * asked + wanted), q * wanted);
  }
  return { blocks, scores, counts: all.counts };
}

/**
 * Like `exactPieces`, over vectors that arrive piece by piece and are not stored.
 * @param onPiece called with the number of rows searched so far
 */
export async function exactBest(
  pieces: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  queries: Float32Array,
  dimensions: number,
  k: number,
  onPiece: (rows: number) => void,
): Promise<Found> {
  const best = nothingFound(queries.length / dimensions, k);
  let rows = 0;
  for await (const piece of pieces) {
    keepBest(best, searchPiece(fromStart(piece), rows, fromStart(queries), dimensions, k, usableThreads(0)));
    rows += piece.length / dimensions;
    onPiece(rows);
  }
  return best;
}

/** The whole search in one call. */
export function exactTop(...search: Parameters<typeof exactPieces>): Found {
  const pieces = exactPieces(...search);
  for (;;) {
    obey();
    const { done, value } = pieces.next();
    if (done) return value;
  }
}

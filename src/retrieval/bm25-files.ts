import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fingerprint64 } from 'farmhash-modern';
import { z } from 'zod';
import { namedDigestSchema } from './manifest.ts';

// The files of BM25's inverted index, in one folder:
//   manifest.json     what it was made from, and its segments, with length and SHA-256 of each
//   segment-1.bin     the postings of the first blocks; segment-2.bin those of the next ones; …
// A segment is little-endian:
//   lengths   u32 for each block: its number of terms
//   buckets   u32 for each bucket and one more: its first record
//   records   for each term and one more, 4 u32: the high and low half of the term's hash, the blocks that have the term,
//             and where its postings start. Ordered by hash
//   postings  for each block that has the term, in order, two variable-length numbers: the distance from the block before
//             (the first: from −1), and how often the block has the term
// A term is known by its 64-bit hash: of ten million terms, two share one with a probability of 3 in a million. A bucket
// has the records whose hashes start with the same bits, 64 of them at the mean, so a term is found with one small read
// and the memory of a search does not grow with the vocabulary.
//
// SQLite with FTS5 was measured and left out: its bm25() took 50 ms a question for 21,000 blocks and grows with them, has
// fixed k1 and b and another IDF; and node-sqlite3-wasm lets one process read at a time, with a lock that a killed process
// leaves behind. MiniSearch holds everything in memory.

/** Also counts changes of `terms`. */
const FORMAT = 1;

const segmentSchema = namedDigestSchema.extend({
  blocks: z.int().positive(),
  /** Distinct terms. */
  terms: z.int().nonnegative(),
  /** Sum of the lengths of the blocks. */
  tokens: z.int().nonnegative(),
});

export type Segment = z.infer<typeof segmentSchema>;

const schema = z.strictObject({
  format: z.literal(FORMAT),
  /** `Corpus.sha256`. */
  corpusSha256: z.string(),
  segments: z.array(segmentSchema),
});

/** Segments that the file says are complete; none if it is missing, invalid, or of another corpus. */
export function readSegments(path: string, corpusSha256: string): Segment[] {
  try {
    const { success, data } = schema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    return success && data.corpusSha256 === corpusSha256 ? data.segments : [];
  } catch {
    return [];
  }
}

export function manifestText(corpusSha256: string, segments: readonly Segment[]): string {
  return `${JSON.stringify({ format: FORMAT, corpusSha256, segments }, null, 2)}\n`;
}

export const segmentName = (i: number) => `segment-${i + 1}.bin`;

/** Numbers in a record. */
export const RECORD = 4;

/** Number of bits that choose the bucket, for so many terms. */
export function bucketBits(terms: number): number {
  return Math.max(0, Math.ceil(Math.log2(Math.max(1, terms) / 64)));
}

/** @param high the high half of a term's hash */
export function bucketOf(high: number, bits: number): number {
  return bits === 0 ? 0 : high >>> (32 - bits);
}

/** Where the parts of a segment start, in bytes. */
export function layoutOf({ blocks, terms }: Pick<Segment, 'blocks' | 'terms'>) {
  const buckets = 4 * blocks;
  const records = buckets + 4 * (2 ** bucketBits(terms) + 1);
  return { buckets, records, postings: records + 4 * RECORD * (terms + 1) };
}

export function termHash(term: string): [high: number, low: number] {
  const hash = fingerprint64(term);
  return [Number(hash >> 32n), Number(hash & 0xffffffffn)];
}

export function sha256Of(...parts: readonly Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

export const manifestPath = (dir: string) => join(dir, 'manifest.json');

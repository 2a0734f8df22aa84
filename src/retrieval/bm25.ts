import { closeSync, fstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../system/errors.ts';
import { inside, readFully } from '../system/files.ts';
import { say } from '../system/progress.ts';
import { obey } from '../system/stop.ts';
import { changedFile } from '../system/verified.ts';
import { buildBm25, type Texts } from './bm25-build.ts';
import {
  bucketBits,
  bucketOf,
  layoutOf,
  manifestPath,
  RECORD,
  readSegments,
  type Segment,
  termHash,
} from './bm25-files.ts';
import { REBUILD } from './manifest.ts';
import { terms } from './terms.ts';
import { bestOf, type Scored } from './top.ts';

/** Anserini's values, with which BM25 results on open-domain questions are published. */
const K1 = 0.9;
const B = 0.4;

/**
 * BM25 over the blocks of a corpus, title and text together: the sparse retriever that REALM is compared with, and one
 * half of hybrid retrieval. As in Lucene,
 * Σ ln(1 + (N − n + 0.5) / (n + 0.5)) · f (k1 + 1) / (f + k1 (1 − b + b · length / mean length)) over the question's terms, a
 * repeated term counting each time, with k1 = 0.9 and b = 0.4; n of N blocks have the term, this one f times.
 */
export interface Bm25 {
  /** The at most `k` best blocks that share a term with the question, by score, then by number. */
  search(question: string, k: number): Scored;
  /** The score of each of these blocks; 0 for one that shares no term with the question. */
  scores(question: string, blocks: ArrayLike<number>): Float64Array;
  /** The score of texts that are not in the corpus, as if each were a block, by the corpus's statistics. */
  textScores(question: string, texts: readonly string[]): Float64Array;
  close(): void;
}

/** A segment, open for reading. */
interface Opened extends Segment {
  file: number;
  /** Its first block. */
  first: number;
  /** The first record of each bucket. */
  buckets: Uint32Array;
}

/** A term of a question. */
interface Term {
  /** Its IDF times k1 + 1 times its number in the question. */
  weight: number;
  /** Its postings in each segment. */
  places: { start: number; bytes: number; count: number }[];
}

/** Opens BM25's index of the corpus in the folder `dir`, and makes it first if it is missing, damaged, or of another corpus. */
export async function ensureBm25(dir: string, corpus: Texts): Promise<Bm25> {
  const segments = readSegments(manifestPath(dir), corpus.sha256);
  const wrong = wrongFile(dir, corpus, segments);
  if (wrong !== undefined) {
    if (wrong !== '')
      say(`${join(dir, wrong)}: has changed since it was written; the BM25 index is made again`);
    await buildBm25(dir, corpus);
  }
  return openBm25(dir, corpus);
}

/** Opens BM25's index of the corpus; a `UserError` if it is missing, damaged, or of another corpus. */
export function openBm25(dir: string, corpus: Texts): Bm25 {
  const segments = readSegments(manifestPath(dir), corpus.sha256);
  const wrong = wrongFile(dir, corpus, segments);
  if (wrong === '') throw new UserError(`${dir}: has no BM25 index of the current corpus; ${REBUILD}`);
  if (wrong !== undefined)
    throw new UserError(`${join(dir, wrong)}: is damaged (its SHA-256 is not the manifest's); ${REBUILD}`);
  return over(dir, segments);
}

/** The name of a damaged file; empty if there is no index of this corpus; undefined if all is well. */
function wrongFile(dir: string, { blocks }: Texts, segments: readonly Segment[]): string | undefined {
  if (segments.length === 0 || segments.reduce((sum, segment) => sum + segment.blocks, 0) !== blocks)
    return '';
  try {
    return changedFile(dir, Object.fromEntries(segments.map((segment) => [segment.name, segment])));
  } catch {
    return '';
  }
}

function over(dir: string, segments: readonly Segment[]): Bm25 {
  const blocks = segments.reduce((sum, segment) => sum + segment.blocks, 0);
  const tokens = segments.reduce((sum, segment) => sum + segment.tokens, 0);
  const meanLength = tokens / blocks;
  const lengths = new Uint32Array(blocks); // 4 bytes a block, the only memory that grows with the corpus
  const opened: Opened[] = [];
  const close = () => {
    for (const { file } of opened.splice(0)) closeSync(file);
  };
  try {
    let first = 0;
    for (const segment of segments) {
      const file = openSync(inside(dir, segment.name), 'r');
      const buckets = new Uint32Array(2 ** bucketBits(segment.terms) + 1);
      opened.push({ ...segment, file, first, buckets });
      if (fstatSync(file).size !== segment.bytes) throw damaged(dir, segment);
      readFully(file, bytesOf(lengths.subarray(first, first + segment.blocks)), 0);
      readFully(file, bytesOf(buckets), layoutOf(segment).buckets);
      first += segment.blocks;
    }
  } catch (error) {
    close();
    throw error;
  }
  const widest = Math.max(...segments.map((segment) => segment.blocks));
  const scratch = new Float64Array(widest);

  function lookUp(question: string): Map<string, Term> {
    obey();
    const wanted = new Map<string, Term>();
    for (const term of terms(question)) {
      const known = wanted.get(term);
      if (known) known.weight++;
      else wanted.set(term, { weight: 1, places: opened.map(placeOf(term)) });
    }
    for (const found of wanted.values()) {
      const n = found.places.reduce((sum, { count }) => sum + count, 0);
      found.weight *= Math.log(1 + (blocks - n + 0.5) / (n + 0.5)) * (K1 + 1);
    }
    return wanted;
  }

  /** BM25's share for a term with this frequency in a text of this length. */
  const part = (weight: number, frequency: number, length: number) =>
    (weight * frequency) / (frequency + K1 * (1 - B + (B * length) / meanLength));

  /** Scores of the blocks of segment `s`, in `scratch`. */
  function scoreSegment(wanted: Map<string, Term>, s: number): Float64Array {
    obey();
    const segment = opened[s];
    const scores = scratch.subarray(0, segment.blocks).fill(0);
    for (const { weight, places } of wanted.values()) {
      const { start, bytes, count } = places[s];
      if (count === 0) continue;
      const postings = new Uint8Array(bytes);
      readFully(segment.file, postings, start);
      let at = 0;
      const next = () => {
        let value = postings[at] & 0x7f;
        for (let shift = 7; postings[at++] >= 0x80; shift += 7) value |= (postings[at] & 0x7f) << shift;
        return value >>> 0;
      };
      for (let i = 0, block = -1; i < count; i++) {
        block += next();
        scores[block] += part(weight, next(), lengths[segment.first + block]);
      }
    }
    return scores;
  }

  const isOpen = () => {
    if (opened.length === 0) throw new Error('the BM25 index is closed');
  };
  return {
    search(question, k) {
      isOpen();
      const wanted = lookUp(question);
      const best = bestOf(k);
      if (wanted.size > 0)
        opened.forEach(({ first }, s) => {
          const scores = scoreSegment(wanted, s);
          for (let i = 0; i < scores.length; i++)
            if (scores[i] > best.least()) best.add(first + i, scores[i]);
        });
      return best.sorted();
    },
    scores(question, wantedBlocks) {
      isOpen();
      const wanted = lookUp(question);
      const results = new Float64Array(wantedBlocks.length);
      opened.forEach(({ first, blocks }, s) => {
        const mine = Array.from(wantedBlocks, (block) => block - first);
        if (!mine.some((block) => block >= 0 && block < blocks)) return;
        const scores = scoreSegment(wanted, s);
        mine.forEach((block, i) => {
          if (block >= 0 && block < blocks) results[i] = scores[block];
        });
      });
      return results;
    },
    textScores(question, texts) {
      isOpen();
      const wanted = lookUp(question);
      return Float64Array.from(texts, (text) => {
        const words = terms(text);
        const frequencies = new Map<string, number>();
        for (const word of words)
          if (wanted.has(word)) frequencies.set(word, (frequencies.get(word) ?? 0) + 1);
        let score = 0;
        for (const [word, frequency] of frequencies)
          score += part(wanted.get(word)!.weight, frequency, words.length);
        return score;
      });
    },
    close,
  };
}

/** Finds a term's postings in a segment; a count of 0 if it has none. */
function placeOf(term: string) {
  const [high, low] = termHash(term);
  return (segment: Opened) => {
    const { records, postings } = layoutOf(segment);
    const bucket = bucketOf(high, bucketBits(segment.terms));
    const from = segment.buckets[bucket];
    const found = new Uint32Array(RECORD * (segment.buckets[bucket + 1] - from + 1));
    readFully(segment.file, bytesOf(found), records + 4 * RECORD * from);
    for (let i = 0; i + RECORD < found.length; i += RECORD) {
      if (found[i] !== high || found[i + 1] !== low) continue;
      const start = found[i + 3];
      return { start: postings + start, bytes: found[i + 3 + RECORD] - start, count: found[i + 2] };
    }
    return { start: 0, bytes: 0, count: 0 };
  };
}

function damaged(dir: string, { name }: Segment): UserError {
  return new UserError(`${join(dir, name)}: is damaged; ${REBUILD}`);
}

function bytesOf(numbers: Uint32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}

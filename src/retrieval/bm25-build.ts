import { closeSync, fsyncSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Corpus } from '../corpus/store/reader.ts';
import {
  makeFolder,
  RESUME,
  recoverFolders,
  writeFileAtomic,
  writeFolderResumable,
  writeFully,
} from '../system/files.ts';
import { progress } from '../system/progress.ts';
import { obey, pauses, stopMeans } from '../system/stop.ts';
import {
  bucketBits,
  bucketOf,
  layoutOf,
  manifestPath,
  manifestText,
  RECORD,
  readSegments,
  type Segment,
  segmentName,
  sha256Of,
  termHash,
} from './bm25-files.ts';
import { isWhole } from './task-control.ts';
import { terms } from './terms.ts';

/** What BM25 reads of a corpus. */
export type Texts = Pick<Corpus, 'sha256' | 'blocks' | 'title' | 'text'>;

/** Postings of a segment: 50 MB of arrays while it is made, some 70,000 blocks of 100 words. */
const SEGMENT_POSTINGS = 1 << 22;

/**
 * Makes BM25's inverted index over title and text of every block, in the folder `dir`, which appears complete or not at
 * all. Its segments are written one after the other, so memory does not grow with the corpus; an interrupted build
 * resumes after the last complete segment. Only one process may build at a time.
 */
export async function buildBm25(
  dir: string,
  corpus: Texts,
  segmentPostings = SEGMENT_POSTINGS,
): Promise<void> {
  stopMeans('the parts of the BM25 index made so far are kept, and the same command resumes from them');
  await writeFolderResumable(dir, async (part) => {
    const segments = await wholeSegments(part, corpus);
    if (segments.length === 0) rmSync(part, { recursive: true, force: true });
    makeFolder(part);
    recoverFolders(part);
    let done = segments.reduce((sum, { blocks }) => sum + blocks, 0);
    const bar = progress('bm25', corpus.blocks, { unit: 'blocks', from: done });
    const pause = pauses();
    try {
      while (done < corpus.blocks) {
        const postings = newPostings();
        while (done + postings.lengths.length < corpus.blocks && postings.count < segmentPostings) {
          const block = done + postings.lengths.length;
          addBlock(postings, terms(`${corpus.title(block)} ${corpus.text(block)}`));
          obey();
          const paused = pause();
          if (paused) {
            bar.at(block);
            await paused;
          }
        }
        segments.push(writeSegment(part, segmentName(segments.length), postings));
        writeFileAtomic(join(part, RESUME), manifestText(corpus.sha256, segments));
        done += postings.lengths.length;
        bar.at(done);
      }
    } finally {
      bar.end();
    }
    writeFileAtomic(manifestPath(part), manifestText(corpus.sha256, segments));
  });
}

/** The segments that an interrupted build of this corpus has completed. */
async function wholeSegments(part: string, { sha256 }: Texts): Promise<Segment[]> {
  const whole: Segment[] = [];
  for (const segment of readSegments(join(part, RESUME), sha256)) {
    if (!(await isWhole(part, segment, {}))) break;
    whole.push(segment);
  }
  return whole;
}

/** The postings of the segment that is being made, in the order of their blocks. */
interface Postings {
  /** Number of terms of each block. */
  lengths: number[];
  tokens: number;
  /** Numbers of the terms, from 0. */
  numbers: Map<string, number>;
  /** By term: its newest posting, plus 1. */
  newest: Uint32Array;
  count: number;
  /** By posting: its term, its block in the segment, and how often the block has the term. */
  term: Uint32Array;
  block: Uint32Array;
  frequency: Uint32Array;
}

function newPostings(): Postings {
  const empty = () => new Uint32Array(1 << 10);
  return {
    lengths: [],
    tokens: 0,
    numbers: new Map(),
    newest: empty(),
    count: 0,
    term: empty(),
    block: empty(),
    frequency: empty(),
  };
}

function addBlock(postings: Postings, words: readonly string[]): void {
  const { numbers, lengths } = postings;
  const block = lengths.length;
  for (const word of words) {
    let term = numbers.get(word);
    if (term === undefined) {
      term = numbers.size;
      numbers.set(word, term);
      if (term === postings.newest.length) postings.newest = longer(postings.newest);
    }
    const last = postings.newest[term] - 1;
    if (last >= 0 && postings.block[last] === block) {
      postings.frequency[last]++;
      continue;
    }
    const at = postings.count++;
    if (at === postings.term.length) {
      postings.term = longer(postings.term);
      postings.block = longer(postings.block);
      postings.frequency = longer(postings.frequency);
    }
    postings.term[at] = term;
    postings.block[at] = block;
    postings.frequency[at] = 1;
    postings.newest[term] = at + 1;
  }
  lengths.push(words.length);
  postings.tokens += words.length;
}

function longer(array: Uint32Array): Uint32Array<ArrayBuffer> {
  const copy = new Uint32Array(2 * array.length);
  copy.set(array);
  return copy;
}

/** Writes and syncs a segment (see bm25-files.ts). */
function writeSegment(dir: string, name: string, postings: Postings): Segment {
  const { lengths, tokens, numbers } = postings;
  const shape = { blocks: lengths.length, terms: numbers.size };
  const layout = layoutOf(shape);
  const bits = bucketBits(shape.terms);
  const head = new Uint32Array(layout.postings / 4);
  head.set(lengths);
  const { order, high, low } = byHash(numbers.keys(), shape.terms);
  const { sorted, ends } = byTerm(postings, shape.terms);
  const bytes = variableLength();
  const records = layout.records / 4;
  const buckets = layout.buckets / 4;
  for (let i = 0; i < shape.terms; i++) {
    const term = order[i];
    const first = term === 0 ? 0 : ends[term - 1];
    head.set([high[term], low[term], ends[term] - first, bytes.length()], records + RECORD * i);
    head[buckets + bucketOf(high[term], bits) + 1] = i + 1;
    for (let at = first, before = -1; at < ends[term]; at++) {
      const block = postings.block[sorted[at]];
      bytes.push(block - before);
      bytes.push(postings.frequency[sorted[at]]);
      before = block;
    }
  }
  head[records + RECORD * shape.terms + 3] = bytes.length();
  // An empty bucket starts where the one before ends.
  for (let b = 1; b <= 2 ** bits; b++) head[buckets + b] = Math.max(head[buckets + b], head[buckets + b - 1]);
  const parts = [new Uint8Array(head.buffer), bytes.bytes()];
  const file = openSync(join(dir, name), 'w');
  try {
    for (const part of parts) writeFully(file, part, null);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return { name, bytes: length, sha256: sha256Of(...parts), ...shape, tokens };
}

/** The hash of each term, and the terms' numbers in the order of their hashes. */
function byHash(words: Iterable<string>, count: number) {
  const high = new Uint32Array(count);
  const low = new Uint32Array(count);
  let term = 0;
  for (const word of words) [high[term], low[term++]] = termHash(word);
  const order = Uint32Array.from(high.keys()).sort((a, b) => high[a] - high[b] || low[a] - low[b]);
  return { order, high, low };
}

/** The postings in the order of their terms, those of one term by block, and where those of each term end. */
function byTerm({ term, count }: Postings, terms: number) {
  const counts = new Uint32Array(terms);
  for (let i = 0; i < count; i++) counts[term[i]]++;
  const next = new Uint32Array(terms);
  for (let t = 1; t < terms; t++) next[t] = next[t - 1] + counts[t - 1];
  const sorted = new Uint32Array(count);
  for (let i = 0; i < count; i++) sorted[next[term[i]]++] = i;
  return { sorted, ends: next };
}

/** Numbers of 7 bits a byte, the lowest first; all bytes but a number's last have the eighth bit. */
function variableLength() {
  let buffer = new Uint8Array(1 << 12);
  let length = 0;
  return {
    length: () => length,
    push(value: number): void {
      if (length + 5 > buffer.length) {
        const copy = new Uint8Array(2 * buffer.length);
        copy.set(buffer);
        buffer = copy;
      }
      let rest = value;
      for (; rest >= 0x80; rest >>>= 7) buffer[length++] = (rest & 0x7f) | 0x80;
      buffer[length++] = rest;
    },
    bytes: () => buffer.subarray(0, length),
  };
}

import type { Corpus } from '../corpus/store/reader.ts';

/**
 * Candidates of one masked sentence: retrieved blocks in order, without trivial candidates, at most `limit`.
 * A block is a trivial candidate if it is the block the sentence came from (by content, so that a copy counts too) or if
 * it holds nearly all of the sentence's word-piece 5-grams (paper, section 3.4; the released code compares only the
 * content, which misses a sentence that came from another corpus but is also in the block).
 * @param sentence the unmasked sentence
 * @param source the block that the sentence came from, -1 for none
 */
export function dropTrivial(
  corpus: Corpus,
  sentence: Int32Array,
  source: number,
  retrieved: ArrayLike<number>,
  limit: number,
  overlap: number,
): { candidates: number[]; dropped: number } {
  const grams = ngrams(sentence);
  const sourceHash = source >= 0 ? corpus.hash(source) : undefined;
  const candidates: number[] = [];
  let dropped = 0;
  for (let i = 0; i < retrieved.length && candidates.length < limit; i++) {
    const block = retrieved[i];
    if (
      block === source ||
      corpus.hash(block) === sourceHash ||
      shared(grams, corpus.bodyIds(block)) >= overlap
    )
      dropped++;
    else candidates.push(block);
  }
  return { candidates, dropped };
}

/** Word pieces of one n-gram. */
const GRAM = 5;

/** Hashes of all n-grams of a sentence; a sentence shorter than an n-gram is a single gram of its own length. */
function ngrams(ids: Int32Array): { length: number; hashes: Set<number> } {
  const length = Math.min(GRAM, ids.length);
  const hashes = new Set<number>();
  if (length > 0) for (let i = 0; i + length <= ids.length; i++) hashes.add(gramAt(ids, i, length));
  return { length, hashes };
}

/** Share of a sentence's grams that occur in `body`. */
function shared({ length, hashes }: ReturnType<typeof ngrams>, body: Int32Array): number {
  if (hashes.size === 0) return 0;
  const found = new Set<number>();
  for (let i = 0; i + length <= body.length; i++) {
    const gram = gramAt(body, i, length);
    if (hashes.has(gram)) found.add(gram);
  }
  return found.size / hashes.size;
}

/** 53 bits of two polynomial hashes modulo 2^32: a collision only makes one gram count wrongly. */
function gramAt(ids: Int32Array, at: number, n: number): number {
  let a = 0;
  let b = 0;
  for (let i = at; i < at + n; i++) {
    a = (Math.imul(a, 0x01000193) + ids[i] + 1) | 0;
    b = (Math.imul(b, 0x9e3779b1) + ids[i] + 1) | 0;
  }
  return (a >>> 0) * 2 ** 21 + (b >>> 11);
}

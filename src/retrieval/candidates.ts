import type { Corpus } from '../corpus/store.ts';

/**
 * Candidates of one masked sentence: retrieved blocks in their order, without its trivial source, at most `limit`.
 * A block is a trivial source when it is the block the sentence came from (by content, so that a copy counts too) or
 * when it holds nearly all of the sentence's word-piece 5-grams (paper, section 3.4; the released code compares content
 * alone, which misses a sentence that came from another corpus and stands in the block all the same).
 * @param sentence the unmasked sentence
 * @param source the block it came from, -1 for none
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

/** Hashes of all n-grams; a text shorter than one is a single gram. */
function ngrams(ids: Int32Array): Set<number> {
  const n = Math.min(GRAM, ids.length);
  const grams = new Set<number>();
  for (let i = 0; i + n <= ids.length; i++) grams.add(gramAt(ids, i, n));
  return grams;
}

/** Share of `grams` that stand in `body`. */
function shared(grams: Set<number>, body: Int32Array): number {
  if (grams.size === 0) return 0;
  const found = new Set<number>();
  for (let i = 0; i + GRAM <= body.length; i++) {
    const gram = gramAt(body, i, GRAM);
    if (grams.has(gram)) found.add(gram);
  }
  return found.size / grams.size;
}

/** A 53-bit polynomial hash: a collision merely makes one gram count. */
function gramAt(ids: Int32Array, at: number, n: number): number {
  let h = 0;
  for (let i = at; i < at + n; i++) h = (h * 65599 + ids[i] + 1) % 9007199254740881;
  return h;
}

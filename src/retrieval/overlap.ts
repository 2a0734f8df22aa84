import type { Found } from './graph.ts';

/**
 * How much an index has changed: the mean, over the same queries, of the share of the k best blocks that two searches
 * have in common, from 0 to 1. The searches may have found more than k. If fewer were found, the share is relative to the
 * larger number found; a query without results in both searches does not count, and if no query counts the result is 1.
 */
export function overlapAt(before: Found, after: Found, k: number): number {
  const queries = before.counts.length;
  if (after.counts.length !== queries) {
    throw new Error(`results of ${queries} and of ${after.counts.length} queries cannot be compared`);
  }
  let sum = 0;
  let counted = 0;
  for (let q = 0; q < queries; q++) {
    const old = best(before, q, k);
    const now = best(after, q, k);
    const most = Math.max(old.length, now.length);
    if (most === 0) continue;
    const known = new Set(old);
    sum += now.filter((block) => known.has(block)).length / most;
    counted++;
  }
  return counted === 0 ? 1 : sum / counted;
}

/** The at most k best blocks of query `q`. */
function best({ blocks, counts }: Found, q: number, k: number): number[] {
  const stride = blocks.length / counts.length;
  return [...blocks.subarray(q * stride, q * stride + Math.min(k, counts[q]))];
}

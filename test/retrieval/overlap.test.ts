import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Found } from '../../src/retrieval/graph.ts';
import { overlapAt } from '../../src/retrieval/overlap.ts';

/** What a search with k = 3 found, by query. */
function found(...queries: number[][]): Found {
  const blocks = new Int32Array(queries.length * 3).fill(-1);
  for (const [q, best] of queries.entries()) blocks.set(best, q * 3);
  return {
    blocks,
    scores: new Float32Array(blocks.length),
    counts: Int32Array.from(queries, (q) => q.length),
  };
}

test('the share of the best blocks that two searches have in common, by hand', () => {
  const before = found([1, 2, 3], [4, 5, 6]);
  const after = found([3, 9, 1], [7, 8, 4]);
  // k = 3: {1, 3} for the first query, {4} for the second. k = 2: {1, 2} and {3, 9} have none in common, nor {4, 5} and {7, 8}.
  assert.equal(overlapAt(before, after, 3), (2 / 3 + 1 / 3) / 2);
  assert.equal(overlapAt(before, after, 2), 0);
  assert.equal(overlapAt(before, before, 1), 1);
  // The order among the best does not matter.
  assert.equal(overlapAt(found([1, 2, 3]), found([3, 1, 2]), 3), 1);
});

test('if fewer than k were found, the larger number counts, and empty slots do not', () => {
  assert.equal(overlapAt(found([1, 2]), found([2, 1, 5]), 3), 2 / 3);
  assert.equal(overlapAt(found([1]), found([2]), 3), 0);
  assert.equal(overlapAt(found([1], []), found([1], []), 3), 1);
  assert.equal(overlapAt(found([]), found([]), 3), 1);
  assert.equal(overlapAt(found(), found(), 3), 1);
});

test('results for different numbers of queries cannot be compared', () => {
  assert.throws(() => overlapAt(found([1]), found([1], [2]), 3), /1 and of 2 queries/);
});

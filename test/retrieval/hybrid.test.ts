import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EncodedQuestion } from '../../src/model/questions.ts';
import { random } from '../../src/random.ts';
import { combine, findBlocks } from '../../src/retrieval/hybrid.ts';
import { rankByBoth, rankByIndex } from '../../src/train/qa-candidates.ts';
import { tinyConfig } from '../support/tiny.ts';

const close = (found: ArrayLike<number>, wanted: readonly number[]) =>
  assert.ok(
    found.length === wanted.length && wanted.every((value, i) => Math.abs(found[i] - value) < 1e-6),
    `${Array.from(found)}, not ${wanted}`,
  );

test('the combination by hand', () => {
  const candidates = {
    blocks: Int32Array.of(4, 7, 2),
    dense: Float32Array.of(0.8, 0.2, 0.5), // scaled: 1, 0, 0.5
    sparse: Float64Array.of(0, 6, 3), // scaled: 0, 1, 0.5
  };
  // 0.6 and 0.4 of these: 0.6, 0.4, 0.5. As inner products with a bonus of 0.4 / 0.6 · scaled BM25 · 0.6: 0.8, 0.6, 0.7.
  const most = combine(candidates, 0.6, 3);
  assert.deepEqual(Array.from(most.blocks), [4, 2, 7]);
  close(most.scores, [0.8, 0.7, 0.6]);
  // 0.25 and 0.75: 0.25, 0.75, 0.5. Bonus 3 · scaled BM25 · 0.6: 0.8, 2.0, 1.4.
  const words = combine(candidates, 0.25, 2);
  assert.deepEqual(Array.from(words.blocks), [7, 2]);
  close(words.scores, [2, 1.4]);
  // Half of each: all equal, so by number.
  const equal = { ...candidates, dense: Float32Array.of(1, 0, 0.5) };
  assert.deepEqual(Array.from(combine(equal, 0.5, 3).blocks), [2, 4, 7]);
  const alone = combine(candidates, 1, 3);
  assert.deepEqual(Array.from(alone.blocks), [4, 2, 7]);
  close(alone.scores, [0.8, 0.5, 0.2]);
  const byWords = combine(candidates, 0, 3);
  assert.deepEqual(Array.from(byWords.blocks), [7, 2], 'a block without a word of the question is not found');
  close(byWords.scores, [6, 3]);
});

test('without words in common, and without any block', () => {
  const blocks = Int32Array.of(3, 1);
  const dense = Float32Array.of(-2, -1);
  const found = combine({ blocks, dense, sparse: new Float64Array(2) }, 0.6, 5);
  assert.deepEqual(
    [Array.from(found.blocks), Array.from(found.scores)],
    [
      [1, 3],
      [-1, -2],
    ],
  );
  const none = { blocks: new Int32Array(0), dense: new Float32Array(0), sparse: new Float64Array(0) };
  assert.equal(combine(none, 0.6, 5).blocks.length, 0);
});

/** An index and BM25 of `n` blocks with random scores, of which each finds only the best of its own. */
function retrievers(n: number, seed: number) {
  const rng = random(seed);
  const P = 4;
  const rows = Float32Array.from({ length: n * P }, () => rng.float() - 0.5);
  // Half of the blocks have no word of the question.
  const words = Float64Array.from({ length: n }, () => Math.max(0, 20 * rng.float() - 10));
  const product = (vector: ArrayLike<number>, block: number) => {
    let sum = 0;
    for (let p = 0; p < P; p++) sum += vector[p] * rows[block * P + p];
    return sum;
  };
  const best = (score: (block: number) => number, k: number) =>
    Array.from({ length: n }, (_, block) => block)
      .sort((a, b) => score(b) - score(a) || a - b)
      .slice(0, k);
  const index = {
    search(queries: Float32Array, k: number) {
      const count = queries.length / P;
      const blocks = new Int32Array(count * k).fill(-1);
      const scores = new Float32Array(count * k);
      for (let q = 0; q < count; q++) {
        const vector = queries.subarray(q * P, (q + 1) * P);
        best((block) => product(vector, block), k).forEach((block, i) => {
          blocks[q * k + i] = block;
          scores[q * k + i] = product(vector, block);
        });
      }
      return { blocks, scores, counts: new Int32Array(count).fill(Math.min(k, n)) };
    },
    vectors: (blocks: Int32Array) =>
      Float32Array.from([...blocks].flatMap((block) => [...rows.subarray(block * P, (block + 1) * P)])),
  };
  const bm25 = {
    search(_: string, k: number) {
      const blocks = Int32Array.from(best((block) => words[block], k).filter((block) => words[block] > 0));
      return { blocks, scores: Float64Array.from(blocks, (block) => words[block]) };
    },
    scores: (_: string, blocks: ArrayLike<number>) => Float64Array.from(blocks, (block) => words[block]),
  };
  const queries = Float32Array.from({ length: 2 * P }, () => rng.float() - 0.5);
  return { index, bm25, words, queries, product, P };
}

test('blocks that one of the two found get the exact score of the other', () => {
  const { index, bm25, words, queries, product, P } = retrievers(400, 5);
  const found = findBlocks({ index, bm25, config: tinyConfig('hybrid.weight=0.7') }, ['a', 'b'], queries, 10);
  for (const q of [0, 1]) {
    // By hand: the hundred best of each.
    const vector = queries.subarray(q * P, (q + 1) * P);
    const dense = index.search(vector, 100).blocks;
    const union = [...new Set([...dense, ...bm25.search('', 100).blocks])];
    assert.ok(union.length > 120 && union.length < 200, 'some are found by both');
    const products = union.map((block) => product(vector, block));
    const [low, high] = [Math.min(...products), Math.max(...products)];
    const most = Math.max(...words);
    const convex = union
      .map((block, i) => ({
        block,
        score: (0.7 * (products[i] - low)) / (high - low) + (0.3 * words[block]) / most,
      }))
      .sort((a, b) => b.score - a.score)
      .slice(0, 10);
    assert.deepEqual(
      Array.from(found.blocks.subarray(q * 10, (q + 1) * 10)),
      convex.map(({ block }) => block),
    );
    // Back in the units of inner products: the convex combination, stretched and moved.
    close(
      found.scores.subarray(q * 10, (q + 1) * 10),
      convex.map(({ score }) => (score * (high - low)) / 0.7 + low),
    );
  }
  assert.deepEqual(Array.from(found.counts), [10, 10]);
});

test('without a weight, the index alone is asked', () => {
  const { index, bm25, queries } = retrievers(50, 6);
  const config = tinyConfig();
  assert.equal(config.hybrid.weight, null);
  const { blocks } = findBlocks({ index, bm25, config }, ['a', 'b'], queries, 7);
  assert.deepEqual(blocks, index.search(queries, 7).blocks);
  assert.throws(() => tinyConfig('hybrid.weight=0'), /hybrid\.weight/);
  assert.throws(() => tinyConfig('hybrid.weight=1.1'), /hybrid\.weight/);
});

test('in fine-tuning the reader reads what answering finds, with the same scores; the retriever gets its own blocks', () => {
  const { index, bm25, words, queries, product, P } = retrievers(400, 8);
  const config = tinyConfig('hybrid.weight=0.6');
  const asked = ['a', 'b'].map((question) => ({ question }) as EncodedQuestion);
  const [n, read] = [20, 30];
  const ranked = rankByBoth({ index, bm25 }, 0.6, n, read)(queries, asked);
  const alone = rankByIndex(index, n)(queries, asked);
  const found = findBlocks({ index, bm25, config }, ['a', 'b'], queries, read);
  for (const q of [0, 1]) {
    const { hybrid, ...own } = ranked[q];
    assert.deepEqual(own, alone[q]);
    const { blocks, bonus } = hybrid!;
    assert.deepEqual(blocks, Array.from(found.blocks.subarray(q * read, (q + 1) * read)));
    const vector = queries.subarray(q * P, (q + 1) * P);
    close(
      Array.from(bonus(blocks), (added, i) => product(vector, blocks[i]) + added),
      Array.from(found.scores.subarray(q * read, (q + 1) * read)),
    );
    // A block that neither found has the bonus of its words, at the same scale.
    const other = Array.from({ length: 400 }, (_, block) => block).findLast(
      (block) => !blocks.includes(block),
    )!;
    const known = blocks.find((block) => words[block] > 0)!;
    close(bonus([other]), [(bonus([known])[0] * words[other]) / words[known]]);
  }
});

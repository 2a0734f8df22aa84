import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { fusedAnswerMarginal, fusedDocumentMarginal, hasFused } from '../../src/engine/fused.ts';
import { random } from '../../src/random.ts';
import { startTestEngine } from '../support/engine.ts';

before(() => startTestEngine());

const logSumExp = (list: number[]) => Math.log(list.reduce((sum, x) => sum + Math.exp(x), 0));

function assertNear(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(actual.length, expected.length, what);
  for (let i = 0; i < expected.length; i++) {
    assert.ok(
      Math.abs(actual[i] - expected[i]) <= 2e-6 * Math.max(1, Math.abs(expected[i])),
      `${what}[${i}]: ${actual[i]}, expected ${expected[i]}`,
    );
  }
}

test('losses of choosing an answer and their gradients equal formulas in float64', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const { float, int } = random(3);
  for (const [B, n] of [
    [1, 1],
    [3, 17],
    [5, 20_000],
  ]) {
    const scores = Float32Array.from({ length: B * n }, () => (int(4) === 0 ? -1e9 : 20 * float() - 10));
    const correct = Float32Array.from({ length: B * n }, (_, i) =>
      int(3) === 0 && scores[i] > -1e8 ? 1 : 0,
    );
    correct.fill(0, 0, n > 1 ? n : 0); // nothing is right in the first
    const weights = Float32Array.from({ length: B }, () => float() - 0.5);
    const losses = new Float64Array(B);
    const slopes = new Float64Array(B * n);
    for (let b = 0; b < B; b++) {
      const own = [...scores.subarray(b * n, (b + 1) * n)];
      const right = own.filter((_, i) => correct[b * n + i] === 1);
      if (right.length === 0) continue;
      const [all, some] = [logSumExp(own), logSumExp(right)];
      losses[b] = all - some;
      for (const [i, s] of own.entries())
        slopes[b * n + i] = weights[b] * (Math.exp(s - all) - correct[b * n + i] * Math.exp(s - some));
    }
    const [x, y, w] = [tf.tensor2d(scores, [B, n]), tf.tensor2d(correct, [B, n]), tf.tensor1d(weights)];
    assertNear(fusedAnswerMarginal(x, y).dataSync(), losses, `losses ${n}`);
    const gradient = tf.grad((x) => fusedAnswerMarginal(x, y).mul(w).sum())(x);
    assertNear(gradient.dataSync(), slopes, `gradient ${n}`);
  }
});

for (const each of [false, true]) {
  test(`the likelihood over documents and its gradients equal formulas in float64, ${each ? 'a document for each piece' : 'one document'}`, (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    const { float, shuffle } = random(4);
    const [B, K, M, U] = [3, 4, 5, 6];
    const temperature = 3;
    const pieces = [5, 1, 3]; // masked ones of each sentence
    const there = [
      [1, 1, 1, 1],
      [0, 1, 1, 0],
      [1, 1, 0, 0],
    ];
    const candidates = [
      [0, 1, 2, 3],
      [0, 3, 5, 0],
      [0, 2, 0, 0],
    ];
    const products = Array.from({ length: B * U }, () => 8 * float() - 4);
    // A document that is not there can still be read, such as the null document.
    const slots: [b: number, k: number, m: number][] = [];
    for (let b = 0; b < B; b++)
      for (let k = 0; k < K; k++)
        if (there[b][k] === 1 || k === 0) for (let m = 0; m < pieces[b]; m++) slots.push([b, k, m]);
    shuffle(slots);
    const tokens = slots.map(() => -5 * float());
    const order = new Int32Array(B * K * M);
    for (const [i, [b, k, m]] of slots.entries()) order[(b * K + k) * M + m] = i + 1;
    const masks = Array.from({ length: B * M }, (_, i) => (i % M < pieces[Math.floor(i / M)] ? 1 : 0));
    const weights = [0.5, -1, 2];

    /** The likelihood of one sentence from the definition. */
    const priorOf = (b: number, all: number[]) => {
      const scores = candidates[b].map((column, k) =>
        there[b][k] ? all[b * U + column] / temperature : -1e9,
      );
      const sum = logSumExp(scores);
      return scores.map((s) => s - sum);
    };
    const told = (b: number, k: number, m: number, all: number[]) => {
      const at = order[(b * K + k) * M + m];
      return at > 0 ? all[at - 1] : 0;
    };
    const likelihood = (b: number, products: number[], tokens: number[]) => {
      const prior = priorOf(b, products);
      const range = Array.from({ length: pieces[b] }, (_, m) => m);
      if (each)
        return range.reduce((sum, m) => sum + logSumExp(prior.map((p, k) => p + told(b, k, m, tokens))), 0);
      return logSumExp(prior.map((p, k) => range.reduce((sum, m) => sum + told(b, k, m, tokens), p)));
    };
    const total = (products: number[], tokens: number[]) =>
      weights.reduce((sum, weight, b) => sum + weight * likelihood(b, products, tokens), 0);
    const slopesOf = (list: number[], f: (changed: number[]) => number) =>
      list.map((x, i) => {
        const at = (step: number) => f(list.map((y, j) => (i === j ? x + step : y)));
        return (at(1e-4) - at(-1e-4)) / 2e-4;
      });

    const inputs = {
      candidates: tf.tensor2d(candidates, [B, K], 'int32'),
      present: tf.tensor2d(there),
      order: tf.tensor1d(order),
      masks: tf.tensor2d(masks, [B, M]),
    };
    const [x, y] = [tf.tensor2d(products, [B, U]), tf.tensor1d(tokens)];
    const found = fusedDocumentMarginal(x, y, inputs, { temperature, each });
    const range = [0, 1, 2];
    assertNear(
      found.marginal.dataSync(),
      range.map((b) => likelihood(b, products, tokens)),
      'log p(y|x)',
    );
    const priors = range.flatMap((b) => priorOf(b, products));
    assertNear(found.logPrior.exp().dataSync(), priors.map(Math.exp), 'p(z|x)');
    const read = range.flatMap((b) =>
      there[b].flatMap((_, k) => Array.from({ length: M }, (_, m) => told(b, k, m, tokens))),
    );
    assertNear(found.logTokens.dataSync(), read, 'log p(y_j|z,x)');
    const loss = (x: tf.Tensor, y: tf.Tensor) =>
      fusedDocumentMarginal(x, y, inputs, { temperature, each }).marginal.mul(tf.tensor1d(weights)).sum();
    const [dx, dy] = tf.grads(loss)([x, y]);
    assertNear(
      dx.dataSync(),
      slopesOf(products, (changed) => total(changed, tokens)),
      'of the products',
    );
    assertNear(
      dy.dataSync(),
      slopesOf(tokens, (changed) => total(products, changed)),
      'of the tokens',
    );
  });
}

test('candidates and masks outside their tables are refused, not read', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const run = (candidate: number, place: number) =>
    fusedDocumentMarginal(
      tf.ones([1, 2]),
      tf.ones([3]),
      {
        candidates: tf.tensor2d([[candidate]], [1, 1], 'int32'),
        present: tf.ones([1, 1]),
        order: tf.tensor1d([place], 'int32'),
        masks: tf.ones([1, 1]),
      },
      { temperature: 1, each: false },
    );
  assert.throws(() => run(2, 1), /not a document/);
  assert.throws(() => run(-1, 1), /not a document/);
  assert.throws(() => run(0, 4), /no word piece/);
  assert.throws(() => fusedAnswerMarginal(tf.ones([2, 2]), tf.ones([2, 3])), /do not fit/);
});

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import {
  fusedAdam,
  fusedAttention,
  fusedDense,
  fusedEmbeddings,
  fusedLogLikelihood,
  fusedNorm,
  hasFused,
  withoutFused,
} from '../../src/engine/fused.ts';
import { fusedFeedForward, fusedSelfAttention } from '../../src/engine/fused-layer.ts';
import {
  bertShapes,
  type EncoderInput,
  encoderInput,
  gatherRows,
  type Params,
  type Shape,
} from '../../src/model/bert.ts';
import { embedderShapes, embedSequences } from '../../src/model/embedder.ts';
import { initialise, lossGradients, type Model } from '../../src/model/model.ts';
import { blockTokens, readerShapes, spanScores } from '../../src/model/reader.ts';
import { readMasks } from '../../src/model/realm.ts';
import { random } from '../../src/random.ts';
import { createOptimizer } from '../../src/train/optimizer.ts';
import { startTestEngine } from '../support/engine.ts';

before(() => startTestEngine());

/** Large enough for several tiles, runs of query rows and blocks of the vocabulary. */
const config = {
  vocabulary: 2500,
  layers: 2,
  hidden: 48,
  heads: 3,
  intermediate: 100,
  positions: 320,
  gelu: 'tanh' as 'tanh' | 'exact',
  dropout: 0,
  layerNormEps: 1e-12,
  projection: 20,
  projectionLayerNormEps: 1e-3,
  spanHidden: 24,
  maxSpanWidth: 5,
  spanLayerNormEps: 1e-3,
};
const LENGTHS = [300, 3, 141, 1, 60, 60, 7];

function load(shapes: Shape[]): Model {
  const model = { params: new Map() as Params } as Model;
  initialise(model, shapes, random(3));
  // Biases and gains that are all equal would hide a mistake.
  const draw = random(4);
  for (const { name, shape } of shapes) {
    const noise = tf.tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => draw.float() * 0.2 - 0.1),
      shape,
    );
    const variable = model.params.get(name)!;
    variable.assign(variable.add(noise));
  }
  return model;
}

function sequences(): { ids: Int32Array[]; first: number[] } {
  const draw = random(5);
  const ids = LENGTHS.map((n) => Int32Array.from({ length: n }, () => draw.int(config.vocabulary)));
  return { ids, first: LENGTHS.map((n) => Math.ceil(n / 3)) };
}

/** Compares a loss and its gradients with and without the kernels; `prepare` makes what the loss needs. */
function compare(shapes: Shape[], prepare: (model: Model, input: EncoderInput) => () => tf.Scalar): void {
  const model = load(shapes);
  const run = () => {
    const { ids, first } = sequences();
    const { value, gradients } = lossGradients(model, shapes, prepare(model, encoderInput(ids, first)));
    return {
      value: value.dataSync()[0],
      gradients: new Map(Object.entries(gradients).map(([name, g]) => [name, [...g.dataSync()]])),
    };
  };
  const fused = run();
  const plain = withoutFused(run);
  assert.ok(
    Math.abs(fused.value - plain.value) < 1e-4 * Math.abs(plain.value),
    `${fused.value} ${plain.value}`,
  );
  assert.deepEqual([...fused.gradients.keys()].sort(), [...plain.gradients.keys()].sort());
  for (const [name, wanted] of plain.gradients) {
    const found = fused.gradients.get(name)!;
    const largest = Math.max(1e-3, ...wanted.map(Math.abs));
    wanted.forEach((w, i) => {
      assert.ok(Math.abs(found[i] - w) < 1e-3 * largest, `${name}[${i}]: ${found[i]}, wanted ${w}`);
    });
  }
}

/** Fixed numbers to weight outputs with, so that the gradient differs from that of a plain sum. */
const weighed = (x: tf.Tensor) => {
  const draw = random(6);
  return x
    .mul(
      tf.tensor(
        Float32Array.from({ length: x.size }, () => draw.float() - 0.3),
        x.shape,
      ),
    )
    .sum() as tf.Scalar;
};

describe('the fused kernels compute what the composed layers compute', () => {
  for (const gelu of ['tanh', 'exact'] as const) {
    test(`vectors, ${gelu} GELU`, (t) => {
      if (!hasFused()) return t.skip('no fused kernels in this engine');
      const sizes = { ...config, gelu };
      compare(
        embedderShapes('e.', sizes),
        (model, input) => () => weighed(embedSequences(model.params, 'e.', sizes, input)),
      );
    });
  }

  test('masked word pieces', (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    compare(bertShapes('r.', config, true), (model, input) => {
      const masks = gatherRows(input, [[0, 299, 150, 7], [], [140], [0], [3, 3], [1], [6, 2]]);
      const targets = tf.tensor1d([0, 2499, 1023, 1024, 7, 9, 100, 2, 3, 5, 2047], 'int32');
      return () => weighed(readMasks(model.params, 'r.', config, { input, masks, targets }));
    });
  });

  test('spans', (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    compare([...bertShapes('r.', config, false), ...readerShapes(config)], (model, input) => {
      const first = LENGTHS.map((n) => Math.ceil(n / 3));
      const lengths = Int32Array.from(LENGTHS, (n, r) => Math.max(0, n - first[r] - 1));
      const blocks = blockTokens(input, Int32Array.from(first), lengths);
      const score = () => spanScores(model.params, 'r.', config, input, blocks);
      const inside = score().greater(-1e8).toFloat();
      assert.ok(inside.sum().dataSync()[0] > 1000);
      return () => weighed(score().mul(inside));
    });
  });
});

/** Compares the slope of `f` along a direction in each input, by finite differences, with its gradient. */
function checkSlopes(f: (...inputs: tf.Tensor[]) => tf.Tensor, shapes: number[][]): void {
  const draw = random(8);
  const make = (shape: number[]) =>
    tf.tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * draw.float() - 1),
      shape,
    );
  const inputs = shapes.map(make);
  const loss = (...xs: tf.Tensor[]) => weighed(f(...xs));
  const gradients = tf.grads(loss)(inputs);
  inputs.forEach((input, i) => {
    const direction = make(input.shape);
    const at = (step: number) =>
      loss(...inputs.map((x, j) => (i === j ? x.add(direction.mul(step)) : x))).dataSync()[0];
    const wanted = (at(1e-2) - at(-1e-2)) / 2e-2;
    const found = gradients[i].mul(direction).sum().dataSync()[0];
    assert.ok(
      Math.abs(found - wanted) < 2e-2 * Math.max(1, Math.abs(wanted)),
      `input ${i}: ${found}, wanted ${wanted}`,
    );
  });
}

describe('dropout in the kernels', () => {
  const bounds = () => tf.tensor1d([0, 9, 9, 14, 20], 'int32');

  test('gradients use the same dropped units as the result', (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    const drop = { rate: 0.4, seed: 77 };
    checkSlopes(
      (x, gain, bias, r) => fusedNorm(x, r, gain, bias, 1e-6, drop),
      [[20, 12], [12], [12], [20, 12]],
    );
    const b = bounds();
    checkSlopes((qkv) => fusedAttention(qkv, undefined, b, b, 2, drop), [[20, 24]]);
    const some = tf.tensor1d([0, 2, 2, 3, 4], 'int32');
    checkSlopes(
      (q, kv) => fusedAttention(q, kv, some, b, 2, drop),
      [
        [4, 8],
        [20, 16],
      ],
    );
  });

  test('gradients of the halves of a layer use the same dropped units as the results', (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    const b = bounds();
    const some = { at: tf.tensor1d([3, 0, 10, 19], 'int32'), bounds: tf.tensor1d([0, 2, 2, 3, 4], 'int32') };
    const seeds = [77, 78];
    const [drop, another] = seeds.map((seed) => ({ rate: 0.3, seed }));
    const norms = [[8], [8]];
    for (const rows of [undefined, some]) {
      checkSlopes(
        (x, wide, wideBias, kernel, bias, ...norm) =>
          fusedSelfAttention(
            x,
            { kernel: wide, bias: wideBias },
            { kernel, bias },
            { heads: 2, bounds: b, rows, drop },
            { norm: { gain: norm[0], bias: norm[1] }, eps: 1e-6, drop: another },
          ),
        [[20, 8], [8, 24], [24], [8, 8], [8], ...norms],
      );
    }
    checkSlopes(
      (x, first, firstBias, second, secondBias, ...norm) =>
        fusedFeedForward(
          x,
          { kernel: first, bias: firstBias },
          { kernel: second, bias: secondBias },
          'exact',
          { norm: { gain: norm[0], bias: norm[1] }, eps: 1e-6, drop },
        ),
      [[20, 8], [8, 12], [12], [12, 8], [8], ...norms],
    );
  });

  test('drops the given share, keeps the mean, and depends on the seed only', (t) => {
    if (!hasFused()) return t.skip('no fused kernels in this engine');
    // Values of one head that reveal the weights: V = 1, so each context is the sum of the kept weights.
    const T = 400;
    const qkv = tf.concat([tf.zeros([T, 2]), tf.ones([T, 1])], 1);
    const b = tf.tensor1d([0, T], 'int32');
    const run = (seed: number) => [
      ...fusedAttention(qkv, undefined, b, b, 1, { rate: 0.25, seed }).dataSync(),
    ];
    const first = run(1);
    assert.deepEqual(run(1), first);
    assert.notDeepEqual(run(2), first);
    const mean = first.reduce((a, x) => a + x) / T;
    assert.ok(Math.abs(mean - 1) < 0.01, `${mean}`); // spread of the mean 0.0015
    const spread = Math.sqrt(first.reduce((a, x) => a + (x - mean) ** 2, 0) / T);
    const wanted = Math.sqrt(0.25 / 0.75 / T); // independent units
    assert.ok(Math.abs(spread / wanted - 1) < 0.2, `${spread}, wanted ${wanted}`);
  });
});

test('the gradients of weights without any row are 0', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const shapes = [[0, 8], [8, 12], [12], [12, 8], [8]];
  const [gain, bias] = [tf.ones([8]), tf.zeros([8])];
  const gradients = tf.grads((x, ...[first, firstBias, second, secondBias]) => {
    const end = { norm: { gain, bias }, eps: 1e-6, drop: undefined };
    const one = { kernel: first, bias: firstBias };
    const y = fusedFeedForward(x, one, { kernel: second, bias: secondBias }, 'tanh', end);
    return fusedDense(y, first, firstBias, 'exact').sum();
  })(shapes.map((shape) => tf.ones(shape)));
  for (const gradient of gradients.slice(1))
    assert.ok([...gradient.dataSync()].every((value) => value === 0));
});

test('dense layers with each activation, and with only some columns', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  for (const activation of ['none', 'exact', 'tanh', 'tanhUnit'] as const) {
    checkSlopes((x, w, b) => fusedDense(x, w, b, activation), [[6, 5], [5, 7], [7]]);
  }
  checkSlopes((x, w, b) => fusedDense(x, w, b, 'none', 2, 3), [[6, 5], [5, 7], [7]]);
  const y = fusedDense(
    tf.tensor2d([[1, 2]]),
    tf.tensor2d([
      [1, 0, 3],
      [0, 1, 1],
    ]),
    tf.tensor1d([10, 20, 30]),
    'none',
    1,
    2,
  );
  assert.deepEqual([...y.dataSync()], [22, 35]);
});

/** Sizes around those of a kernel's tiles (12 by 32 or 6 by 16), its groups of rows (96) and its runs of rows (256). */
const DENSE_SIZES = [
  [1, 1, 1],
  [2, 7, 33],
  [11, 13, 31],
  [12, 32, 32],
  [13, 5, 65],
  [97, 40, 16],
  [256, 24, 32],
  [300, 61, 100],
  [600, 128, 128],
] as const;

test('a dense layer and its gradients equal products in float64, for all sizes and some of the columns', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const { float } = random(5);
  const draw = (n: number) => Float32Array.from({ length: n }, () => float() * 2 - 1);
  for (const [R, I, O] of DENSE_SIZES) {
    for (const [first, count] of [
      [0, O],
      [Math.floor(O / 3), Math.ceil(O / 2)],
    ]) {
      const [x, w, b, dy] = [draw(R * I), draw(I * O), draw(O), draw(R * count)];
      const y = new Float64Array(R * count);
      const [dx, dw, db] = [new Float64Array(R * I), new Float64Array(I * O), new Float64Array(O)];
      for (let r = 0; r < R; r++) {
        for (let c = 0; c < count; c++) {
          const slope = dy[r * count + c];
          y[r * count + c] = b[first + c];
          db[first + c] += slope;
          for (let i = 0; i < I; i++) {
            y[r * count + c] += x[r * I + i] * w[i * O + first + c];
            dx[r * I + i] += slope * w[i * O + first + c];
            dw[i * O + first + c] += slope * x[r * I + i];
          }
        }
      }
      const inputs = [tf.tensor2d(x, [R, I]), tf.tensor2d(w, [I, O]), tf.tensor1d(b)];
      const layer = (x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) =>
        fusedDense(x as tf.Tensor2D, w as tf.Tensor2D, b as tf.Tensor1D, 'none', first, count);
      const actual = [layer(inputs[0], inputs[1], inputs[2])];
      const slopes = tf.grads((x, w, b) =>
        layer(x, w, b)
          .mul(tf.tensor2d(dy, [R, count]))
          .sum(),
      )(inputs);
      for (const [k, expected] of [y, dx, dw, db].entries()) {
        const values = [...actual, ...slopes][k].dataSync();
        const depth = [I, count, R, R][k];
        for (let j = 0; j < expected.length; j++)
          assert.ok(
            Math.abs(values[j] - expected[j]) < 1e-6 * (1 + depth / 4),
            `${R} ${I} ${O}, columns ${first} + ${count}, ${['y', 'dx', 'dw', 'db'][k]}: ${values[j]} ${expected[j]}`,
          );
      }
      tf.dispose([...inputs, ...actual, ...slopes]);
    }
  }
});

/** Queries and keys of each sequence, heads, and numbers in a head. */
const ATTENTION_SIZES: { sequences: [queries: number, keys: number][]; heads: number; D: number }[] = [
  {
    sequences: [
      [1, 1],
      [1, 40],
      [2, 3],
      [16, 16],
      [0, 5],
      [17, 100],
      [70, 70],
    ],
    heads: 2,
    D: 64,
  },
  {
    sequences: [
      [33, 14],
      [1, 7],
    ],
    heads: 3,
    D: 7,
  },
  { sequences: [[32, 50]], heads: 1, D: 80 },
  { sequences: [[5, 5]], heads: 5, D: 20 },
];

test('attention and its gradients equal formulas in float64, for all sizes', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const { float } = random(6);
  const draw = (n: number) => Float32Array.from({ length: n }, () => float() * 4 - 2);
  for (const { sequences, heads, D } of ATTENTION_SIZES) {
    const H = heads * D;
    const bounds = (side: 0 | 1) => {
      const list = [0];
      for (const pair of sequences) list.push(list.at(-1)! + pair[side]);
      return list;
    };
    const [qBounds, kBounds] = [bounds(0), bounds(1)];
    const [Q, K] = [qBounds.at(-1)!, kBounds.at(-1)!];
    const [q, kv, dy] = [draw(Q * H), draw(K * 2 * H), draw(Q * H)];
    const [y, dq, dkv] = [Q * H, Q * H, K * 2 * H].map((n) => new Float64Array(n));
    for (let b = 0; b < sequences.length; b++) {
      for (let head = 0; head < heads; head++) {
        const at = head * D;
        for (let r = qBounds[b]; r < qBounds[b + 1]; r++) {
          const keys = Array.from({ length: sequences[b][1] }, (_, t) => kBounds[b] + t);
          const sum = (term: (i: number) => number) => {
            let sum = 0;
            for (let i = at; i < at + D; i++) sum += term(i);
            return sum;
          };
          const scores = keys.map((k) => sum((i) => q[r * H + i] * kv[k * 2 * H + i]) / Math.sqrt(D));
          const most = Math.max(...scores);
          const total = scores.reduce((sum, score) => sum + Math.exp(score - most), 0);
          const p = scores.map((score) => Math.exp(score - most) / total);
          const dp = keys.map((k) => sum((i) => dy[r * H + i] * kv[k * 2 * H + H + i]));
          const along = p.reduce((sum, weight, j) => sum + weight * dp[j], 0);
          for (const [j, k] of keys.entries()) {
            const slope = (p[j] * (dp[j] - along)) / Math.sqrt(D);
            for (let i = at; i < at + D; i++) {
              y[r * H + i] += p[j] * kv[k * 2 * H + H + i];
              dq[r * H + i] += slope * kv[k * 2 * H + i];
              dkv[k * 2 * H + i] += slope * q[r * H + i];
              dkv[k * 2 * H + H + i] += p[j] * dy[r * H + i];
            }
          }
        }
      }
    }
    const [from, to] = [tf.tensor1d(qBounds, 'int32'), tf.tensor1d(kBounds, 'int32')];
    const attend = (q: tf.Tensor, kv?: tf.Tensor) => fusedAttention(q, kv, from, to, heads);
    const loss = (q: tf.Tensor, kv?: tf.Tensor) =>
      attend(q, kv)
        .mul(tf.tensor2d(dy, [Q, H]))
        .sum();
    const inputs = [tf.tensor2d(q, [Q, H]), tf.tensor2d(kv, [K, 2 * H])];
    const separate = [attend(inputs[0], inputs[1]), ...tf.grads(loss)(inputs)];
    const results = [separate.map((tensor) => tensor.dataSync())];
    if (Q === K) {
      const qkv = tf.concat(inputs, 1);
      const slopes = tf.grad((x) => loss(x))(qkv);
      const joint = [attend(qkv), ...tf.split(slopes, [H, 2 * H], 1)];
      results.push(joint.map((tensor) => tensor.dataSync()));
    }
    for (const actual of results)
      for (const [k, expected] of [y, dq, dkv].entries())
        for (let j = 0; j < expected.length; j++)
          assert.ok(
            Math.abs(actual[k][j] - expected[j]) < 2e-5,
            `${heads} heads of ${D}, ${['y', 'dq', 'dkv'][k]}: ${actual[k][j]} ${expected[j]}`,
          );
  }
});

test('ids and bounds outside their tables are refused, not read', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const ints = (...values: number[]) => tf.tensor1d(values, 'int32');
  const table = tf.ones([4, 2]);
  const two = tf.ones([2, 2]);
  assert.throws(() => fusedEmbeddings(table, table, two, ints(4), ints(0), ints(0)), /outside of its table/);
  assert.throws(() => fusedEmbeddings(table, table, two, ints(0), ints(-1), ints(0)), /outside of its table/);
  assert.throws(() => fusedLogLikelihood(two, table, tf.zeros([4]), ints(0, 9)), /not a word piece/);
  const qkv = tf.ones([4, 6]);
  assert.throws(() => fusedAttention(qkv, undefined, ints(0, 9), ints(0, 9), 1), /do not cover/);
  assert.throws(() => fusedAttention(qkv, undefined, ints(0, 5, 4), ints(0, 5, 4), 1), /do not rise/);
  assert.throws(() => fusedAttention(qkv, undefined, ints(0, 2, 4), ints(0, 4, 4), 1), /queries and no keys/);
  assert.throws(() => fusedDense(qkv, table, tf.zeros([2])), /do not fit/);
});

test('a step of the optimizer equals the composed one, with clipping, decay and parameters without gradients', async (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const settings = {
    learningRate: 0.01,
    warmupSteps: 0,
    weightDecay: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-6,
    clipNorm: 0.5,
    biasCorrection: false,
  };
  const shapes: Record<string, number[]> = { kernel: [40, 30], bias: [30], other: [3] };
  const run = async () => {
    const draw = random(2);
    const values = (shape: number[]) =>
      tf.tensor(
        Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => draw.float() - 0.5),
        shape,
      );
    const params: Params = new Map(
      Object.entries(shapes).map(([name, shape]) => [name, tf.variable(values(shape))]),
    );
    const optimizer = createOptimizer(params, Object.keys(shapes), settings, 10);
    const norms: number[] = [];
    for (const step of [0, 1, 2]) {
      const gradients = { kernel: values([40, 30]).mul(10 ** -step), bias: values([30]) };
      norms.push(await optimizer.apply(gradients, step));
    }
    const state: [string, number[]][] = [];
    for (const { name, data } of optimizer.state())
      state.push([name, [...(typeof data === 'function' ? await data() : data)]]);
    return {
      norms,
      params: [...params].map(([name, v]) => [name, [...v.dataSync()]] as [string, number[]]),
      state,
    };
  };
  const fused = await run();
  const plain = await withoutFused(run);
  for (const part of ['params', 'state'] as const) {
    const wanted = new Map(plain[part]);
    assert.equal(fused[part].length, wanted.size);
    for (const [name, list] of fused[part]) {
      for (const [i, x] of list.entries())
        assert.ok(Math.abs(x - wanted.get(name)![i]) < 1e-6, `${name}[${i}]`);
    }
  }
  for (const [i, n] of fused.norms.entries()) assert.ok(Math.abs(n / plain.norms[i] - 1) < 1e-5);
});

test('non-finite gradients change nothing', (t) => {
  if (!hasFused()) return t.skip('no fused kernels in this engine');
  const one = () => tf.tensor1d([1, 2]);
  const lists = { weights: [one()], m: [one()], v: [one()], gradients: [tf.tensor1d([Number.NaN, 1])] };
  const settings = { beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weightDecay: 0.1, clipNorm: 1 };
  const norm = fusedAdam(0.1, tf.tensor1d([1], 'int32'), lists, settings).dataSync()[0];
  assert.ok(Number.isNaN(norm));
  for (const list of [lists.weights, lists.m, lists.v]) assert.deepEqual([...list[0].dataSync()], [1, 2]);
});

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import {
  type Activation,
  fusedDense,
  fusedDenseBf16,
  hasBf16,
  packBf16,
  runFeedForward,
} from '../../src/engine/fused.ts';
import { encoderInput, withBf16 } from '../../src/model/bert.ts';
import { embedSequences } from '../../src/model/embedder.ts';
import { random } from '../../src/random.ts';
import { startTestEngine } from '../support/engine.ts';
import { tinyConfig, tinyModel } from '../support/tiny.ts';

before(() => startTestEngine());

const NO_BF16 = 'needs the native engine and a processor with AVX-512 BF16';

/** To the nearest BF16 number, of two equally near ones to the even one. */
function rounded(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = ((bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16) << 16;
  return new Float32Array(bits.buffer)[0];
}

function draw(seed: number, shape: [number, number]): Float32Array {
  const { float } = random(seed);
  return Float32Array.from({ length: shape[0] * shape[1] }, () => 2 * float() - 1);
}

// Rows, inputs and outputs: whole tiles of 8 rows and 48 columns; parts of them; an odd number of inputs; more than one task.
const SIZES = [
  [16, 64, 96],
  [1, 2, 1],
  [7, 33, 50],
  [13, 100, 47],
  [300, 48, 144],
] as const;
const ACTIVATIONS: Activation[] = ['none', 'exact', 'tanh', 'tanhUnit'];

test('a dense layer in BF16 is the layer of the rounded numbers, for all sizes and activations', (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  for (const [i, [R, I, O]] of SIZES.entries()) {
    const [x, w] = [draw(i, [R, I]), draw(10 + i, [I, O])];
    const bias = tf.tensor1d(draw(20 + i, [1, O]));
    const packed = packBf16(tf.tensor2d(w, [I, O]));
    const [nearX, nearW] = [tf.tensor2d(x.map(rounded), [R, I]), tf.tensor2d(w.map(rounded), [I, O])];
    for (const activation of ACTIVATIONS) {
      const actual = fusedDenseBf16(tf.tensor2d(x, [R, I]), packed, bias, activation);
      const expected = fusedDense(nearX, nearW, bias, activation);
      assert.deepEqual(actual.shape, expected.shape);
      const [a, e] = [actual.dataSync(), expected.dataSync()];
      for (let j = 0; j < e.length; j++)
        assert.ok(
          Math.abs(a[j] - e[j]) < 1e-5 * (1 + I / 10),
          `${R} ${I} ${O} ${activation}: ${a[j]} ${e[j]}`,
        );
    }
  }
});

test('a feed-forward network in BF16 is its two layers, one after the other', (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  for (const [i, [R, I, F]] of SIZES.entries()) {
    const x = tf.tensor2d(draw(i, [R, I]), [R, I]);
    const layer = (seed: number, from: number, to: number) => {
      const kernel = tf.tensor2d(draw(seed, [from, to]), [from, to]);
      return { kernel, packed: packBf16(kernel), bias: tf.tensor1d(draw(seed + 1, [1, to])) };
    };
    const [first, second] = [layer(30 + i, I, F), layer(40 + i, F, 51)];
    for (const activation of ['exact', 'tanh'] as const) {
      const [actual] = runFeedForward(x, first, second, activation);
      const inner = fusedDenseBf16(x, first.packed, first.bias, activation);
      const expected = fusedDenseBf16(inner, second.packed, second.bias);
      assert.deepEqual(actual.shape, [R, 51]);
      // A number that is rounded to another neighbour, as it may be after another vector's GELU, changes 1 in 256.
      const [a, e] = [actual.dataSync(), expected.dataSync()];
      const most = Math.max(...e.map(Math.abs));
      for (let j = 0; j < e.length; j++) assert.ok(Math.abs(a[j] - e[j]) <= most / 128, `${a[j]} ${e[j]}`);
    }
  }
});

test('some columns of a layer are the same bits as in the whole, and a row does not depend on the others', (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  const [R, I, O] = [37, 40, 150];
  const x = tf.tensor2d(draw(1, [R, I]), [R, I]);
  const packed = packBf16(tf.tensor2d(draw(2, [I, O]), [I, O]));
  const bias = tf.tensor1d(draw(3, [1, O]));
  const whole = fusedDenseBf16(x, packed, bias);
  for (const [first, count] of [
    [0, 48],
    [50, 100],
    [47, 2],
    [149, 1],
  ]) {
    const some = fusedDenseBf16(x, packed, bias, 'none', first, count);
    assert.deepEqual(some.dataSync(), whole.slice([0, first], [R, count]).dataSync());
  }
  const last = fusedDenseBf16(x.slice([R - 2, 0], [2, I]), packed, bias);
  assert.deepEqual(last.dataSync(), whole.slice([R - 2, 0], [2, O]).dataSync());
  assert.throws(() => fusedDenseBf16(x, packed, bias, 'none', 100, 51), /shapes do not fit/);
});

test('an encoder in BF16 gives nearly the same vectors, keeps the weights of its start, and frees its copies', (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  for (const pooling of ['pooler', 'mean']) {
    const config = tinyConfig(
      'model.layers=3',
      'model.hidden=48',
      'model.heads=4',
      `model.pooling=${pooling}`,
    );
    const model = tinyModel(config, 200, 1, 3);
    const { params, documentTower, embedder } = model;
    const { int } = random(7);
    const ids = [90, 3, 41, 60].map((n) => Int32Array.from({ length: n }, () => int(200)));
    const input = encoderInput(
      ids,
      ids.map((s) => s.length),
    );
    const before = tf.memory().numTensors;
    const vectors = (weights: Parameters<typeof embedSequences>[0]) =>
      tf.tidy(() => embedSequences(weights, documentTower, embedder, input).arraySync());
    const exact = vectors(params);
    const { weights, dispose } = withBf16(params, documentTower, embedder);
    const near = vectors(weights);
    for (const [i, vector] of exact.entries()) {
      const dot = (a: number[], b: number[]) => a.reduce((sum, v, j) => sum + v * b[j], 0);
      const cosine = dot(vector, near[i]) / Math.sqrt(dot(vector, vector) * dot(near[i], near[i]));
      assert.ok(cosine > 0.999, `${cosine}`);
      assert.notDeepEqual(near[i], vector);
    }
    const kernel = params.get(`${documentTower}layer.0.output.kernel`)!;
    tf.tidy(() => kernel.assign(kernel.mul(2)));
    assert.deepEqual(vectors(weights), near);
    dispose();
    assert.equal(tf.memory().numTensors, before);
  }
});

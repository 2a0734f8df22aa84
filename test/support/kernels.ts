import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs';
import { random } from '../../src/random.ts';

export type Case = { shapes: number[][]; f: (...x: tf.Tensor[]) => tf.Tensor; noGradient?: boolean };

export const ints = (...values: number[]) => tf.tensor1d(values, 'int32');
const mm = (a: tf.Tensor, b: tf.Tensor, ta = false, tb = false) => tf.matMul(a, b, ta, tb);
const fused = (a: tf.Tensor, b: tf.Tensor, bias?: tf.Tensor, ta = false, tb = false) =>
  tf.fused.matMul({ a: a as tf.Tensor2D, b: b as tf.Tensor2D, bias, transposeA: ta, transposeB: tb });

/** Cases for an engine's kernels: each is also computed in plain JavaScript, with its gradient for every argument. */
export const cases: Record<string, Case> = {
  'matMul 2-D': {
    shapes: [
      [5, 7],
      [7, 3],
    ],
    f: (a, b) => mm(a, b),
  },
  'matMul transposed a': {
    shapes: [
      [7, 5],
      [7, 3],
    ],
    f: (a, b) => mm(a, b, true),
  },
  'matMul transposed b': {
    shapes: [
      [5, 7],
      [3, 7],
    ],
    f: (a, b) => mm(a, b, false, true),
  },
  'matMul both transposed': {
    shapes: [
      [7, 5],
      [3, 7],
    ],
    f: (a, b) => mm(a, b, true, true),
  },
  'matMul large and odd': {
    shapes: [
      [67, 131],
      [33, 131],
    ],
    f: (a, b) => mm(a, b, false, true),
  },
  'matMul batch 4-D': {
    shapes: [
      [2, 3, 5, 7],
      [2, 3, 5, 7],
    ],
    f: (a, b) => mm(a, b, false, true),
  },
  'matMul batch 4-D, a transposed': {
    shapes: [
      [2, 3, 5, 7],
      [2, 3, 5, 4],
    ],
    f: (a, b) => mm(a, b, true),
  },
  // tfjs has no gradient for a broadcast batch on any backend.
  'matMul one b for a batch': {
    shapes: [
      [4, 5, 7],
      [1, 7, 3],
    ],
    f: (a, b) => mm(a, b),
    noGradient: true,
  },
  'matMul one a for a batch': {
    shapes: [
      [1, 5, 7],
      [4, 7, 3],
    ],
    f: (a, b) => mm(a, b),
    noGradient: true,
  },
  'matMul ranks 3 and 2': {
    shapes: [
      [4, 5, 7],
      [7, 3],
    ],
    f: (a, b) => mm(a, b),
    noGradient: true,
  },
  'matMul one operand in two shapes': {
    shapes: [
      [4, 6],
      [4, 6],
    ],
    f: (a, b) =>
      mm(a, b.reshape([6, 4]))
        .sum()
        .add(mm(a.reshape([6, 4]), b).sum()),
  },
  'fused matMul with bias': { shapes: [[5, 7], [7, 3], [3]], f: (a, b, c) => fused(a, b, c) },
  'fused matMul with reshaped bias': {
    shapes: [
      [5, 7],
      [7, 3],
      [1, 3],
    ],
    f: (a, b, c) => fused(a, b, c.reshape([3])),
  },
  'fused matMul transposed b': { shapes: [[5, 7], [3, 7], [3]], f: (a, b, c) => fused(a, b, c, false, true) },
  'fused matMul relu': {
    shapes: [[5, 7], [7, 3], [3]],
    f: (a, b, bias) =>
      tf.fused.matMul({ a: a as tf.Tensor2D, b: b as tf.Tensor2D, bias, activation: 'relu' }),
  },
  'gather rows': { shapes: [[9, 6]], f: (x) => tf.gather(x, ints(8, 0, 0, 3)) },
  'gather 2-D indices': {
    shapes: [[9, 60]],
    f: (x) => tf.gather(x, tf.tensor2d([8, 0, 0, 3], [2, 2], 'int32')),
  },
  'gather axis 1': { shapes: [[3, 5, 2]], f: (x) => tf.gather(x, ints(4, 4, 1), 1) },
  'gather with batch': {
    shapes: [[2, 5, 3]],
    f: (x) => tf.gather(x, tf.tensor2d([4, 0, 1, 1], [2, 2], 'int32'), 1, 1),
    noGradient: true,
  },
  gatherND: {
    shapes: [[4, 5, 3]],
    f: (x) => tf.gatherND(x, tf.tensor2d([3, 1, 0, 4], [2, 2], 'int32')),
    noGradient: true,
  },
  scatterND: {
    shapes: [[2, 3]],
    f: (x) => tf.scatterND(tf.tensor2d([4, 1], [2, 1], 'int32'), x, [6, 3]),
    noGradient: true,
  },
  unsortedSegmentSum: { shapes: [[5, 3]], f: (x) => tf.unsortedSegmentSum(x, ints(2, 0, 2, 1, 0), 4) },
  'segment ids outside the range': {
    shapes: [[5, 3]],
    f: (x) => tf.unsortedSegmentSum(x, ints(2, -1, 2, 7, 0), 4),
    noGradient: true,
  },
  'sum of all': { shapes: [[3, 4, 5]], f: (x) => x.sum() },
  'sum last': { shapes: [[3, 4, 5]], f: (x) => x.sum(-1) },
  'sum first, kept': { shapes: [[3, 4, 5]], f: (x) => x.sum(0, true) },
  'sum middle': { shapes: [[3, 4, 5]], f: (x) => x.sum(1) },
  'sum first two': { shapes: [[3, 4, 5]], f: (x) => x.sum([0, 1]) },
  'sum first and last': { shapes: [[3, 4, 5]], f: (x) => x.sum([0, 2]) },
  'sum of a scalar': { shapes: [[]], f: (x) => x.sum() },
  'mean last, kept': { shapes: [[3, 4, 5]], f: (x) => x.mean(-1, true) },
  'mean of all': { shapes: [[3, 4, 5]], f: (x) => x.mean() },
  'mean first and last': { shapes: [[3, 4, 5]], f: (x) => x.mean([0, 2]) },
  'max last': { shapes: [[3, 4, 5]], f: (x) => x.max(-1) },
  'transpose 2-D': { shapes: [[37, 21]], f: (x) => x.transpose() },
  'transpose 3-D 021': { shapes: [[3, 18, 5]], f: (x) => x.transpose([0, 2, 1]) },
  'transpose 3-D 210': { shapes: [[3, 18, 5]], f: (x) => x.transpose([2, 1, 0]) },
  'transpose 4-D 0213': { shapes: [[2, 3, 4, 70]], f: (x) => x.transpose([0, 2, 1, 3]) },
  'transpose 4-D 0231': { shapes: [[2, 19, 4, 5]], f: (x) => x.transpose([0, 2, 3, 1]) },
  'transpose 4-D 3120': { shapes: [[2, 3, 4, 5]], f: (x) => x.transpose([3, 1, 2, 0]) },
  'transpose 5-D 20314': { shapes: [[2, 3, 3, 2, 4]], f: (x) => x.transpose([2, 0, 3, 1, 4]) },
  'transpose with ones': { shapes: [[1, 3, 1, 4]], f: (x) => x.transpose([3, 0, 2, 1]) },
  'slice rows': { shapes: [[6, 5]], f: (x) => x.slice([2], [3]) },
  'slice columns': { shapes: [[6, 5]], f: (x) => x.slice([0, 1], [6, 3]) },
  'slice 3-D middle': { shapes: [[4, 5, 60]], f: (x) => x.slice([1, 2, 3], [2, 2, 50]) },
  'slice to the end': { shapes: [[4, 5, 6, 2]], f: (x) => x.slice([1, 0, 2, 1], [-1, -1, 3, 1]) },
  'slice nothing': { shapes: [[4, 5]], f: (x) => x.slice([1, 0], [0, 5]), noGradient: true },
  'tile rows': { shapes: [[3, 4]], f: (x) => x.tile([2, 1]) },
  'tile both': { shapes: [[3, 4]], f: (x) => x.tile([2, 3]) },
  'tile 3-D': { shapes: [[2, 1, 3]], f: (x) => x.tile([2, 4, 2]) },
  'tile a column': { shapes: [[5, 1]], f: (x) => x.tile([1, 60]) },
  broadcastTo: { shapes: [[2, 1, 3]], f: (x) => tf.broadcastTo(x, [4, 2, 5, 3]) },
  'concat axis 0': {
    shapes: [
      [2, 3],
      [4, 3],
    ],
    f: (a, b) => tf.concat([a, b], 0),
  },
  'concat axis 1': {
    shapes: [
      [2, 3],
      [2, 5],
    ],
    f: (a, b) => tf.concat([a, b], 1),
  },
  'stack and unstack': {
    shapes: [
      [2, 3],
      [2, 3],
    ],
    f: (a, b) => tf.unstack(tf.stack([a, b], 1), 1)[1].mul(a),
  },
  pad: {
    shapes: [[2, 3]],
    f: (x) =>
      tf.pad(x, [
        [1, 0],
        [2, 1],
      ]),
  },
  exp: { shapes: [[40]], f: (x) => x.mul(20).exp() },
  tanh: { shapes: [[40]], f: (x) => x.mul(3).tanh() },
  'tanh of small numbers': { shapes: [[40]], f: (x) => x.mul(1e-4).tanh() },
  erf: { shapes: [[40]], f: (x) => x.erf() },
  'log, sqrt, rsqrt': {
    shapes: [[40]],
    f: (x) => {
      const p = x.square().add(0.5);
      return p.log().add(p.sqrt()).add(p.rsqrt());
    },
  },
  'log1p, reciprocal, softplus': {
    shapes: [[40]],
    f: (x) => x.square().log1p().add(x.square().add(1).reciprocal()).add(x.softplus()),
  },
  pow: { shapes: [[40]], f: (x) => x.abs().add(0.5).pow(3) },
  'add a row': { shapes: [[5, 7], [7]], f: (a, b) => a.add(b).mul(a) },
  'multiply a column': {
    shapes: [
      [5, 7],
      [5, 1],
    ],
    f: (a, b) => a.mul(b).sub(b),
  },
  'divide, 4-D broadcast': {
    shapes: [
      [2, 3, 4, 5],
      [2, 1, 1, 5],
    ],
    f: (a, b) => a.div(b.square().add(1)),
  },
  squaredDifference: {
    shapes: [
      [5, 7],
      [5, 7],
    ],
    f: (a, b) => tf.squaredDifference(a, b),
  },
  addN: {
    shapes: [
      [5, 7],
      [5, 7],
    ],
    f: (a, b) => tf.addN([a, b, a]),
  },
  softmax: { shapes: [[2, 3, 4, 9]], f: (x) => tf.softmax(x).mul(x) },
  logSoftmax: { shapes: [[5, 9]], f: (x) => tf.logSoftmax(x).mul(x) },
  logSumExp: { shapes: [[5, 9]], f: (x) => tf.logSumExp(x, -1) },
  'where with a mask': {
    shapes: [
      [5, 9],
      [5, 9],
    ],
    f: (a, b) => tf.where(tf.tensor1d([1, 0, 1, 1, 0, 0, 1, 0, 1], 'bool'), a, b),
  },
  comparisons: {
    shapes: [[5, 9], [9]],
    f: (a, b) =>
      tf
        .logicalAnd(a.greater(b), a.less(1))
        .toFloat()
        .add(a.equal(a).toFloat())
        .add(tf.isFinite(a).toFloat()),
    noGradient: true,
  },
  'maximum and minimum': {
    shapes: [
      [5, 9],
      [5, 9],
    ],
    f: (a, b) => tf.maximum(a, b).add(tf.minimum(a, 0)),
  },
  'casts, one-hot, range': {
    shapes: [[4]],
    f: (x) => tf.oneHot(x.mul(3).abs().toInt(), 12).toFloat().mul(tf.range(0, 12)).add(tf.onesLike(x).sum()),
    noGradient: true,
  },
  argMax: { shapes: [[5, 9]], f: (x) => tf.argMax(x, -1).toFloat(), noGradient: true },
  topk: {
    shapes: [[5, 9]],
    f: (x) => tf.topk(x, 3).values.add(tf.topk(x, 3).indices.toFloat()),
    noGradient: true,
  },
  stridedSlice: { shapes: [[6, 5]], f: (x) => tf.stridedSlice(x, [0, 0], [6, 5], [2, 3]), noGradient: true },
  cumsum: { shapes: [[5, 9]], f: (x) => tf.cumsum(x, 1) },
};

export interface Evaluated {
  shape: number[];
  /** The value, then the gradients. */
  values: Float32Array[];
}

/** Value and gradients of a weighted sum of the result, so that every element counts differently. */
export async function evaluate({ shapes, f, noGradient }: Case): Promise<Evaluated> {
  const tensors = tf.tidy(() => {
    const source = random(7);
    const numbers = (size: number) => Float32Array.from({ length: size }, () => source.float() * 2 - 1);
    const inputs = shapes.map((shape) => tf.tensor(numbers(tf.util.sizeFromShape(shape)), shape));
    const value = f(...inputs);
    const out = [value];
    if (!noGradient) {
      const weights = tf.tensor(numbers(value.size), value.shape);
      const gradients = tf.grads((...x: tf.Tensor[]) =>
        f(...x)
          .mul(weights)
          .sum(),
      )(inputs);
      out.push(...gradients);
    }
    return out;
  });
  const values = await Promise.all(tensors.map((t) => t.data<'float32'>()));
  tf.dispose(tensors);
  return { shape: tensors[0].shape, values };
}

export function assertEvaluated(got: Evaluated, want: Evaluated, relative: number): void {
  assert.deepEqual(got.shape, want.shape);
  assert.equal(got.values.length, want.values.length);
  got.values.forEach((values, i) => {
    assert.equal(values.length, want.values[i].length);
    values.forEach((x, k) => {
      const y = want.values[i][k];
      const close = Object.is(x, y) || Math.abs(x - y) <= 1e-6 + relative * Math.abs(y);
      assert.ok(close, `${i ? `gradient ${i}` : 'value'} [${k}]: ${x}, expected ${y}`);
    });
  });
}

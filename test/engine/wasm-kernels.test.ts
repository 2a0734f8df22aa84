import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { startEngine } from '../../src/engine.ts';
import { assertEvaluated, cases, type Evaluated, evaluate, ints } from '../support/kernels.ts';

const expected = new Map<string, Evaluated>();
await startEngine('cpu');
for (const [name, one] of Object.entries(cases)) expected.set(name, await evaluate(one));
await startEngine('wasm');

for (const [name, one] of Object.entries(cases)) {
  test(`${name}: same result as plain JavaScript`, async () => {
    const before = tf.memory().numTensors;
    const got = await evaluate(one);
    assert.equal(tf.memory().numTensors, before);
    assertEvaluated(got, expected.get(name)!, 2e-5);
  });
}

test('exp and tanh at the ends of their range', () => {
  const x = [-Infinity, -104, -103, -87.5, 0, 88.5, 89, Infinity, NaN];
  const close = (got: ArrayLike<number>, f: (x: number) => number) =>
    x.forEach((v, i) => {
      const want = Math.fround(f(v));
      assert.ok(
        Object.is(got[i], want) || Math.abs(got[i] - want) <= Math.max(2e-45, 1e-6 * want),
        `${v}: ${got[i]}, expected ${want}`,
      );
    });
  close(tf.exp(x).dataSync(), Math.exp);
  close(tf.tanh(x).dataSync(), Math.tanh);
});

test('matMul broadcasts both batches', () => {
  const a = tf.randomNormal([2, 1, 3, 4]);
  const b = tf.randomNormal([1, 3, 4, 2]);
  const whole = tf.matMul(a.tile([1, 3, 1, 1]), b.tile([2, 1, 1, 1])); // plain JavaScript's own matMul is wrong here
  assert.deepEqual(tf.matMul(a, b).dataSync(), whole.dataSync());
});

test('an index outside the table is an error', () => {
  assert.throws(() => tf.gather(tf.ones([3, 2]), ints(0, 3)), /index 3/);
  assert.throws(() => tf.gather(tf.ones([3, 2]), ints(-1)), /index -1/);
});

test('matMul refuses shapes that do not match', () => {
  assert.throws(() => tf.matMul(tf.ones([2, 3]), tf.ones([2, 3])), /inner/i);
});

test('repeated products leave no memory behind on the heap', () => {
  const heap = () => (tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } }).wasm.HEAPU8.length;
  const a = tf.ones([8, 128, 128]);
  const product = () => tf.matMul(a, a, true, true).dispose();
  product();
  const before = heap();
  for (let i = 0; i < 100; i++) product(); // 50 MB of outputs, 100 MB of transposes, 50 MB of packed operands
  assert.equal(heap(), before);
  a.dispose();
});

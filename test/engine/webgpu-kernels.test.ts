import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { startEngine } from '../../src/engine.ts';
import { assertEvaluated, cases, type Evaluated, evaluate } from '../support/kernels.ts';
import { webgpuOrSkip } from '../support/webgpu.ts';

const expected = new Map<string, Evaluated>();
await startEngine('cpu');
for (const [name, one] of Object.entries(cases)) expected.set(name, await evaluate(one));

for (const [name, one] of Object.entries(cases)) {
  test(`${name}: same result as plain JavaScript`, async (t) => {
    if (!(await webgpuOrSkip(t))) return;
    const before = tf.memory().numTensors;
    const got = await evaluate(one);
    assert.equal(tf.memory().numTensors, before);
    assertEvaluated(got, expected.get(name)!, 1e-4);
  });
}

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Params } from '../../src/model/bert.ts';
import { setParam } from '../../src/model/model.ts';
import {
  createOptimizer,
  learningRate,
  type Optimizer,
  type OptimizerConfig,
} from '../../src/train/optimizer.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose, readFixture } from '../support/model-fixture.ts';

before(() => startTestEngine());

/** Six steps of BERT's optimizer in float64; the global norm is above the clip in four of them and below it in two. */
const expected = readFixture('optimizer.json');
const names = Object.keys(expected.shapes);
const config: OptimizerConfig = {
  learningRate: expected.rate,
  warmupSteps: expected.warmUp,
  weightDecay: 0.01,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-6,
  clipNorm: 1,
  biasCorrection: false,
};

/** The optimizer's state as a checkpoint holds it. */
async function moments(optimizer: Optimizer): Promise<Map<string, Float32Array>> {
  const all = new Map<string, Float32Array>();
  for (const { name, data } of optimizer.state()) {
    all.set(name, typeof data === 'function' ? await data() : data);
  }
  return all;
}

function start(values: Record<string, number[]>): Params {
  const params: Params = new Map();
  for (const name of names) setParam(params, name, expected.shapes[name], Float32Array.from(values[name]));
  return params;
}

function gradients(step: number): tf.NamedTensorMap {
  const flat = expected.steps[step].gradients as Record<string, number[]>;
  return Object.fromEntries(names.map((name) => [name, tf.tensor(flat[name], expected.shapes[name])]));
}

/** Compares the changes of the weights, since a step hardly changes the weights themselves. */
function assertMoved(params: Params, from: Record<string, number[]>, to: Record<string, number[]>): void {
  for (const name of names) {
    const moved = [...params.get(name)!.dataSync()].map((w, i) => w - from[name][i]);
    assertClose(
      moved,
      to[name].map((w, i) => w - from[name][i]),
      name,
    );
  }
}

test('weights and gradient norms equal those of google-research/bert at every step, without a leak', async () => {
  const params = start(expected.start);
  const optimizer = createOptimizer(params, names, config, expected.total);
  const tensors = tf.memory().numTensors;
  for (const [i, step] of expected.steps.entries()) {
    assertClose([await optimizer.apply(gradients(i), i)], [step.norm], `norm at step ${i}`);
    assertMoved(params, expected.start, step.params);
    assert.equal(tf.memory().numTensors, tensors);
  }
});

test("with the bias corrected, weights equal those of PyTorch's AdamW at every step", async () => {
  const params = start(expected.start);
  const optimizer = createOptimizer(params, names, { ...config, biasCorrection: true }, expected.total);
  for (const [i, step] of expected.steps.entries()) {
    await optimizer.apply(gradients(i), i);
    assertMoved(params, expected.start, step.corrected);
  }
});

test('the learning rate rises from 0 and falls to 0, measured from the first step', () => {
  expected.steps.forEach((step: { rate: number }, i: number) => {
    assert.ok(Math.abs(learningRate(config, i, expected.total) - step.rate) < 1e-10, `step ${i}`);
  });
  assert.equal(learningRate(config, expected.total, expected.total), 0);
});

test("the default warm-up is the released code's rule", () => {
  const rule = { ...config, learningRate: 1, warmupSteps: null };
  assert.equal(learningRate(rule, 5000, 200_000), 0.5);
  assert.equal(learningRate(rule, 1000, 40_000), 0.25);
  assert.equal(learningRate(rule, 50, 300), 0.5);
});

test('a run resumed from the saved state continues as if it had not stopped', async () => {
  const before = start(expected.start);
  const optimizer = createOptimizer(before, names, config, expected.total);
  for (let i = 0; i < 3; i++) await optimizer.apply(gradients(i), i);
  const saved = await moments(optimizer);
  const weights = Object.fromEntries(names.map((name) => [name, [...before.get(name)!.dataSync()]]));
  optimizer.dispose();

  const after = start(weights);
  const resumed = createOptimizer(after, names, config, expected.total);
  resumed.restore(saved);
  for (let i = 3; i < 6; i++) await resumed.apply(gradients(i), i);
  assertMoved(after, expected.start, expected.steps[5].params);
});

test('a non-finite gradient changes nothing', async () => {
  const params = start(expected.start);
  const optimizer = createOptimizer(params, names, config, expected.total);
  const bad = gradients(1);
  bad[names[0]].dispose();
  bad[names[0]] = tf.fill(expected.shapes[names[0]], Number.NaN);
  assert.ok(Number.isNaN(await optimizer.apply(bad, 1)));
  for (const name of names) assertClose(params.get(name)!, expected.start[name], name);
  for (const data of (await moments(optimizer)).values()) assert.ok(data.every((value) => value === 0));
});

test('a parameter without a gradient is not changed, also if other parameters have one', async () => {
  const params = start(expected.start);
  const other = 'mlm.transform.kernel';
  setParam(params, other, [2], Float32Array.of(3, -4));
  const optimizer = createOptimizer(params, [...names, other], config, expected.total);
  for (let i = 0; i < 6; i++) await optimizer.apply(gradients(i), i);
  assert.deepEqual([...params.get(other)!.dataSync()], [3, -4]);
  assertMoved(params, expected.start, expected.steps[5].params);

  // And if no parameter of its kind has one.
  const kernel = 'layer.0.output.kernel';
  const values = [...params.get(kernel)!.dataSync()];
  const some = gradients(5);
  some[kernel].dispose();
  delete some[kernel];
  await optimizer.apply(some, 5);
  assert.deepEqual([...params.get(kernel)!.dataSync()], values);
});

test('the arrays of initial values are not changed, and parameters initialised from the same array are independent', async () => {
  const size = 256;
  const buffer = new Float32Array(size + 16);
  for (let offset = 0; offset < 16; offset++) {
    // An engine may work in place at certain alignments only; one of these arrays has the right one.
    const values = buffer.subarray(offset, offset + size);
    values.fill(1);
    const params: Params = new Map();
    for (const name of ['a', 'b']) setParam(params, name, [size], values);
    const optimizer = createOptimizer(params, ['a', 'b'], { ...config, warmupSteps: 0 }, 10);
    await optimizer.apply({ a: tf.fill([size], 0.01) }, 0);
    assert.ok(
      params
        .get('a')!
        .dataSync()
        .every((x) => x < 1),
    );
    assert.ok(
      params
        .get('b')!
        .dataSync()
        .every((x) => x === 1),
    );
    assert.ok(values.every((x) => x === 1));
    optimizer.dispose();
    tf.dispose([...params.values()]);
  }
});

test('a factor changes the learning rate of its parameters alone; all are clipped to one norm', async () => {
  const factorOf = (name: string) => (name.includes('.norm.') ? 1 : 0.25);
  assert.equal(new Set(names.map(factorOf)).size, 2, 'both kinds occur');
  const moved = async (i: number, factor?: (name: string) => number) => {
    const params = start(expected.start);
    const optimizer = createOptimizer(params, names, config, expected.total, factor);
    const tensors = tf.memory().numTensors;
    const norm = await optimizer.apply(gradients(i), i);
    assert.equal(tf.memory().numTensors, tensors);
    const changes = new Map(
      names.map((name) => [
        name,
        [...params.get(name)!.dataSync()].map((w, j) => w - expected.start[name][j]),
      ]),
    );
    const seconds = await moments(optimizer);
    optimizer.dispose();
    return { norm, changes, seconds };
  };
  const steps = expected.steps.map((_: unknown, i: number) => i).filter((i: number) => i > 0);
  const clipped = steps.filter((i: number) => expected.steps[i].norm > config.clipNorm);
  assert.ok(clipped.length > 0 && clipped.length < steps.length, 'some gradients are clipped, some are not');
  for (const i of steps) {
    const plain = await moved(i);
    const parts = await moved(i, factorOf);
    assertClose([parts.norm], [plain.norm], `norm at step ${i}`);
    for (const name of names) {
      const wanted = plain.changes.get(name)!.map((change) => change * factorOf(name));
      assertClose(parts.changes.get(name)!, wanted, `${name} at step ${i}`);
      for (const kind of ['m', 'v'])
        assertClose(
          [...parts.seconds.get(`${kind}/${name}`)!],
          [...plain.seconds.get(`${kind}/${name}`)!],
          kind,
        );
    }
  }
});

test('with several learning rates, too, a non-finite gradient changes nothing', async () => {
  const params = start(expected.start);
  const optimizer = createOptimizer(params, names, config, expected.total, (name) =>
    name === names[0] ? 0.5 : 1,
  );
  const bad = gradients(1);
  bad[names[0]].dispose();
  bad[names[0]] = tf.fill(expected.shapes[names[0]], Number.NaN);
  assert.ok(Number.isNaN(await optimizer.apply(bad, 1)));
  for (const name of names) assertClose(params.get(name)!, expected.start[name], name);
});

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type { EncoderInput, Params, Shape } from '../../src/model/bert.ts';
import { lossGradients, type Model, setParam } from '../../src/model/model.ts';
import {
  type ImportConfig,
  importBert,
  importTensors,
  readHubConfig,
} from '../../src/weights/import-bert.ts';
import { writeSafetensors } from '../../src/weights/safetensors.ts';

// The fixtures of scripts/fixtures/model.py: tiny models and PyTorch's results for them.

/** Numbers in nested arrays of a tensor's shape. */
export type Nested = number | Nested[];

export function fixturePath(name: string): string {
  return join(import.meta.dirname, '../fixtures/model', name);
}

// biome-ignore lint/suspicious/noExplicitAny: each fixture has fields of its own; a wrong one fails its test.
export function readFixture(name: string): any {
  return JSON.parse(readFileSync(fixturePath(name), 'utf8'));
}

/** One model of the fixtures with its parameters under `prefix` (the span scorer's have none, as in our reader). */
export function loadFixture(name: string, prefix: string) {
  const folder = fixturePath(name);
  const config = readHubConfig(folder);
  const params: Params = new Map();
  for (const [key, { shape, data }] of importBert(folder, config).params) {
    setParam(params, ours(key, prefix), shape, data);
  }
  return { config, params, expected: readFixture(`${name}/expected.json`) };
}

function ours(name: string, prefix: string): string {
  return name.startsWith('span.') ? name : prefix + name;
}

/** Rows of ids without their padding. */
export function rows(expected: { ids: number[][]; lengths: number[] }): Int32Array[] {
  return expected.ids.map((row, r) => Int32Array.from(row.slice(0, expected.lengths[r])));
}

/** The tokens of an encoder's output without padding: [tokens, H]. */
export function tokenRows(outputs: tf.Tensor, input: EncoderInput, lengths: readonly number[]): tf.Tensor2D {
  const at = lengths.flatMap((n, b) => Array.from({ length: n }, (_, t) => input.starts[b] + t));
  return tf.gather(outputs, tf.tensor1d(at, 'int32')) as tf.Tensor2D;
}

/** The same for values in the layout [B][T]. */
export function tokenValues<T>(values: T[][], lengths: readonly number[]): T[] {
  return values.flatMap((row, b) => row.slice(0, lengths[b]));
}

function flatten(values: Nested): number[] {
  return typeof values === 'number' ? [values] : values.flatMap(flatten);
}

/** Largest difference between two tensors, relative to the largest of the expected values. */
export function relativeError(actual: ArrayLike<number>, expected: Nested): number {
  const wanted = flatten(expected);
  assert.equal(actual.length, wanted.length);
  let difference = 0;
  let largest = SMALL;
  for (let i = 0; i < wanted.length; i++) {
    assert.ok(Number.isFinite(actual[i]), `value ${i} is ${actual[i]}`);
    difference = Math.max(difference, Math.abs(actual[i] - wanted[i]));
    largest = Math.max(largest, Math.abs(wanted[i]));
  }
  return difference / largest;
}

/** If all values of a tensor are below this, it counts as the largest value, because their float32 sums are rounding noise. */
const SMALL = 1e-2;

/** Float32 against float64 through a whole network. */
const TOLERANCE = 1e-4;

export function assertClose(actual: tf.Tensor | ArrayLike<number>, expected: Nested, what: string): void {
  const values = actual instanceof tf.Tensor ? actual.dataSync() : actual;
  const error = relativeError(values, expected);
  assert.ok(error <= TOLERANCE, `${what}: relative error ${error}`);
}

/** Checks the gradient of `loss` with respect to every parameter against a file of the fixture. */
export function assertGradients(
  params: Params,
  prefix: string,
  config: ImportConfig,
  file: string,
  loss: () => tf.Scalar,
): void {
  const shapes = [...params].map(([name, { shape }]): Shape => ({ name, shape, init: 'zeros' }));
  const { value, gradients } = lossGradients({ params } as Model, shapes, loss);
  const expected = importTensors(fixturePath(file), config).params;
  assert.deepEqual([...expected.keys()].map((name) => ours(name, prefix)).sort(), [...params.keys()].sort());
  for (const [name, { shape, data }] of expected) {
    const gradient = gradients[ours(name, prefix)];
    if (gradient) assert.deepEqual(gradient.shape, shape, name);
    assertClose(gradient ?? new Float32Array(data.length), [...data], `gradient of ${name}`);
  }
  tf.dispose([value, gradients]);
}

/** The file that scripts/fixtures/check_safetensors.py reads with Python's package. */
export async function writeSample(path: string): Promise<void> {
  const values = Float32Array.of(9, 1, 2, 3, 4, 5, 6, 9);
  await writeSafetensors(
    path,
    [
      { name: 'layer.0.kernel', shape: [2, 3], data: values.subarray(1, 7) },
      { name: 'scalar', shape: [], data: Float32Array.of(-0.5) },
      { name: 'empty', shape: [0, 4], data: new Float32Array(0) },
      { name: '__proto__', shape: [1], data: Float32Array.of(7) },
    ],
    { step: '12', note: 'ü "quoted"' },
  );
}

/** Checks that `work` leaks no tensors, apart from its result, and returns the result. */
export function withoutLeak<T extends tf.TensorContainer>(work: () => T): T {
  const before = tf.memory().numTensors;
  const result = work();
  let own = 0;
  JSON.stringify(result, (_, value) => {
    if (value instanceof tf.Tensor) {
      own++;
      return null;
    }
    return value;
  });
  assert.equal(tf.memory().numTensors - before, own, 'leaked tensors');
  return result;
}

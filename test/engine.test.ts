import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { doctor, formatDiagnosis } from '../src/doctor.ts';
import { type EngineName, startEngine } from '../src/engine.ts';
import { UserError } from '../src/errors.ts';

for (const name of ['tensorflow', 'webgpu', 'wasm', 'cpu'] as EngineName[]) {
  test(`${name} multiplies matrices and differentiates`, async (t) => {
    let engine: Awaited<ReturnType<typeof startEngine>>;
    try {
      engine = await startEngine(name);
    } catch (error) {
      if (['tensorflow', 'webgpu'].includes(name) && error instanceof UserError) return t.skip(error.message);
      throw error;
    }
    assert.equal(engine.name, name);
    assert.equal(tf.getBackend(), name);
    const a = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    const b = tf.tensor2d([5, 6, 7, 8], [2, 2]);
    assert.deepEqual([...(await tf.matMul(a, b).data())], [19, 22, 43, 50]);
    const gradient = tf.grad((x) => tf.matMul(x as tf.Tensor2D, b).sum())(a);
    assert.deepEqual([...(await gradient.data())], [11, 15, 11, 15]);
  });
}

test('auto takes the best engine there is and says how to get a better one', async () => {
  const engine = await startEngine('auto');
  assert.ok(['tensorflow', 'webgpu', 'wasm'].includes(engine.name));
  if (engine.name !== 'wasm') assert.equal(engine.hint, undefined);
  else assert.match(engine.hint ?? '', /npm run engine/);
});

test('the WebAssembly engine leaves no listener that prints its own source on an error', async () => {
  await startEngine('wasm');
  const listeners = [
    ...process.rawListeners('uncaughtException'),
    ...process.rawListeners('unhandledRejection'),
  ];
  assert.equal(listeners.filter((listener) => /throw (ex|reason)/.test(String(listener))).length, 0);
});

test('the pinned package is the one of package-lock.json', () => {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
  const { version, integrity } = lock.packages['node_modules/@tensorflow/tfjs-node-gpu'];
  const script = readFileSync('scripts/engine.mjs', 'utf8');
  assert.ok(script.includes(`'${version}'`));
  assert.ok(script.includes(`'${integrity}'`));
});

test('doctor names every engine, a speed and the versions', async () => {
  const diagnosis = await doctor();
  assert.deepEqual(
    diagnosis.engines.map(({ name }) => name),
    ['tensorflow', 'webgpu', 'wasm', 'cpu'],
  );
  assert.ok(diagnosis.engines.find(({ name }) => name === 'wasm')!.available);
  assert.ok(diagnosis.gflops!.matmul > 0.1 && diagnosis.gflops!.batched > 0.01);
  assert.equal(diagnosis.packages['@tensorflow/tfjs'], '4.22.0');
  assert.notEqual(diagnosis.packages.usearch, null);
  assert.match(
    formatDiagnosis(diagnosis).join('\n'),
    /webgpu +(yes +WebGPU on |no +(no adapter|the package))/,
  );
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { type EngineName, startEngine } from '../src/engine.ts';
import { doctor, formatDiagnosis } from '../src/preflight/machine.ts';
import { UserError } from '../src/system/errors.ts';
import { type Checkout, checkout, fakeEngine } from './support/checkout.ts';

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

test('TensorFlow does not use the products of oneDNN, which a signal makes destroy the heap', async (t) => {
  try {
    await startEngine('tensorflow');
  } catch (error) {
    return t.skip((error as Error).message);
  }
  // The environment of the process, which TensorFlow reads.
  const { environmentVariables } = process.report.getReport() as unknown as {
    environmentVariables: Record<string, string>;
  };
  assert.equal(environmentVariables.TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL, '0');
});

test('auto chooses the best available engine and says how to get a better one', async () => {
  const engine = await startEngine('auto');
  assert.ok(['tensorflow', 'webgpu', 'wasm'].includes(engine.name));
  if (engine.name !== 'wasm') assert.equal(engine.hint, undefined);
  else assert.match(engine.hint ?? '', /realm engine install/);
});

test('the WebAssembly engine leaves no listener that prints its source on an error', async () => {
  await startEngine('wasm');
  const listeners = [
    ...process.rawListeners('uncaughtException'),
    ...process.rawListeners('unhandledRejection'),
  ];
  assert.equal(listeners.filter((listener) => /throw (ex|reason)/.test(String(listener))).length, 0);
});

test('the pinned package is the one in package-lock.json', () => {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
  const { version, integrity } = lock.packages['node_modules/@tensorflow/tfjs-node-gpu'];
  const script = readFileSync('scripts/engine.mjs', 'utf8');
  assert.ok(script.includes(`'${version}'`));
  assert.ok(script.includes(`'${integrity}'`));
});

test('the same NVIDIA library is pinned once, each with a version and a checksum', () => {
  const script = readFileSync('scripts/engine.mjs', 'utf8');
  const pins = [
    ...script.matchAll(
      /name: '(nvidia-[a-z-]+-cu12)',\s+version: '[\d.]+',\s+platform: '(manylinux\w+_x86_64)',\s+sha256: '[\da-f]{64}'/g,
    ),
  ];
  assert.equal(pins.length, script.match(/'nvidia-[a-z-]+-cu12'/g)!.length);
  assert.equal(new Set(pins.map(([, name]) => name)).size, pins.length);
});

describe('the native engine built for a GPU', () => {
  let copy: Checkout;

  before(() => {
    copy = checkout();
    fakeEngine(copy);
    writeFileSync(
      join(copy.root, 'start.mts'),
      `import { startEngine } from './src/engine.ts';
       const growth = () => process.env.TF_FORCE_GPU_ALLOW_GROWTH;
       for (const choice of ['auto', 'tensorflow']) {
         const outcome = await startEngine(choice).then(
           ({ name, description, hint }) => ({ name, description, hint }),
           ({ name, message }) => ({ name, message }),
         );
         console.log(JSON.stringify({ ...outcome, growth: growth() }));
       }`,
    );
  });
  after(() => copy.remove());

  /** What `--engine auto` and `--engine tensorflow` return. */
  function start(environment: Record<string, string>): Record<string, string>[] {
    const { CUDA_VISIBLE_DEVICES: _, TF_FORCE_GPU_ALLOW_GROWTH: __, ...env } = process.env;
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', join(copy.root, 'start.mts')],
      {
        env: { ...env, ...environment },
        encoding: 'utf8',
      },
    );
    const lines = stdout.trim().split('\n');
    assert.equal(lines.length, 2, stderr);
    return lines.map((line) => JSON.parse(line));
  }

  test('reports a missing GPU, and auto does not continue without one', () => {
    for (const { name, message, growth } of start({})) {
      assert.equal(name, 'UserError');
      assert.match(message, /finds none: .*(driver was not found|shows it no device).*install --cpu/);
      assert.equal(growth, 'true');
    }
  });

  test('computes on the CPU if the GPUs are hidden on purpose', () => {
    for (const { name, description, hint } of start({ CUDA_VISIBLE_DEVICES: '' })) {
      assert.equal(name, 'tensorflow');
      assert.match(description, /on the CPU$/);
      assert.match(hint, /realm's own kernels/);
    }
  });

  test('uses the GPU, and reserves its memory only as needed unless the user set it otherwise', () => {
    for (const outcome of start({ FAKE_GPU: '1', TF_FORCE_GPU_ALLOW_GROWTH: 'false' })) {
      assert.deepEqual(outcome, {
        name: 'tensorflow',
        description: 'native TensorFlow 2 on the GPU',
        growth: 'false',
      });
    }
  });
});

test('a native engine that starts but computes nothing: auto says why and uses WebAssembly, doctor reports it', () => {
  const copy = checkout();
  try {
    fakeEngine(copy);
    const env = { ...process.env, FAKE_GPU: '1', FAKE_TROUBLE: 'no such op', FAKE_KERNEL: 'TopK' };
    const run = (...args: string[]) => spawnSync(process.execPath, args, { env, encoding: 'utf8' });
    writeFileSync(
      join(copy.root, 'announce.mts'),
      `import { announceEngine } from './src/pipeline/context.ts';
       console.log(await announceEngine({ engine: process.argv[2] }).catch(({ name }) => name));`,
    );
    const announce = (engine: string) => run('--import', 'tsx', join(copy.root, 'announce.mts'), engine);
    const sentence =
      /engine tensorflow: does not start \(no such op\); run: realm engine remove && realm engine install/;
    const auto = announce('auto');
    assert.equal(auto.stdout, 'wasm\n', auto.stderr);
    assert.match(auto.stderr, new RegExp(`^engine: WebAssembly.*${sentence.source}.*\n$`));
    assert.equal(announce('tensorflow').stdout, 'UserError\n');

    const doctor = run(join(copy.root, 'bin', 'realm'), 'doctor');
    assert.equal(doctor.status, 0, doctor.stderr);
    assert.match(doctor.stdout, /Engine +WebAssembly/);
    assert.match(doctor.stdout, /tensorflow no +does not start \(no such op\)/);

    env.FAKE_KERNEL = 'Slice'; // not one of those that the check at the start uses
    const later = run(join(copy.root, 'bin', 'realm'), 'doctor');
    assert.equal(later.status, 0, later.stderr);
    assert.match(later.stdout, /tensorflow no +starts but fails: no such op/);
    assert.doesNotMatch(later.stdout, /^Speed/m);
  } finally {
    copy.remove();
  }
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

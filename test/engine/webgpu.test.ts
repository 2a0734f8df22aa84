import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { type EngineName, startEngine } from '../../src/engine.ts';
import { disposeModel, modelShapes } from '../../src/model/model.ts';
import { encodeQuestions } from '../../src/model/questions.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { UserError } from '../../src/system/errors.ts';
import { qaStep } from '../../src/train/finetune-qa.ts';
import { ictStep } from '../../src/train/ict.ts';
import { createOptimizer } from '../../src/train/optimizer.ts';
import { pretrainStep } from '../../src/train/pretrain.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';
import { webgpuOrSkip } from '../support/webgpu.ts';

// Training on WebGPU against training on the engine that the other tests run on (REALM_ENGINE, by default the best).

// Without dropout: the native engine's own kernels draw different masks.
const config = tinyConfig(
  'model.dropout=0',
  'ict.batch=8',
  'ict.microBatch=4',
  'pretrain.batch=4',
  'pretrain.microBatch=2',
  'pretrain.candidates=4',
  'qa.batch=2',
);
const STEPS = 20;
const folder = temporaryFolder('webgpu');
let other: EngineName;
let corpus: Corpus;
let world: World;
let index: SearchIndex;

before(async () => {
  ({ name: other } = await startTestEngine());
  ({ corpus, world } = await tinyCorpus(folder, config));
  const model = tinyModel(config, corpus.tokenizer.size, 1, 5);
  await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
  disposeModel(model);
  index = openIndex(join(folder, 'index'), { efSearch: 128 });
});
after(() => {
  index?.close();
  corpus?.close();
});

const stages = {
  'inverse cloze task': ictStep,
  pretraining: (...[model, corpus, config]: Parameters<typeof ictStep>) =>
    pretrainStep(model, corpus, index, config),
  'question answering': (...[model, corpus, config]: Parameters<typeof ictStep>) =>
    qaStep(model, corpus, index, encodeQuestions(corpus, world.train), config),
};

/** Losses of the first steps, and the tensors and bytes held after each. */
async function losses(start: (typeof stages)[keyof typeof stages]) {
  const model = tinyModel(config, corpus.tokenizer.size, 1, 5);
  const stage = start(model, corpus, config);
  const names = modelShapes(model).map(({ name }) => name);
  // Adam turns rounding errors of gradients near 0 into whole steps: at 1e-3 the losses already drift by up to 9e-4.
  const schedule = { ...config.pretrain.optimizer, learningRate: 3e-4, warmupSteps: 2 };
  const optimizer = createOptimizer(model.params, names, schedule, 100);
  const found: number[] = [];
  const held: { tensors: number; bytes: number; allocated: number }[] = [];
  for (let step = 0; step < STEPS; step++) {
    const { metrics, gradients } = await stage.step(step);
    await optimizer.apply(gradients, step);
    found.push(metrics.loss);
    const { numTensors, numBytes, ...gpu } = tf.memory();
    const { numBytesAllocatedInGPU = 0 } = gpu as { numBytesAllocatedInGPU?: number };
    held.push({ tensors: numTensors, bytes: numBytes, allocated: numBytesAllocatedInGPU });
  }
  stage.dispose();
  optimizer.dispose();
  disposeModel(model);
  return { found, held };
}

for (const [name, start] of Object.entries(stages)) {
  test(`${STEPS} steps of ${name} compute the losses of another engine, and use no more memory`, async (t) => {
    if (!(await webgpuOrSkip(t))) return;
    const { found, held } = await losses(start);
    await startEngine(other);
    const expected = (await losses(start)).found;
    found.forEach((x, i) => {
      const y = expected[i];
      assert.ok(Math.abs(x - y) <= 1e-3 * Math.max(1, Math.abs(y)), `step ${i}: ${x}, on ${other} ${y}`);
    });
    const [first, last] = [held[0], held.at(-1)!];
    assert.deepEqual([last.tensors, last.bytes], [first.tensors, first.bytes]);
    const most = Math.max(...held.slice(0, STEPS / 2).map((h) => h.allocated));
    assert.ok(last.allocated < 1.5 * most, `${last.allocated} bytes of the GPU, ${most} in the first half`);
  });
}

test('an error reported by WebGPU is thrown at the next read', async (t) => {
  if (!(await webgpuOrSkip(t))) return;
  const { device } = tf.backend() as unknown as { device: GPUDevice };
  const size = device.limits.maxStorageBufferBindingSize / 4 + 1000;
  if (size > 2 ** 28) return t.skip('this GPU allows tensors too large for the memory of this machine');
  await assert.rejects(
    () =>
      tf
        .tidy(() =>
          tf
            .ones([size])
            .add(tf.ones([1]))
            .slice([0], [1]),
        )
        .data(),
    (error) => error instanceof UserError && /smaller batches/.test(error.message),
  );
});

test('a synchronous read from a GPU is an error', async (t) => {
  if (!(await webgpuOrSkip(t))) return;
  assert.throws(() => tf.tidy(() => tf.ones([2000]).add(1).dataSync()), /await data\(\)/);
});

test('without a driver, the message names the one to install', { skip: process.platform !== 'linux' }, () => {
  const script = "import { startEngine } from './src/engine.ts'; await startEngine('webgpu');";
  const { status, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', script],
    { encoding: 'utf8', env: { ...process.env, VK_ICD_FILENAMES: '/none', VK_DRIVER_FILES: '/none' } },
  );
  assert.equal(status, 1);
  assert.match(stderr, /UserError: engine webgpu: no adapter.*; install .*mesa-vulkan-drivers/);
});

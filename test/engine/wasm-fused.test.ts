import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { wasmSourcesDigest, ZIG } from '../../scripts/wasm-kernels.mjs';
import { fusedAttention, fusedDense, hasFused } from '../../src/engine/fused.ts';
import { mallocWithin } from '../../src/engine/wasm-backend.ts';
import { startEngine } from '../../src/engine.ts';
import { random } from '../../src/random.ts';

/** More than most machines have cores here, so that workers are also interrupted in the middle of a piece. */
const THREADS = 4;

const draw = random(11);
const numbers = (size: number) => Float32Array.from({ length: size }, () => draw.float() - 0.5);

test('the committed module is the one that scripts/wasm-kernels.mjs made of these sources', () => {
  const record = JSON.parse(readFileSync('src/engine/wasm/kernels.json', 'utf8'));
  const module = readFileSync('src/engine/wasm/kernels.wasm');
  const remedy = 'run: node scripts/wasm-kernels.mjs';
  assert.equal(record.module, createHash('sha256').update(module).digest('hex'), remedy);
  assert.equal(record.sources, wasmSourcesDigest(), remedy);
  assert.equal(record.zig, ZIG);
  assert.ok(module.length < 200_000);
});

describe('the kernels in WebAssembly', () => {
  before(async () => {
    const engine = await startEngine('wasm', { threads: THREADS });
    assert.equal(engine.description, 'WebAssembly on 4 CPU cores');
    assert.ok(hasFused());
  });

  for (const [m, n, k] of [
    [1, 1, 1],
    [3, 7, 5],
    [4, 8, 4],
    [5, 9, 257],
    [63, 513, 3],
    [65, 511, 300],
    [130, 20, 515],
    [2, 1030, 64],
  ]) {
    test(`products of ${m} × ${k} and ${k} × ${n}, transposed or not, equal sums in double precision`, () => {
      const [a, b] = [numbers(m * k), numbers(k * n)];
      const bias = numbers(n);
      const wanted = new Float64Array(m * n);
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let sum = bias[j];
          for (let p = 0; p < k; p++) sum += a[i * k + p] * b[p * n + j];
          wanted[i * n + j] = sum;
        }
      for (const transposeA of [false, true])
        for (const transposeB of [false, true]) {
          const got = tf.tidy(() => {
            const plainA = tf.tensor2d(a, [m, k]);
            const plainB = tf.tensor2d(b, [k, n]);
            return tf.fused
              .matMul({
                a: transposeA ? plainA.transpose() : plainA,
                b: transposeB ? plainB.transpose() : plainB,
                transposeA,
                transposeB,
                bias: tf.tensor1d(bias),
              })
              .dataSync();
          });
          const error = wanted.reduce((most, w, i) => Math.max(most, Math.abs(w - got[i])), 0);
          assert.ok(error < 1e-6 * (1 + k / 16), `largest error ${error}`);
        }
    });
  }

  test('threads that come and go, and sleep in between, give the same result each time', async () => {
    const x = tf.tensor2d(numbers(300 * 64), [300, 64]);
    const kernel = tf.tensor2d(numbers(64 * 96), [64, 96]);
    const bias = tf.tensor1d(numbers(96));
    const bounds = tf.tensor1d([0, 1, 130, 131, 300], 'int32');
    const weights = tf.variable(kernel);
    const run = () =>
      tf.tidy(() => {
        const loss = () =>
          fusedAttention(fusedDense(x, weights, bias), undefined, bounds, bounds, 4)
            .square()
            .sum() as tf.Scalar;
        const { value, grads } = tf.variableGrads(loss, [weights]);
        return [value, ...Object.values(grads)].map((t) => [...t.dataSync()]);
      });
    const first = run();
    for (let turn = 0; turn < 150; turn++) {
      if (turn % 50 === 49) await new Promise((done) => setTimeout(done, 20)); // the workers fall asleep
      assert.deepEqual(run(), first);
    }
    tf.dispose([x, kernel, bias, bounds, weights]);
  });

  test('inputs that do not fit are an error, after which the kernels still work', () => {
    const x = tf.ones([2, 3]);
    const before = tf.memory().numTensors;
    for (let turn = 0; turn < 2000; turn++) {
      // each would leave a frame of the stack behind
      assert.throws(() => tf.tidy(() => fusedDense(x, tf.ones([4, 2]), tf.ones([2]))), /shapes do not fit/);
    }
    const y = tf.tidy(() => fusedDense(x, tf.ones([3, 2]), tf.ones([2])).dataSync());
    assert.deepEqual([...y], [4, 4, 4, 4]);
    assert.equal(tf.memory().numTensors, before);
    x.dispose();
  });

  test('tensors that do not fit into memory are an error, and do not overwrite others', () => {
    const backend = tf.backend() as unknown as {
      makeOutput(shape: number[], dtype: string): tf.TensorInfo;
      disposeData(dataId: object): void;
    };
    const made: tf.TensorInfo[] = [];
    const fill = () => {
      // 800 MB each; pages that nobody writes to take no memory
      for (let i = 0; i < 6; i++) made.push(backend.makeOutput([2e8], 'float32'));
    };
    assert.throws(fill, { name: 'UserError', message: /do not fit into 4 GB/ });
    assert.equal(made.length, 5);
    for (const { dataId } of made) backend.disposeData(dataId);
    const y = tf.tidy(() => fusedDense(tf.ones([1, 3]), tf.ones([3, 2]), tf.ones([2])).dataSync());
    assert.deepEqual([...y], [4, 4]);
  });

  test('a block that malloc says to have found beyond the memory is none', () => {
    const memory = { buffer: new SharedArrayBuffer(100) };
    const answers = [0, 40, 41, -8];
    const malloc = mallocWithin({ memory, malloc: () => answers.shift()!, free() {} });
    assert.deepEqual([malloc(60), malloc(60), malloc(60), malloc(60)], [0, 40, 0, 0]);
  });

  test('a tensor made before the engine was changed is moved to it', async () => {
    const x = tf.ones([2, 3]);
    await startEngine('cpu');
    const kernel = tf.ones([3, 2]);
    const bias = tf.ones([2]);
    await startEngine('wasm');
    assert.deepEqual([...fusedDense(x, kernel, bias).dataSync()], [4, 4, 4, 4]);
    tf.dispose([x, kernel, bias]);
  });
});

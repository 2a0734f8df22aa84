import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { layerNorm, type Params } from '../../src/model/bert.ts';
import { setParam } from '../../src/model/model.ts';
import { startTestEngine } from '../support/engine.ts';

before(() => startTestEngine());

const H = 768;

function normed(rows: Float32Array[], eps: number): number[][] {
  const params: Params = new Map();
  setParam(params, 'gain', [H], new Float32Array(H).fill(1));
  setParam(params, 'bias', [H], new Float32Array(H));
  const x = tf.tensor2d(
    rows.flatMap((row) => [...row]),
    [rows.length, H],
  );
  const y = layerNorm(params, '', x, eps);
  const values = y.dataSync();
  tf.dispose([x, y, ...params.values()]);
  return rows.map((_, r) => [...values.subarray(r * H, (r + 1) * H)]);
}

test('equal numbers become 0, as in torch', () => {
  const rows = [0.1, 1 / 3, -7.7, 1000.1, 12345.678].map((value) => new Float32Array(H).fill(value));
  const most = normed(rows, 1e-12).map((row) => Math.max(...row.map(Math.abs)));
  assert.deepEqual(most, [0, 0, 0, 0, 0]);
});

test('other rows, also far from 0, are normalised as in double precision', () => {
  for (const [offset, first, tolerance] of [
    [0, 0, 1e-5],
    [1000, 0, 1e-4],
    [0, 1000, 1e-5], // an outlier where one is subtracted
  ]) {
    const row = Float32Array.from({ length: H }, (_, h) => offset + Math.sin(h * h));
    row[0] += first;
    const mean = row.reduce((a, b) => a + b, 0) / H;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / H;
    normed([row], 1e-12)[0].forEach((value, h) => {
      const expected = (row[h] - mean) / Math.sqrt(variance + 1e-12);
      assert.ok(
        Math.abs(value - expected) < tolerance * Math.max(1, Math.abs(expected)),
        `${offset}, ${h}: ${value}, ${expected}`,
      );
    });
  }
});

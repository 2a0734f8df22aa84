import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { addProducts, principalComponents } from '../../src/model/components.ts';
import { random } from '../../src/random.ts';

/** Made with scripts/parity/principal_components.py. */
const fixture: { rows: number[][]; components: number[][] } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/principal-components.json'), 'utf8'),
);

test("components are numpy's eigenvectors, the largest number of each positive", () => {
  const [H, n] = [6, 4];
  const rows = Float32Array.from(fixture.rows.flat());
  const sums = new Float64Array(H * H);
  addProducts(sums, rows.subarray(0, 15 * H), H); // in pieces, as blocks come
  addProducts(sums, rows.subarray(15 * H), H);
  const found = principalComponents(sums, H, n);
  for (let k = 0; k < n; k++) {
    const theirs = fixture.components.map((row) => row[k]);
    const largest = theirs.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
    theirs.forEach((value, i) => {
      assert.ok(
        Math.abs(found[i * n + k] - Math.sign(largest) * value) < 1e-6,
        `component ${k}, number ${i}`,
      );
    });
  }
});

test('inner products of rows of rank n are kept', () => {
  const [H, n, count] = [8, 3, 20];
  const rng = random(5);
  const draw = (length: number) => Float64Array.from({ length }, () => rng.float() - 0.3);
  const [left, right] = [draw(count * n), draw(n * H)];
  const rows = new Float32Array(count * H);
  for (let r = 0; r < count; r++)
    for (let h = 0; h < H; h++)
      for (let k = 0; k < n; k++) rows[r * H + h] += left[r * n + k] * right[k * H + h];
  const product = (values: Float32Array, size: number, a: number, b: number) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += values[a * size + i] * values[b * size + i];
    return sum;
  };
  const sums = new Float64Array(H * H);
  addProducts(sums, rows, H);
  const narrowed = (width: number) => {
    const components = principalComponents(sums, H, width);
    const narrow = new Float32Array(count * width);
    for (let r = 0; r < count; r++)
      for (let k = 0; k < width; k++)
        for (let h = 0; h < H; h++) narrow[r * width + k] += rows[r * H + h] * components[h * width + k];
    return narrow;
  };
  const furthest = (width: number) => {
    const narrow = narrowed(width);
    let worst = 0;
    for (let a = 0; a < count; a++)
      for (let b = 0; b <= a; b++)
        worst = Math.max(worst, Math.abs(product(rows, H, a, b) - product(narrow, width, a, b)));
    return worst;
  };
  assert.ok(furthest(n) < 1e-5);
  assert.ok(furthest(n - 1) > 1e-2, 'one component fewer loses something');
});

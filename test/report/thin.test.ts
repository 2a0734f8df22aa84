import assert from 'node:assert/strict';
import { test } from 'node:test';
import { evenly, series, thinned } from '../../src/report/thin.ts';

test('a series with more values than points has the mean, lowest and highest of neighbours', () => {
  const line = series(4);
  for (let x = 1; x <= 11; x++) line.add(x, x % 2 === 0 ? 10 * x : x);
  // Two points of four values and one of three: [1 20 3 40] [5 60 7 80] [9 100 11].
  assert.equal(line.per, 4);
  assert.deepEqual(line.points, [
    { x: 2.5, y: 16, low: 1, high: 40, n: 4 },
    { x: 6.5, y: 38, low: 5, high: 80, n: 4 },
    { x: 10, y: 40, low: 9, high: 100, n: 3 },
  ]);
  assert.deepEqual(line.ends, {
    first: { x: 1, y: 1 },
    last: { x: 11, y: 11 },
    lowest: { x: 1, y: 1 },
    highest: { x: 10, y: 100 },
  });
});

test('no series has more points than its limit, and none loses a value', () => {
  const line = series(500);
  let sum = 0;
  for (let x = 1; x <= 100_000; x++) {
    line.add(x, (x * 7919) % 1000);
    sum += (x * 7919) % 1000;
    assert.ok(line.points.length <= 500);
  }
  assert.equal(
    line.points.reduce((n, p) => n + p.n, 0),
    100_000,
  );
  const total = line.points.reduce((all, p) => all + p.n * p.y, 0);
  assert.ok(Math.abs(total - sum) < 1e-6 * sum);
  assert.ok(line.points.length >= 250);
});

test('items are thinned evenly, and the first and the last are kept', () => {
  const some = thinned<number>(8);
  for (let i = 0; i < 3; i++) some.add(i);
  assert.deepEqual(some.items(), [0, 1, 2]);
  for (let i = 3; i < 100; i++) some.add(i);
  assert.equal(some.count, 100);
  assert.deepEqual(some.items(), [0, 16, 32, 48, 64, 80, 96, 99]);
  assert.deepEqual(evenly([0, 1, 2, 3, 4, 5, 6, 7, 8], 3), [0, 4, 8]);
  assert.deepEqual(evenly([0, 1], 3), [0, 1]);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exampleAt, stepRandom } from '../../src/train/sampler.ts';

const epoch = (seed: number, n: number, number: number) =>
  Array.from({ length: n }, (_, i) => exampleAt(seed, n, number * n + i));

test('every epoch contains every example once', () => {
  for (const n of [1, 2, 3, 7, 64, 65, 1000]) {
    for (const seed of [0, 1, 12345]) {
      for (const number of [0, 1, 2, 100]) {
        const sorted = epoch(seed, n, number).sort((a, b) => a - b);
        assert.deepEqual(
          sorted,
          Array.from({ length: n }, (_, i) => i),
          `n ${n}, seed ${seed}, epoch ${number}`,
        );
      }
    }
  }
});

test('each epoch and each seed has a different order', () => {
  for (const n of [7, 64, 1000]) {
    const orders = [0, 1, 2, 3].flatMap((seed) =>
      [0, 1, 2, 3].map((number) => epoch(seed, n, number).join()),
    );
    orders.push(Array.from({ length: n }, (_, i) => i).join());
    assert.equal(new Set(orders).size, orders.length, `n ${n}`);
  }
});

test('an example occurs at every position of an epoch about equally often', () => {
  const n = 10;
  const epochs = 4000;
  for (const position of [0, 4, 9]) {
    const counts = new Array<number>(n).fill(0);
    for (let number = 0; number < epochs; number++) counts[exampleAt(3, n, number * n + position)]++;
    // 400 each; five standard deviations of the binomial distribution are 95.
    for (const count of counts)
      assert.ok(Math.abs(count - epochs / n) < 95, `position ${position}: ${counts}`);
  }
});

test('positions far into a large corpus give valid examples', () => {
  const n = 13_353_718;
  const position = 200_000 * 512;
  const some = Array.from({ length: 2000 }, (_, i) => exampleAt(1, n, position + i));
  assert.ok(some.every((example) => Number.isInteger(example) && example >= 0 && example < n));
  assert.equal(new Set(some).size, some.length, 'all of one epoch');
});

test("a step's random numbers depend only on seed and step", () => {
  const draw = (seed: number, step: number) => {
    const source = stepRandom(seed, step);
    return Array.from({ length: 5 }, () => source.float());
  };
  const wanted = draw(1, 7);
  for (let step = 0; step < 20; step++) draw(1, step);
  assert.deepEqual(draw(1, 7), wanted);

  const all = new Set<string>();
  for (const seed of [0, 1, 2]) for (let step = -4; step < 300; step++) all.add(draw(seed, step).join());
  assert.equal(all.size, 3 * 304, 'no two steps draw the same');
});

test('the first numbers of consecutive steps are evenly distributed', () => {
  const counts = new Array<number>(10).fill(0);
  for (let step = 0; step < 4000; step++) counts[Math.floor(10 * stepRandom(1, step).float())]++;
  for (const count of counts) assert.ok(Math.abs(count - 400) < 95, String(counts));
});

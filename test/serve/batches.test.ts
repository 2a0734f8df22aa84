import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Busy, inBatches } from '../../src/serve/batches.ts';

/** A promise and the function that resolves it. */
function signal(): [Promise<void>, () => void] {
  let give = () => {};
  const promise = new Promise<void>((resolve) => {
    give = resolve;
  });
  return [promise, give];
}

/** Work that records its batches. The first batch resolves `started` when it starts, and ends when `finish` is called. */
function recorded(limits: { atOnce?: number; most?: number; waiting?: number } = {}) {
  const batches: number[][] = [];
  const [started, begin] = signal();
  const [finished, finish] = signal();
  const { run } = inBatches(
    async (items: number[]) => {
      batches.push(items);
      begin();
      await finished;
      if (items.includes(13)) throw new Error('13 fails');
      return items.map((n) => n * n);
    },
    { atOnce: 1, most: 4, waiting: 100, ...limits, alone: (n) => n >= 100 },
  );
  return { batches, run, started, finish };
}

/** The same, without waiting. */
function unhindered(limits: { atOnce?: number; most?: number; waiting?: number } = {}) {
  const { finish, ...work } = recorded(limits);
  finish();
  return work;
}

test('items that wait while the work is busy make the next batch, in order and each with its own result', async () => {
  const { batches, run, started, finish } = recorded();
  const first = run(0);
  await started;
  const rest = Promise.all([1, 2, 3, 4, 5, 6].map((n) => run(n)));
  finish();
  assert.deepEqual(await rest, [1, 4, 9, 16, 25, 36]);
  assert.equal(await first, 0);
  assert.deepEqual(batches, [[0], [1, 2, 3, 4], [5, 6]]);
});

test('an item that needs a batch of its own gets one and keeps its place in the queue', async () => {
  const { batches, run } = unhindered();
  await Promise.all([1, 2, 100, 101, 3, 4].map((n) => run(n)));
  assert.deepEqual(batches, [[1, 2], [100], [101], [3, 4]]);
});

test('an item that fails its batch does not fail the others', async () => {
  const { batches, run } = unhindered();
  const results = await Promise.allSettled([1, 13, 2].map((n) => run(n)));
  assert.deepEqual(
    results.map((r) => (r.status === 'fulfilled' ? r.value : r.reason.message)),
    [1, '13 fails', 4],
  );
  assert.deepEqual(batches, [[1, 13, 2], [1], [13], [2]]);
});

test('an item beyond the limit is refused at once, and the others are answered', async () => {
  const { run } = unhindered({ waiting: 3 });
  const results = await Promise.allSettled([1, 2, 3, 4].map((n) => run(n)));
  assert.deepEqual(
    results.map((r) => (r.status === 'fulfilled' ? r.value : r.reason instanceof Busy)),
    [1, 4, 9, true],
  );
  assert.equal(await run(5), 25);
});

test('an item that is aborted while it waits is not processed', async () => {
  const { batches, run, started, finish } = recorded();
  const first = run(0);
  await started;
  const given = new AbortController();
  const waits = run(1, given.signal);
  const other = run(2);
  given.abort(new Error('given up'));
  finish();
  await assert.rejects(waits, /given up/);
  assert.deepEqual([await first, await other], [0, 4]);
  assert.deepEqual(batches, [[0], [2]]);
});

test('several batches at once share the items that wait', async () => {
  const { batches, run, started, finish } = recorded({ atOnce: 2 });
  const all = [1, 2, 3, 4, 5].map((n) => run(n));
  await started;
  const later = [6, 7].map((n) => run(n));
  finish();
  assert.deepEqual(await Promise.all([...all, ...later]), [1, 4, 9, 16, 25, 36, 49]);
  assert.deepEqual(batches.slice(0, 2), [
    [1, 2, 3],
    [4, 5],
  ]);
  assert.equal(batches.flat().length, 7);
});

test('no more batches than allowed are worked on at the same time', async () => {
  let now = 0;
  let most = 0;
  const { run } = inBatches(
    async (items: number[]) => {
      most = Math.max(most, ++now);
      await sleep(1);
      now--;
      return items;
    },
    { atOnce: 3, most: 2, waiting: 100, alone: () => false },
  );
  const items = Array.from({ length: 40 }, (_, n) => n);
  assert.deepEqual(await Promise.all(items.map((n) => run(n))), items);
  assert.equal(most, 3);
});

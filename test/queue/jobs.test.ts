import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shardCount } from '../../src/queue/hand-out.ts';
import { jobId, priorityAt } from '../../src/queue/jobs.ts';

const SOURCE = { corpusSha256: 'c', weightsSha256: 'w', encoding: 'e', rows: 5000, dimensions: 2 };

test('a job has the same id only for the same shard of the same vectors in the same run', () => {
  const id = jobId('/runs/a', SOURCE, { number: 1, of: 3 });
  assert.match(id, /^[0-9a-f]{32}-1-3$/);
  assert.equal(jobId('/runs/a', { ...SOURCE }, { number: 1, of: 3 }), id);
  const others = [
    jobId('/runs/b', SOURCE, { number: 1, of: 3 }),
    jobId('/runs/a', { ...SOURCE, weightsSha256: 'v' }, { number: 1, of: 3 }),
    jobId('/runs/a', SOURCE, { number: 2, of: 3 }),
    jobId('/runs/a', SOURCE, { number: 1, of: 4 }),
  ];
  assert.equal(new Set([id, ...others]).size, 5);
});

test('a newer snapshot comes first: its number is smaller, and within the range of BullMQ', () => {
  const at = (date: string) => priorityAt(Date.parse(date));
  assert.ok(at('2026-11-29T10:01:00Z') < at('2026-11-29T10:00:00Z'));
  for (const date of ['2020-01-01', '2026-01-01', '2029-12-01', '2040-01-01'])
    assert.ok(at(date) >= 1 && at(date) <= 2_097_151, date);
});

test('without a setting a shard has about 8,192 blocks', () => {
  assert.deepEqual(
    [1, 8192, 8193, 21_015_324].map((blocks) => shardCount(blocks, null)),
    [1, 1, 2, 2566],
  );
  assert.equal(shardCount(5, 64), 64);
});

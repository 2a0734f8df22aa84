import assert from 'node:assert/strict';
import { test } from 'node:test';
import { whichShard } from '../../src/pipeline/which-shard.ts';
import { UserError } from '../../src/system/errors.ts';

const slurm = (id: number, min: number, max: number, count = max - min + 1) => ({
  SLURM_ARRAY_TASK_ID: String(id),
  SLURM_ARRAY_TASK_MIN: String(min),
  SLURM_ARRAY_TASK_MAX: String(max),
  SLURM_ARRAY_TASK_COUNT: String(count),
});

test('the shard is named by --shard, a task of Slurm or an index of Kubernetes', () => {
  assert.deepEqual(whichShard({ shard: '3/8' }, {}), { number: 3, of: 8 });
  assert.deepEqual(whichShard({ shard: '3/8', shards: 8 }, {}), { number: 3, of: 8 });
  // --shard counts, whatever the scheduler says.
  assert.deepEqual(whichShard({ shard: '1/1' }, { ...slurm(3, 0, 7), JOB_COMPLETION_INDEX: '2' }), {
    number: 1,
    of: 1,
  });
  for (const first of [0, 1, 5])
    assert.deepEqual(
      [0, 1, 2].map((i) => whichShard({}, slurm(first + i, first, first + 2))),
      [1, 2, 3].map((number) => ({ number, of: 3 })),
    );
  // Some tasks of an array again: sbatch --array=2,7
  assert.deepEqual(whichShard({ shards: 8 }, slurm(7, 2, 7, 2)), { number: 7, of: 8 });
  assert.deepEqual(whichShard({ shards: 8 }, { JOB_COMPLETION_INDEX: '0' }), { number: 1, of: 8 });
  assert.deepEqual(whichShard({ shards: 8 }, { JOB_COMPLETION_INDEX: '7' }), { number: 8, of: 8 });
});

test('what names no shard is refused with a sentence', () => {
  const refused = (options: Parameters<typeof whichShard>[0], env: NodeJS.ProcessEnv, message: RegExp) =>
    assert.throws(
      () => whichShard(options, env),
      (error) => error instanceof UserError && message.test(error.message),
    );
  refused({}, {}, /--shard: is missing.*such as --shard 3\/8/);
  for (const shard of ['3', '0/8', '9/8', '-1/8', '1/0', '1.5/2', 'a/b', '3/8/9'])
    refused({ shard }, {}, /^--shard .*such as --shard 3\/8/);
  refused({ shard: '3/8', shards: 9 }, {}, /another number of shards than --shards 9/);
  refused({}, slurm(7, 2, 7, 2), /some numbers are left out; say with --shards/);
  refused({}, { SLURM_ARRAY_TASK_ID: '1' }, /SLURM_ARRAY_TASK_COUNT: is not set/);
  refused({ shards: 8 }, slurm(0, 0, 7), /SLURM_ARRAY_TASK_ID 0 with --shards 8: .*from 1 to 8/);
  refused({}, { JOB_COMPLETION_INDEX: '0' }, /add --shards with the number in spec.completions/);
  refused({ shards: 4 }, { JOB_COMPLETION_INDEX: '4' }, /from 1 to 4/);
  refused({ shards: 4 }, { JOB_COMPLETION_INDEX: 'one' }, /"one" is not a whole number/);
});

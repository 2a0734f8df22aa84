import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mock, test } from 'node:test';
import { runFolder } from '../../src/run/folder.ts';
import { liveSession, NotReady } from '../../src/serve/live-session.ts';
import { runStatus } from '../../src/serve/status.ts';
import { UserError } from '../../src/system/errors.ts';
import { writeFileAtomic } from '../../src/system/files.ts';
import { temporaryFolder } from '../support/tiny.ts';

test('a model is opened once, and again when its checkpoint, its index or the settings change', async () => {
  const run = runFolder(temporaryFolder('serve'));
  writeFileAtomic(run.config, 'seed: 1\n');
  let now = 0;
  mock.method(performance, 'now', () => now);
  let opened = 0;
  const closed: number[] = [];
  let trouble: Error | undefined;
  const said: string[] = [];
  const live = liveSession(
    run,
    async () => {
      if (trouble) throw trouble;
      const number = ++opened;
      return { number, close: () => void closed.push(number) };
    },
    (line) => said.push(line),
  );
  const get = async () => {
    now += 1001;
    return (await live.get()).number;
  };

  trouble = new UserError('no such weights; run "realm finetune-qa"');
  await assert.rejects(get(), (error) => error instanceof NotReady && error.message === trouble?.message);
  assert.equal(live.missing(), trouble.message);

  trouble = undefined;
  const pointer = join(run.checkpoint('finetune-qa'), 'latest');
  writeFileAtomic(pointer, 'step-0000010\n');
  assert.deepEqual([await get(), await get(), live.missing()], [1, 1, undefined]);
  writeFileAtomic(pointer, 'step-0000020\n');
  assert.deepEqual([(await live.get()).number, await get()], [1, 2]); // within a second it does not check again
  writeFileAtomic(join(run.index, 'current'), 'qa-0000020\n');
  assert.equal(await get(), 3);
  writeFileAtomic(run.config, 'seed: 2\n');
  assert.equal(await get(), 4);
  assert.deepEqual(closed, [1, 2, 3]);

  // The checkpoint has no index yet: the previous model keeps answering, and the new one is tried again later.
  trouble = new UserError('the index is of another model');
  writeFileAtomic(pointer, 'step-0000030\n');
  assert.equal(await get(), 4);
  assert.match(said.at(-1)!, /the previous model still answers questions: the index is of another model/);
  trouble = undefined;
  assert.equal(await get(), 4);
  now += 10_000;
  assert.equal(await get(), 5);

  trouble = new TypeError('a bug');
  writeFileAtomic(pointer, 'step-0000040\n');
  await assert.rejects(get(), TypeError);
  await live.close();
  assert.deepEqual(closed, [1, 2, 3, 4, 5]);
});

test('calls at the same time wait for one model, and none gets the one before after it is closed', async () => {
  const run = runFolder(temporaryFolder('serve'));
  writeFileAtomic(run.config, 'seed: 1\n');
  let now = 0;
  mock.method(performance, 'now', () => now);
  let opened = 0;
  const live = liveSession(
    run,
    async () => {
      await new Promise((resolve) => setImmediate(resolve));
      return { number: ++opened, close() {} };
    },
    () => {},
  );
  const three = async () =>
    (await Promise.all([live.get(), live.get(), live.get()])).map(({ number }) => number);
  now += 1001;
  assert.deepEqual(await three(), [1, 1, 1]);
  writeFileAtomic(run.config, 'seed: 2\n');
  now += 1001;
  assert.deepEqual(await three(), [2, 2, 2]);
  assert.equal(opened, 2);
});

test('the status has the last step that each stage logged', () => {
  const run = runFolder(temporaryFolder('serve'));
  writeFileAtomic(run.config, 'ict: { steps: 70 }\nqa: { steps: 30 }\n');
  mkdirSync(join(run.dir, 'metrics'));
  writeFileSync(
    run.metrics('ict-warmup'),
    '{"step":60,"loss":2}\n{"step":70,"loss":1.5,"gradientNorm":null,"seconds":4}\n',
  );
  const long = '{"step":5,"loss":9}\n'.repeat(10_000);
  writeFileSync(
    run.metrics('finetune-qa'),
    `${long}{"step":10,"loss":3}\n{"step":10,"score":0.5}\n\n{"step":20,"lo`,
  );
  assert.deepEqual(runStatus(run).stages, [
    { stage: 'ict-warmup', step: 70, steps: 70, figures: { loss: 1.5, seconds: 4 } },
    { stage: 'finetune-qa', step: 10, steps: 30, figures: { loss: 3 } },
  ]);
  writeFileAtomic(run.config, 'ict: { stepz: 70 }\n');
  assert.throws(() => runStatus(run), UserError);
});

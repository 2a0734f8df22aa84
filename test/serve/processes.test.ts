import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Busy } from '../../src/serve/batches.ts';
import { type Processes, startProcesses } from '../../src/serve/processes.ts';
import { isAlive } from '../../src/system/alive.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const ENTRY = join(import.meta.dirname, '../fixtures/serve/process.mjs');

/** A question, the text of the model that answered it, the number of documents, and the process. */
type Answer = [string, string, number, number];

/** Two processes over a folder of their own with this model, what they said, and their ids in the order of their starts. */
async function two(model: string) {
  const runDir = temporaryFolder('processes');
  const write = (text: string) => writeFileSync(join(runDir, 'model'), text);
  write(model);
  const said: string[] = [];
  const times = { backOff: 20, grace: 5000 };
  const start = { runDir, engine: 'fake', threads: 3 };
  const processes = await startProcesses<Answer>(ENTRY, 2, start, (line) => said.push(line), times);
  after(() => processes.close());
  const started = () => readFileSync(join(runDir, 'started'), 'utf8').trim().split('\n').map(Number);
  return { processes, write, said, started };
}

/** The processes that answer when so many questions are asked at the same time. */
async function answering(opened: Awaited<ReturnType<Processes<Answer>['open']>>): Promise<Set<number>> {
  const answers = await Promise.all(Array.from({ length: 8 }, () => opened.ask(['who?'])));
  return new Set(answers.map(([[, , , pid]]) => pid));
}

/** Waits until `holds`. */
async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(10);
}

test('questions are shared among the processes, and all of them change the model together', async () => {
  const { processes, write, said, started } = await two('one');
  assert.equal(processes.engine, 'engine: fake, 3 threads');
  const first = await processes.open();
  assert.deepEqual(await answering(first), new Set(started()));
  const [[question, model, documents]] = await first.ask(['who?'], {
    documents: [{ title: 'a', text: 'b' }],
  });
  assert.deepEqual([question, model, documents], ['who?', 'one', 1]);

  write('two');
  assert.equal((await first.ask(['who?']))[0][1], 'one', 'a model stays what it was when it was opened');
  const second = await processes.open();
  await first.close();
  const answers = await Promise.all(Array.from({ length: 8 }, () => second.ask(['who?'])));
  assert.deepEqual(new Set(answers.map(([[, text]]) => text)), new Set(['two']));
  await assert.rejects(first.ask(['who?']), Busy);
  assert.equal(new Set(answers.map(([[, , , pid]]) => pid)).size, 2);
  assert.deepEqual(said, []);

  await processes.close();
  assert.deepEqual(started().filter(isAlive), []);
});

test("a process's errors are those of the call: a UserError, or a bug with its stack", async () => {
  const { processes, write } = await two('one');
  const opened = await processes.open();
  await assert.rejects(
    opened.ask(['bad']),
    (error) => error instanceof UserError && error.message === 'a bad question',
  );
  await assert.rejects(
    opened.ask(['a bug']),
    (error) =>
      error instanceof Error && !(error instanceof UserError) && /process\.mjs/.test(error.stack ?? ''),
  );
  write('damaged');
  await assert.rejects(
    processes.open(),
    (error) => error instanceof UserError && error.message === 'the model is damaged',
  );
  assert.equal((await opened.ask(['who?']))[0][1], 'one', 'the model before still answers');
});

test('a process that dies is replaced; its questions are refused in a sentence, and the others are answered', async () => {
  const { processes, said, started } = await two('one');
  const opened = await processes.open();
  await assert.rejects(
    opened.ask(['deadly']),
    (error) =>
      error instanceof Busy &&
      error.message === 'the process that worked on the answer ended (killed by SIGKILL)',
  );
  assert.equal((await answering(opened)).size, 1, 'the other one answers meanwhile');
  assert.match(
    said[0],
    /^a process that answers questions ended \(killed by SIGKILL\); it is replaced in 0\.02 s$/,
  );
  await until(async () => (await answering(opened)).size === 2);
  assert.equal(started().length, 3);

  // Both at once: questions are refused until one is back.
  const dead = await Promise.allSettled([opened.ask(['deadly']), opened.ask(['deadly'])]);
  assert.deepEqual(
    dead.map((one) => one.status === 'rejected' && one.reason instanceof Busy),
    [true, true],
  );
  await assert.rejects(
    opened.ask(['who?']),
    (error) =>
      error instanceof Busy && error.message === 'the processes that answer questions are being replaced',
  );
  await until(() =>
    opened.ask(['who?']).then(
      () => true,
      () => false,
    ),
  );
});

test('a process that replaces another does not answer with a newer model than the others', async () => {
  const { processes, write, started } = await two('one');
  const first = await processes.open();
  write('two');
  await assert.rejects(first.ask(['deadly']), Busy);
  await until(() => started().length === 3);
  await sleep(200);
  const answers = await Promise.all(Array.from({ length: 8 }, () => first.ask(['who?'])));
  assert.deepEqual(new Set(answers.map(([[, text]]) => text)), new Set(['one']));
  const second = await processes.open();
  assert.equal((await answering(second)).size, 2, 'the new one is opened in it, too');
});

test('a process that replaces another and finds no model to open answers from the next one on', async () => {
  const { processes, write, said, started } = await two('one');
  const first = await processes.open();
  write('damaged');
  await assert.rejects(first.ask(['deadly']), Busy);
  await until(() => started().length === 3);
  await sleep(300);
  assert.equal((await answering(first)).size, 1);
  assert.equal(started().length, 3, 'it is not replaced again');
  write('two');
  assert.equal((await answering(await processes.open())).size, 2);
  assert.equal(said.length, 1);
});

test('a process that ends again and again is replaced after a wait that is doubled each time', async () => {
  const { processes, write, said, started } = await two('one');
  const opened = await processes.open();
  write('ends');
  await assert.rejects(opened.ask(['deadly']), Busy);
  await until(async () => {
    await opened.ask(['who?']);
    return said.length === 4;
  });
  assert.deepEqual(
    said.map((line) => /in ([\d.]+) s$/.exec(line)?.[1]),
    ['0.02', '0.04', '0.08', '0.16'],
  );
  write('one');
  await until(async () => (await answering(opened)).size === 2);
  assert.equal(started().length, 6);
});

test('a model that ends every process is refused, and the next one is opened in their replacements', async () => {
  const { processes, write, said } = await two('deadly');
  await assert.rejects(
    processes.open(),
    (error) => error instanceof Busy && /ended \(exit code 3\)$/.test(error.message),
  );
  write('two');
  await until(() =>
    processes.open().then(
      async (opened) => (await answering(opened)).size === 2,
      () => false,
    ),
  );
  assert.equal(said.length, 2);
});

test('a process whose engine does not start is an error, and leaves none behind', async () => {
  await assert.rejects(
    two('no engine'),
    (error) => error instanceof UserError && error.message === 'the engine does not start',
  );
});

test('a process that ends when it starts is an error with a remedy', async () => {
  await assert.rejects(
    two('ends'),
    (error) =>
      error instanceof UserError &&
      /ended when it started \(exit code 4\); if memory is short, use --threads 1$/.test(error.message),
  );
});

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, mock, test } from 'node:test';
import {
  type Published,
  type Refresher,
  type RefresherOptions,
  type RefresherTimes,
  startRefresher,
} from '../../src/refresher/client.ts';
import { isAlive } from '../../src/system/alive.ts';

const CHILD = join(import.meta.dirname, '../fixtures/refresher/child.mjs');
const root = mkdtempSync(join(tmpdir(), 'realm-refresher-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** Milliseconds; a child starts in less time, even on a busy machine. */
const TIMES: RefresherTimes = { silence: 600_000, secondLook: 10, backOff: 4, grace: 600_000 };

let refresher: Refresher;
afterEach(() => {
  mock.timers.reset();
  return refresher.stop();
});

/** Silence, in milliseconds, in tests with mocked timers. */
const SILENCE = 4000;

const waitFor = setTimeout; // the real one, while timers are mocked
const stopClock = () => mock.timers.enable({ apis: ['setTimeout'] });

/** Lets that much mocked time pass, and then the time of the second look. */
function pass(milliseconds: number): void {
  mock.timers.tick(milliseconds);
  mock.timers.tick(TIMES.secondLook);
}

/** Lets the messages arrive that a child has sent. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

const LIMITS = { rows: 7, dimensions: 4, maxFailures: 5 };

/** Starts the fake child in its own run folder, and records what is reported to the trainer. */
function startFake(name: string, times: Partial<RefresherTimes> = {}, more: Partial<RefresherOptions> = {}) {
  const run = join(mkdtempSync(join(root, 'run-')), name);
  mkdirSync(run);
  const published: Published[] = [];
  const progress: number[][] = [];
  const failures: string[] = [];
  let onFailure = (_: string) => {};
  refresher = startRefresher(
    run,
    {
      engine: 'none',
      nice: 5,
      threads: 2,
      queue: null,
      ...LIMITS,
      onPublished: (p) => published.push(p),
      onProgress: (done, total) => progress.push([done, total]),
      onFailure: (message) => {
        failures.push(message);
        onFailure(message);
      },
      ...more,
    },
    CHILD,
    { ...TIMES, ...times },
  );
  const lines = () => {
    const path = join(run, 'received.jsonl');
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  };
  return {
    run,
    published,
    progress,
    failures,
    received: lines,
    starts: () => lines().filter((line) => line.type === 'start'),
    /** Steps requested from a child, in order. */
    requested: () => lines().flatMap((line) => (line.type === 'refresh' ? [line.step] : [])),
    go: () => writeFileSync(join(run, 'go'), ''),
    /** Whether the child has recorded that it sent a message. */
    sent: () => existsSync(join(run, 'sent')),
    whenFailing: (work: (message: string) => void) => {
      onFailure = work;
    },
  };
}

async function until(happened: () => boolean): Promise<void> {
  while (!happened()) await new Promise((resolve) => waitFor(resolve, 5));
}

/** Living child processes of this process. */
function children(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'ProcessWrap').length;
}

test('a request is published, with progress reports in between', async () => {
  const { run, published, progress, failures, received } = startFake('published');
  assert.equal(refresher.busy, false);
  refresher.request({ snapshot: 'good', step: 500 }); // before the child is up
  assert.equal(refresher.busy, true);
  await until(() => published.length === 1);
  assert.equal(refresher.busy, false);
  assert.deepEqual(published, [{ name: 'step-500', step: 500, seconds: 0.5, rows: 7 }]);
  assert.deepEqual(progress, [[3, 7]]);
  refresher.request({ snapshot: 'good', step: 600 });
  await until(() => published.length === 2);
  const [{ pid: _, ...start }, ...requests] = received();
  assert.deepEqual(start, {
    type: 'start',
    runDir: run,
    engine: 'none',
    nice: 5,
    threads: 2,
    queue: null,
  });
  assert.deepEqual(requests, [
    { type: 'refresh', snapshot: 'good', step: 500 },
    { type: 'refresh', snapshot: 'good', step: 600 },
  ]);
  assert.deepEqual(failures, []);
});

test('a newer request replaces a waiting one, not the one in progress', async () => {
  const { published, requested, go } = startFake('newer');
  refresher.request({ snapshot: 'slow', step: 1 });
  await until(() => requested().length === 1);
  refresher.request({ snapshot: 'good', step: 2 });
  refresher.request({ snapshot: 'good', step: 3 });
  go();
  await until(() => !refresher.busy);
  assert.deepEqual(
    published.map((p) => p.step),
    [1, 3],
  );
  assert.deepEqual(requested(), [1, 3]);
});

test('a child that dies is reported and restarted, and gets the same request again', async () => {
  const { published, failures, starts, requested } = startFake('died');
  refresher.request({ snapshot: 'deadly once', step: 1 });
  await until(() => published.length === 1);
  assert.deepEqual(failures, ['the refresher died (exit code 3); it restarts in 0.004 s']);
  assert.equal(new Set(starts().map(({ pid }) => pid)).size, 2);
  assert.deepEqual(requested(), [1, 1]);
  // An index was published in between: the wait starts again at its first length.
  refresher.request({ snapshot: 'deadly once', step: 2 });
  await until(() => published.length === 2);
  assert.equal(failures[1], failures[0]);
});

test('a restarted child gets the newest request, not the one at which its predecessor died', async () => {
  const { published, failures, requested, go } = startFake('newest');
  refresher.request({ snapshot: 'deadly', step: 1 });
  await until(() => requested().length === 1);
  refresher.request({ snapshot: 'good', step: 2 });
  go();
  await until(() => published.length === 1);
  assert.deepEqual(requested(), [1, 2]);
  assert.equal(failures.length, 1);
});

test('a child killed from outside is restarted', async () => {
  const { published, failures, starts } = startFake('killed');
  refresher.request({ snapshot: 'good', step: 1 });
  await until(() => published.length === 1);
  process.kill(starts()[0].pid, 'SIGKILL');
  await until(() => starts().length === 2);
  assert.match(failures[0], /died \(killed by SIGKILL\)/);
  refresher.request({ snapshot: 'good', step: 2 });
  await until(() => published.length === 2);
});

test('a child that dies every time is not restarted after the maximum of deaths; each wait is twice the one before', async () => {
  const { failures, starts } = startFake('dead');
  refresher.request({ snapshot: 'good', step: 1 });
  await until(() => !refresher.busy);
  assert.deepEqual(failures, [
    ...[0.004, 0.008, 0.016, 0.032].map(
      (wait) => `the refresher died (exit code 9); it restarts in ${wait} s`,
    ),
    'the refresher died 5 times without a new index (exit code 9); it is not restarted',
  ]);
  refresher.request({ snapshot: 'good', step: 2 });
  assert.equal(refresher.busy, false);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.deepEqual([starts().length, children()], [5, 0]);
});

test('giving up the child is reported separately, and the wait before a restart is at most a minute', async () => {
  const givenUp: string[] = [];
  const { failures } = startFake(
    'dead',
    {},
    { maxFailures: 2, onGivenUp: (message) => givenUp.push(message) },
  );
  await until(() => givenUp.length === 1);
  assert.deepEqual(failures, ['the refresher died (exit code 9); it restarts in 0.004 s']);
  assert.deepEqual(givenUp, [
    'the refresher died 2 times without a new index (exit code 9); it is not restarted',
  ]);
  const late = startFake('dead', { backOff: 1e6 });
  await until(() => late.failures.length === 1);
  assert.match(late.failures[0], /restarts in 60 s$/);
});

for (const signal of ['SIGKILL', 'SIGABRT']) {
  test(`a child killed by ${signal}, as when memory runs out, is reported with advice`, async () => {
    const { published, failures } = startFake(signal);
    refresher.request({ snapshot: signal === 'SIGKILL' ? 'killed once' : 'aborted once', step: 1 });
    await until(() => published.length === 1);
    assert.deepEqual(failures, [
      `the refresher died (killed by ${signal}); it restarts in 0.004 s; if memory ran out, lower index.tokensPerBatch`,
    ]);
  });
}

const PUBLISHED = { type: 'published', name: 'step-1', step: 1, seconds: 1, rows: 7 };

/** Invalid messages; an `index` is written along with the message, with these fields wrong in its manifest. */
const NONSENSE = [
  [null, 'published', {}],
  [{ type: 'hello' }, { type: 'progress', done: 'all', total: 7 }, { type: 'alive', quiet: 1e300 }],
  [{ type: 'failed' }, { ...PUBLISHED, more: 1 }, { ...PUBLISHED, name: 'step-9' }],
  [
    { index: {}, step: 2 },
    { index: {}, name: '../step-1' },
    { index: {}, name: 'current' },
  ],
  [{ index: { step: 4 } }, { index: { dimensions: 5 } }, { index: { rows: 6 }, rows: 6 }],
  [{ index: {}, rows: 6 }, { index: { format: 1 } }, { index: { format: 9 } }],
];

for (const messages of NONSENSE) {
  test(`a child that sends invalid messages is killed and restarted: ${JSON.stringify(messages)}`, async () => {
    process.env.MESSAGES = JSON.stringify(messages);
    const { published, progress, failures } = startFake('invalid', { backOff: 60_000 });
    refresher.request({ snapshot: 'invalid', step: 1 });
    await until(() => failures.length === 1);
    assert.deepEqual(failures, ['the refresher died (3 invalid messages); it restarts in 60 s']);
    assert.deepEqual([published, progress, children()], [[], [], 0]);
    assert.equal(refresher.busy, true, 'the request waits for the next child');
  });
}

test('two invalid messages are tolerated', async () => {
  process.env.MESSAGES = JSON.stringify([{ type: 'hello' }, PUBLISHED]);
  const { run, published, failures, go, requested } = startFake('few');
  refresher.request({ snapshot: 'invalid', step: 1 });
  await until(() => requested().length === 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(!existsSync(join(run, 'index')));
  go();
  await until(() => published.length === 1);
  assert.deepEqual(published, [{ name: 'step-1', step: 1, seconds: 0.5, rows: 7 }]);
  assert.deepEqual(failures, []);
});

test('a child that announced it may be silent for longer', async () => {
  stopClock();
  const { published, failures, starts, sent, go } = startFake('quiet', { silence: SILENCE });
  refresher.request({ snapshot: 'quiet', step: 1 });
  await until(sent);
  await turns();
  pass(SILENCE + 99_000);
  go();
  await until(() => published.length === 1 || failures.length > 0);
  assert.deepEqual([starts().length, failures], [1, []]);
});

test('the child is killed if the trainer exits without stopping it', async () => {
  const run = mkdtempSync(join(root, 'run-'));
  const client = join(import.meta.dirname, '../../src/refresher/client.ts');
  const script = `
    const { startRefresher } = await import(${JSON.stringify(client)});
    const options = { engine: 'none', nice: 0, threads: 1, rows: 7, dimensions: 4, maxFailures: 5 };
    startRefresher(${JSON.stringify(run)}, { ...options, onPublished() {}, onFailure() {} }, ${JSON.stringify(CHILD)})
      .request({ snapshot: 'endless', step: 1 });
    const { existsSync, readFileSync } = await import('node:fs');
    const received = ${JSON.stringify(join(run, 'received.jsonl'))};
    setInterval(() => {
      if (existsSync(received) && readFileSync(received, 'utf8').includes('endless')) process.exit(7);
    }, 5);`;
  const trainer = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    cwd: join(import.meta.dirname, '../..'),
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  assert.deepEqual(await once(trainer, 'exit'), [7, null]);
  const [{ pid }] = readFileSync(join(run, 'received.jsonl'), 'utf8')
    .split('\n', 1)
    .map((line) => JSON.parse(line));
  await until(() => !isAlive(pid));
});

test('a child that hangs during a refresh is killed and restarted', async () => {
  stopClock();
  const { published, failures, starts, requested, whenFailing } = startFake('hung', { silence: SILENCE });
  await until(() => starts().length === 1);
  const [{ pid }] = starts();
  whenFailing(() => refresher.request({ snapshot: 'good', step: 2 }));
  refresher.request({ snapshot: 'endless', step: 1 });
  await until(() => requested().length === 1);
  pass(SILENCE - 1);
  assert.ok(isAlive(pid));
  pass(1);
  await until(() => failures.length === 1);
  assert.ok(!isAlive(pid));
  mock.timers.tick(TIMES.backOff);
  await until(() => published.length === 1);
  assert.match(failures[0], /died \(no heartbeat for 4 s\)/);
  assert.equal(requested().at(-1), 2);
});

test('a hanging child is detected even if new requests keep coming', async () => {
  stopClock();
  const { published, failures, starts, requested } = startFake('hung', { silence: SILENCE });
  await until(() => starts().length === 1);
  refresher.request({ snapshot: 'endless', step: 1 });
  await until(() => requested().length === 1);
  for (let step = 2; step < 32; step++) {
    refresher.request({ snapshot: 'good', step });
    mock.timers.tick(SILENCE / 20);
  }
  await until(() => failures.length === 1);
  mock.timers.tick(TIMES.backOff);
  await until(() => published.length > 0);
  assert.match(failures[0], /no heartbeat/);
  assert.deepEqual(requested(), [1, 31]);
});

test('a child that hangs before it is ready is killed and restarted', async () => {
  stopClock();
  const { published, failures, starts } = startFake('stuck', { silence: SILENCE });
  refresher.request({ snapshot: 'good', step: 1 });
  await until(() => starts().length === 1);
  pass(SILENCE);
  await until(() => failures.length === 1);
  mock.timers.tick(TIMES.backOff);
  await until(() => published.length === 1);
  assert.match(failures[0], /died \(no heartbeat/);
  assert.ok(!isAlive(starts()[0].pid));
});

test('a child that keeps reporting progress may take longer than the allowed silence', async () => {
  stopClock();
  const { published, progress, failures, starts, requested, go } = startFake('long', { silence: SILENCE });
  refresher.request({ snapshot: 'long', step: 1 });
  for (let i = 0; i < 4; i++) {
    const { length } = progress;
    await until(() => progress.length > length || failures.length > 0);
    pass(0.7 * SILENCE);
  }
  go();
  await until(() => published.length === 1 || failures.length > 0);
  assert.deepEqual([starts().length, requested(), failures], [1, [1], []]);
});

test('a child that sent a message while the trainer was blocked does not count as hanging', async () => {
  stopClock();
  const { published, failures, starts, requested, sent, go } = startFake('blocked', { silence: SILENCE });
  refresher.request({ snapshot: 'slow', step: 1 });
  await until(() => requested().length > 0);
  go();
  const block = new Int32Array(new SharedArrayBuffer(4));
  while (!sent()) Atomics.wait(block, 0, 0, 5); // a long training step: no message is read
  mock.timers.tick(SILENCE + 200);
  await turns();
  mock.timers.tick(TIMES.secondLook);
  await until(() => published.length === 1 || failures.length > 0);
  refresher.request({ snapshot: 'good', step: 2 });
  await until(() => published.length === 2 || failures.length > 0);
  assert.deepEqual([starts().length, failures], [1, []]);
});

test('an idle child may be silent for any length of time', async () => {
  stopClock();
  const { published, failures, starts } = startFake('idle', { silence: SILENCE });
  refresher.request({ snapshot: 'good', step: 1 });
  await until(() => published.length === 1);
  pass(SILENCE + 200);
  pass(SILENCE + 200);
  refresher.request({ snapshot: 'good', step: 2 });
  await until(() => published.length === 2 || failures.length > 0);
  assert.deepEqual([starts().length, failures], [1, []]);
});

test('a failed refresh is reported, not repeated, and does not restart the child', async () => {
  const { published, failures, starts, requested } = startFake('failed');
  refresher.request({ snapshot: 'bad', step: 1 });
  await until(() => failures.length === 1);
  assert.deepEqual(failures, ['no such weights']);
  assert.equal(refresher.busy, false);
  refresher.request({ snapshot: 'good', step: 2 });
  await until(() => published.length === 1);
  assert.deepEqual(requested(), [1, 2]);
  assert.equal(starts().length, 1);
});

test('stop resolves when the child has ended, and nothing happens afterwards', async () => {
  const { published, failures, received, starts, requested } = startFake('stopped');
  refresher.request({ snapshot: 'slow', step: 1 });
  await until(() => requested().length === 1);
  refresher.request({ snapshot: 'good', step: 2 });
  await Promise.all([refresher.stop(), refresher.stop()]);
  assert.ok(!isAlive(starts()[0].pid));
  assert.equal(received().at(-1).type, 'stop');
  refresher.request({ snapshot: 'good', step: 3 });
  assert.equal(refresher.busy, false);
  await refresher.stop();
  assert.deepEqual([starts().length, requested(), published, failures], [1, [1], [], []]);
});

test('a child that does not stop is killed after the grace period, and its last messages are ignored', async () => {
  stopClock();
  const { published, failures, received, starts, sent } = startFake('stubborn', { grace: 1500 });
  await until(() => starts().length === 1);
  const stopped = refresher.stop();
  await until(sent);
  await turns();
  mock.timers.tick(1499);
  assert.ok(isAlive(starts()[0].pid));
  mock.timers.tick(1);
  await stopped;
  assert.ok(!isAlive(starts()[0].pid));
  assert.equal(received().at(-1).type, 'stop');
  assert.deepEqual([published, failures], [[], []]);
});

test('a dead child that waits for its restart is not restarted after stop', async () => {
  stopClock();
  const { failures, starts } = startFake('dead', { backOff: 100 });
  await until(() => failures.length === 1);
  assert.equal(children(), 0);
  await refresher.stop();
  mock.timers.tick(200);
  assert.deepEqual([starts().length, children()], [1, 0]);
});

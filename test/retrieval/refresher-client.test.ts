import assert from 'node:assert/strict';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import {
  type Published,
  type Refresher,
  type RefresherTimes,
  startRefresher,
} from '../../src/retrieval/refresher-client.ts';
import { temporaryFolder } from '../support/tiny.ts';

const CHILD = join(import.meta.dirname, '../fixtures/refresher/child.ts');
const folder = temporaryFolder('refresher');

interface Watched {
  refresher: Refresher;
  times: RefresherTimes;
  published: Published[];
  failures: string[];
  /** Processes that took up a request, and the steps asked of them. */
  begun: { pid: number; step: number }[];
  /** Called at each message and failure, for what a test does in between. */
  on: { begun?(): void; failure?(): void };
}

const open: Refresher[] = [];
afterEach(() => Promise.all(open.splice(0).map((refresher) => refresher.stop())));

/** Starts the child of the fixtures that behaves as `behaviour` says. */
function start(behaviour: string, times: Partial<RefresherTimes> = {}): Watched {
  const watched: Omit<Watched, 'refresher'> = {
    times: { silence: 60_000, secondLook: 100, backOff: 1, grace: 60_000, ...times },
    published: [],
    failures: [],
    begun: [],
    on: {},
  };
  const refresher = startRefresher(
    behaviour,
    {
      engine: 'wasm',
      niceness: 19,
      threads: 1,
      onPublished: (p) => watched.published.push(p),
      onProgress: (pid, step) => {
        watched.begun.push({ pid, step });
        watched.on.begun?.();
      },
      onFailure: (message) => {
        watched.failures.push(message);
        watched.on.failure?.();
      },
    },
    CHILD,
    watched.times,
  );
  open.push(refresher);
  return Object.assign(watched, { refresher });
}

const ask = (step: number) => ({ snapshot: join(folder, `${step}-${Math.random()}`), step });
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 30_000; !condition(); await sleep(5))
    if (Date.now() > end) throw new Error(`never: ${condition}`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('a request, even one from before the child is ready, is answered by a published index', async () => {
  const { refresher, published, failures } = start('works');
  assert.equal(refresher.busy, false);
  refresher.request(ask(7));
  assert.equal(refresher.busy, true);
  await until(() => !refresher.busy);
  refresher.request(ask(8));
  await until(() => !refresher.busy);
  assert.deepEqual(
    published.map(({ step, seconds, rows }) => ({ step, seconds, rows })),
    [
      { step: 7, seconds: 1, rows: 2 },
      { step: 8, seconds: 1, rows: 2 },
    ],
  );
  assert.deepEqual(JSON.parse(published[0].name), {
    type: 'start',
    runDir: 'works',
    engine: 'wasm',
    niceness: 19,
    threads: 1,
  });
  assert.deepEqual(failures, []);
});

test('a newer request replaces the one that waits, and not the one in work', async () => {
  const { refresher, published, begun } = start('takes its time');
  refresher.request(ask(1));
  await until(() => begun.length === 1);
  refresher.request(ask(2));
  refresher.request(ask(3));
  await until(() => !refresher.busy);
  assert.deepEqual(
    published.map((p) => p.step),
    [1, 3],
  );
});

test('a child that dies is told and started again, with the request it had', async () => {
  const { refresher, published, failures, begun } = start('dies once');
  refresher.request(ask(1));
  await until(() => published.length === 1);
  assert.deepEqual(
    begun.map((b) => b.step),
    [1, 1],
  );
  assert.notEqual(begun[0].pid, begun[1].pid);
  assert.equal(failures.length, 1);
  assert.match(failures[0], /the refresher died \(killed by SIGTERM\); it is started again in 0\.001 s/);
  assert.equal(refresher.busy, false);
});

test('after a death the newest request goes first, the older one is gone', async () => {
  const { refresher, published, begun, on } = start('dies once');
  const newer = ask(2);
  on.begun = () => {
    if (begun.length === 1) refresher.request(newer);
  };
  refresher.request(ask(1));
  // The second request kills its first child too.
  await until(() => published.length === 1);
  assert.deepEqual(
    begun.map((b) => b.step),
    [1, 2, 2],
  );
  assert.deepEqual(published[0].step, 2);
});

test('after five deaths in a row it is given up, and requests do nothing', async () => {
  const { refresher, failures, published } = start('dies at the start');
  refresher.request(ask(1));
  await until(() => failures.length === 6);
  assert.deepEqual(
    failures.slice(0, 5).map((f) => /\(exit code 3\); it is started again in (.*) s/.exec(f)?.[1]),
    ['0.001', '0.002', '0.004', '0.008', '0.016'],
  );
  assert.match(failures[5], /died 6 times without a new index \(exit code 3\); it is not started again/);
  assert.equal(refresher.busy, false);
  refresher.request(ask(2));
  assert.equal(refresher.busy, false);
  await sleep(100);
  assert.equal(failures.length, 6);
  assert.deepEqual(published, []);
  await refresher.stop();
});

test('an index in between makes the count of deaths begin anew', async () => {
  const { refresher, failures, published } = start('dies once');
  for (const step of [1, 2]) {
    refresher.request(ask(step));
    await until(() => published.length === step);
  }
  // Each is the first death: the wait did not double.
  assert.deepEqual(
    failures.map((f) => /again in (.*) s/.exec(f)?.[1]),
    ['0.001', '0.001'],
  );
});

test('a child that hangs in its work is killed and started again', async () => {
  const { refresher, failures, published, begun, times, on } = start('hangs once');
  // Silence counts once the child is at work: starting up may take its time.
  on.begun = () => {
    if (begun.length === 1) times.silence = 200;
  };
  on.failure = () => {
    times.silence = 60_000;
  };
  refresher.request(ask(1));
  await until(() => published.length === 1);
  assert.equal(failures.length, 1);
  assert.match(failures[0], /the refresher died \(no sign of life for 0\.2 s\); it is started again/);
  assert.ok(!isAlive(begun[0].pid));
});

test('a child that hangs before it is ready is killed as well', async () => {
  const { failures, times, on } = start('hangs at the start', { silence: 100, grace: 100 });
  on.failure = () => {
    times.silence = 60_000;
  };
  await until(() => failures.length === 1);
  assert.match(failures[0], /no sign of life/);
});

test('messages that lie unread while this process computes are signs of life', async () => {
  const { refresher, failures, published, begun, times, on } = start('keeps telling', { secondLook: 1000 });
  on.begun = () => {
    if (begun.length > 1) return;
    times.silence = 800;
    setTimeout(() => {
      for (const end = Date.now() + 1600; Date.now() < end; );
    }, 0);
  };
  refresher.request(ask(1));
  await until(() => published.length === 1 || failures.length > 0);
  assert.deepEqual(failures, []);
});

test('a refresh that fails is told and does not end the child', async () => {
  const { refresher, failures, published, begun } = start('fails once');
  const request = ask(1);
  refresher.request(request);
  await until(() => !refresher.busy);
  assert.deepEqual(failures, ['no such weights']);
  assert.deepEqual(published, []);
  refresher.request(request);
  await until(() => !refresher.busy);
  assert.equal(published.length, 1);
  assert.equal(begun[0].pid, begun[1].pid);
  assert.deepEqual(failures.length, 1);
});

// Killed only after the grace time, it would take a minute.
test('stop ends the child, once, and nothing is told or taken after it', { timeout: 30_000 }, async () => {
  const { refresher, begun, failures, published } = start('takes its time');
  refresher.request(ask(1));
  await until(() => begun.length === 1);
  assert.equal(refresher.stop(), refresher.stop());
  assert.equal(refresher.busy, false);
  refresher.request(ask(2));
  assert.equal(refresher.busy, false);
  await refresher.stop();
  assert.ok(!isAlive(begun[0].pid));
  await sleep(50);
  assert.deepEqual([failures, published], [[], []]);
});

test('a child that does not stop when asked is killed', async () => {
  const { refresher, begun } = start('stubborn', { grace: 100 });
  refresher.request(ask(1));
  await until(() => begun.length === 1);
  await refresher.stop();
  assert.ok(!isAlive(begun[0].pid));
});

test('stopped while it waits to be started again, it stays down', async () => {
  const { refresher, failures, begun } = start('dies once', { backOff: 200 });
  refresher.request(ask(1));
  await until(() => failures.length === 1);
  await refresher.stop();
  await sleep(400);
  assert.equal(begun.length, 1);
  assert.equal(failures.length, 1);
});

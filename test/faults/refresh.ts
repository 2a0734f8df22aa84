import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { startEngine } from '../../src/engine.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel } from '../../src/model/model.ts';
import { type Published, startRefresher } from '../../src/refresher/client.ts';
import { configSha256, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { indexName } from '../../src/retrieval/ensure-index.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { runFolder } from '../../src/run/folder.ts';
import { tinyModel } from '../support/tiny.ts';
import { jsonLines } from './leavings.ts';
import { NET, openFiles, refreshersOf, residentMiB, signal, sleep, until } from './processes.ts';
import { copyRun, reference } from './reference.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { lastLines } from './sentence.ts';
import { newFolder, settings, startStage } from './world.ts';

// The refresher child when it hangs, is slow, sends invalid messages, or runs for long: it never stops the trainer, does not
// use more memory with every index, and slows the trainer's steps only a little.

export async function refresh({ short }: FaultOptions): Promise<Report> {
  const t = tally('refresh');
  const uncaught = (error: Error) => t.fail(`brought the trainer down: ${error.stack}`);
  process.on('uncaughtException', uncaught);
  process.on('unhandledRejection', uncaught);
  const patient = short ? undefined : hungFor120(t);
  await hung(t, short ? 1 : 5);
  await slow(t, short ? 3 : 12);
  await babbling(t);
  await patient; // before what is measured
  if (!short) await many(t);
  await stepTimes(t, short);
  process.off('uncaughtException', uncaught);
  process.off('unhandledRejection', uncaught);
  return t.report();
}

/** Silence that counts as hanging, and the other times, in milliseconds. A real child needs a second or two to start, on a busy machine ten. */
const TIMES = { silence: 25_000, secondLook: 200, backOff: 100, grace: 2000 };

/** The real child, stopped during its work: it is ended, another one builds the index, and this process never waits. */
async function hung(t: Tally, times: number): Promise<void> {
  const undisturbed = await reference();
  const dir = newFolder('refresh-hung');
  copyRun(undisturbed.before.pretrain, dir);
  const { snapshot, rows, dimensions } = await snapshots(dir, times);
  const published: Published[] = [];
  const failures: string[] = [];
  let working = false;
  const refresher = startRefresher(
    dir,
    {
      engine: process.env.REALM_ENGINE ?? 'wasm',
      queue: null,
      nice: 5,
      threads: 1,
      rows,
      dimensions,
      maxFailures: times + 2,
      onPublished: (p) => published.push(p),
      onProgress: () => {
        working = true;
      },
      onFailure: (message) => failures.push(message),
    },
    undefined,
    TIMES,
  );
  const beat = heartbeat();
  for (let i = 1; i <= times; i++) {
    working = false;
    failures.length = 0;
    refresher.request({ snapshot: snapshot(i), step: i });
    await until(() => working);
    for (const pid of refreshersOf(process.pid)) signal(pid, 'SIGSTOP');
    if (!(await until(() => published.length === i))) {
      t.fail(`a hung refresher: no new index after ${NET} s; ${failures.join(' | ') || 'no message'}`);
      break;
    }
    // It may have published at the moment when it was stopped: then the next request finds it hanging.
    if (failures.length === 0) await until(() => failures.length > 0, 1);
    if (failures.length > 0) {
      t.check(
        /no heartbeat for [\d.]+ s/.test(failures.join()),
        `a hung refresher is reported as: ${failures.join(' | ')}`,
      );
      t.count('hung refreshers ended and replaced');
    }
  }
  // Stopped for good: it cannot receive the polite message.
  for (const pid of refreshersOf(process.pid)) signal(pid, 'SIGSTOP');
  const began = performance.now();
  await refresher.stop();
  const seconds = (performance.now() - began) / 1000;
  t.check(seconds < 60, `a hung refresher took ${seconds.toFixed(1)} s to be stopped at the end`);
  t.check(refreshersOf(process.pid).length === 0, 'a hung refresher is left behind');
  // Waiting for the child would take at least its silence.
  t.check(beat.longest() < TIMES.silence, `the trainer's process was blocked for ${beat.longest()} ms`);
  beat.stop();
}

/** Snapshots of a run for the refreshes 1 to `times`, each with other weights, because an existing index is not built again. */
async function snapshots(dir: string, times: number) {
  await startEngine('cpu');
  const run = runFolder(dir);
  const config = loadConfig(run.config, []);
  const corpus = openCorpus(run.corpus);
  const snapshot = (step: number) => join(run.snapshots, indexName(step));
  for (let step = 1; step <= times; step++) {
    const model = tinyModel(config, corpus.tokenizer.size, step);
    const of = { step, configSha256: configSha256(config), corpusSha256: corpus.sha256 };
    await writeSnapshot(snapshot(step), model, of);
    disposeModel(model);
  }
  corpus.close();
  return { snapshot, rows: corpus.blocks, dimensions: vectorLength(config.model) };
}

/** The longest time without a turn of the event loop, in milliseconds. */
function heartbeat() {
  let last = performance.now();
  let longest = 0;
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 10);
  return { longest: () => Math.round(longest), stop: () => clearInterval(timer) };
}

/** A real trainer whose refresher is stopped: training continues, and after two minutes of silence another refresher builds indexes. */
async function hungFor120(t: Tally): Promise<void> {
  const undisturbed = await reference();
  const dir = newFolder('refresh-hung-long');
  copyRun(undisturbed.before.pretrain, dir);
  const { metrics, refreshes } = runFolder(dir);
  const more = [
    'refresh={every: 20, mode: async}',
    'pretrain.steps=1000000',
    'train={logEvery: 20, saveEvery: 500}',
  ];
  const started = startStage(
    'pretrain',
    dir,
    [],
    more.flatMap((set) => ['--set', set]),
  );
  await until(() => jsonLines(refreshes('pretrain')).length > 0 || !started.running());
  const [stopped] = started.refreshers();
  signal(stopped, 'SIGSTOP');
  const indexes = jsonLines(refreshes('pretrain')).length;
  const steps = jsonLines(metrics('pretrain')).length;
  const replaced = await until(
    () => jsonLines(refreshes('pretrain')).length > indexes + 1 || !started.running(),
    NET,
    200,
  );
  if (
    t.check(
      replaced && started.running(),
      `a refresher hung for 120 s is not replaced: ${lastLines(started.stderr())}`,
    )
  ) {
    const said = /no heartbeat for 120 s/.test(started.stderr());
    t.check(said, `a refresher hung for 120 s: no message about it: ${lastLines(started.stderr())}`);
    t.note(
      'steps trained while a refresher hung for 120 s',
      20 * (jsonLines(metrics('pretrain')).length - steps),
    );
  }
  signal(started.pid, 'SIGTERM');
  const { code } = await started.ended;
  t.check(code === 130, `stopped after a hung refresher: exit code ${code}: ${lastLines(started.stderr())}`);
}

/** A refresh is due at every step and takes many steps: newer requests replace older ones, and snapshots do not accumulate. Trains until the indexes are there, however long a busy machine lets the nice refresher wait. */
async function slow(t: Tally, indexes: number): Promise<void> {
  const undisturbed = await reference();
  const dir = newFolder('refresh-slow');
  copyRun(undisturbed.before.pretrain, dir);
  const run = runFolder(dir);
  const set = ['refresh={every: 1, mode: async, nice: 19}', 'pretrain.steps=1000000'];
  const started = startStage(
    'pretrain',
    dir,
    [],
    set.flatMap((s) => ['--set', s]),
  );
  let most = 0;
  await until(
    () => {
      try {
        most = Math.max(most, readdirSync(run.snapshots).filter((name) => /^step-\d+$/.test(name)).length);
      } catch {} // none yet
      return jsonLines(run.refreshes('pretrain')).length >= indexes || !started.running();
    },
    NET,
    2,
  );
  signal(started.pid, 'SIGTERM');
  const { code } = await started.ended;
  t.check(code === 130, `a slow refresher: exit code ${code}: ${lastLines(started.stderr())}`);
  const taken = jsonLines(run.refreshes('pretrain'));
  const ascending = taken.every(
    ({ step, inUseAt }, i) => step <= inUseAt && step > (taken[i - 1]?.step ?? 0),
  );
  t.check(
    taken.length >= indexes && ascending,
    `a slow refresher: ${taken.length} indexes swapped in: ${JSON.stringify(taken.slice(0, 3))}`,
  );
  const steps = taken.at(-1)?.inUseAt ?? 0;
  t.note('a refresh due at each step: indexes swapped in', `${taken.length} of ${steps}`);
  t.check(taken.length < steps, `a slow refresher: an index at each of ${steps} steps`);
  t.note('most snapshots at one time', most);
  t.check(most <= 4, `a slow refresher: ${most} snapshots at one time`);
}

/** Kinds of rubbish that test/fixtures/refresher/babble.mjs knows. */
const RUBBISH = 19;

/** A child that sends invalid messages is ended or ignored, and a later index still arrives. */
async function babbling(t: Tally): Promise<void> {
  const undisturbed = await reference();
  const lane = async (first: number) => {
    for (let which = first; which < RUBBISH; which += 4) await babble(t, which, undisturbed.before.pretrain);
  };
  await Promise.all([0, 1, 2, 3].map(lane));
}

async function babble(t: Tally, which: number, from: string): Promise<void> {
  // The script reports the run's existing index as the new one.
  const dir = join(newFolder('refresh-babbling'), String(which));
  copyRun(from, dir);
  const current = currentIndex(runFolder(dir).index)!;
  const { rows, dimensions, step } = readManifest(current);
  const published: Published[] = [];
  const failures: string[] = [];
  const refresher = startRefresher(
    dir,
    {
      engine: 'none',
      queue: null,
      nice: 5,
      threads: 1,
      rows,
      dimensions,
      maxFailures: 5,
      onPublished: (p) => published.push(p),
      onFailure: (message) => failures.push(message),
    },
    join(import.meta.dirname, '../fixtures/refresher/babble.mjs'),
    { ...TIMES, silence: 60_000 },
  );
  const good = (p: Published) => p.name === basename(current) && p.step === step && p.rows === rows;
  // A trainer makes a new request at the next refresh; a failed one is not repeated.
  const arrived = await until(
    () => {
      if (!refresher.busy) refresher.request({ snapshot: dir, step });
      return published.some(good);
    },
    NET,
    250,
  );
  await refresher.stop();
  t.check(arrived, `invalid messages ${which}: no index afterwards; ${failures.join(' | ') || 'no message'}`);
  const bad = published.filter((p) => !good(p));
  t.check(bad.length === 0, `invalid messages ${which} were accepted as an index: ${JSON.stringify(bad[0])}`);
  const said = failures.join(' | ');
  const sentences = failures.every((f) => typeof f === 'string' && f.length > 0) && !/\n\s+at /.test(said);
  t.check(
    sentences && said.length < 5000,
    `invalid messages ${which} make the trainer print: ${said.slice(0, 500)}`,
  );
  t.count('kinds of invalid messages from a refresher');
}

/** A model and a corpus so large that an index or a model kept by mistake would be noticed. */
const LARGE = [
  'text.vocabularySize=4000',
  'model={layers: 1, hidden: 256, heads: 4, intermediate: 512, positions: 112, dropout: 0.1, projection: 64, spanHidden: 8, maxSpanWidth: 6}',
];

/** MiB by which a process may grow over twenty refreshes. Each needs about 5 MiB of weights and 1 MiB of index; if kept, that would be over 100. */
const GROWTH = 40;
/** Handles by which it may grow: one leaked at each refresh would be 20. */
const HANDLES = 3;

/** Memory and handles of trainer and refresher after 4 refreshes and after 24. */
async function many(t: Tally): Promise<void> {
  const dir = newFolder('refresh-many');
  copyRun((await largeRun()).dir, dir);
  const set = ['refresh={every: 2, mode: sync, threads: 1}', 'pretrain.steps=52', 'train.saveEvery=10000'];
  const started = startStage(
    'pretrain',
    dir,
    [],
    set.flatMap((s) => ['--set', s]),
  );
  const { refreshes } = runFolder(dir);
  const at = async (n: number) => {
    await until(() => jsonLines(refreshes('pretrain')).length >= n || !started.running(), NET, 10);
    const samples: { trainer: number; refresher: number; files: number; childFiles: number }[] = [];
    while (started.running() && jsonLines(refreshes('pretrain')).length === n) {
      const [child] = started.refreshers();
      samples.push({
        trainer: residentMiB(started.pid),
        refresher: residentMiB(child),
        files: openFiles(started.pid).length,
        childFiles: openFiles(child).length,
      });
      await sleep(15);
    }
    const middle = (of: (s: (typeof samples)[number]) => number) => median(samples.map(of));
    return {
      'memory of the trainer, MiB': middle((s) => s.trainer),
      'memory of the refresher, MiB': middle((s) => s.refresher),
      'handles of the trainer': middle((s) => s.files),
      'handles of the refresher': middle((s) => s.childFiles),
    };
  };
  const early = await at(4);
  const late = await at(24);
  const { code } = await started.ended;
  t.check(code === 0, `24 refreshes: exit code ${code}: ${lastLines(started.stderr())}`);
  for (const [what, before] of Object.entries(early)) {
    const after = late[what as keyof typeof late];
    t.note(`${what}: after refresh 4 and 24`, `${Math.round(before)} ${Math.round(after)}`);
    const bound = what.startsWith('memory') ? GROWTH : HANDLES;
    t.check(after - before <= bound, `${what}: ${before} after 4 refreshes, ${after} after 24`);
  }
}

/** How much slower the slowest hundredth of steps may be while a refresh runs, with a core for each of the two. */
const SLOWER = 1.3;

/** p99 of a step, including writing snapshots and swapping in indexes, during refreshes and outside them. */
async function stepTimes(t: Tally, short: boolean): Promise<void> {
  const { dir } = await largeRun();
  const [steps, every] = short ? [100, 40] : [600, 100];
  const set = [
    `refresh={every: ${every}, mode: async, threads: 1}`,
    `pretrain.steps=${steps}`,
    'train={logEvery: 1, saveEvery: 10000}',
  ];
  const ratios: number[] = [];
  for (let attempt = 0; attempt < (short ? 1 : 3); attempt++) {
    const again = newFolder('refresh-times');
    copyRun(dir, again);
    const started = startStage(
      'pretrain',
      again,
      [],
      [...set.flatMap((s) => ['--set', s]), '--threads', '1'],
    );
    const { code } = await started.ended;
    if (!t.check(code === 0, `step times: exit code ${code}: ${lastLines(started.stderr())}`)) return;
    const at = runFolder(again);
    ratios.push(ratio(t, jsonLines(at.metrics('pretrain')), jsonLines(at.refreshes('pretrain'))));
    if (ratios[ratios.length - 1] <= SLOWER) break;
  }
  const best = Math.min(...ratios);
  t.note('p99 of a step, during a refresh / outside', ratios.map((r) => r.toFixed(2)).join(' '));
  if (!short) t.check(best <= SLOWER, `p99 of a step is ${best.toFixed(2)} times as long during a refresh`);
}

/** Steps at the start that do not count: code is compiled and the child starts. */
const WARM_UP = 20;

function ratio(t: Tally, lines: Record<string, number>[], refreshes: Record<string, number>[]): number {
  const during: number[] = [];
  const outside: number[] = [];
  for (let i = 1; i < lines.length; i++) {
    const { step, seconds } = lines[i];
    if (step <= WARM_UP) continue;
    const inRefresh = refreshes.some((r) => step >= r.step && step <= r.inUseAt);
    (inRefresh ? during : outside).push(seconds - lines[i - 1].seconds);
  }
  const [a, b] = [percentile(during, 0.99), percentile(outside, 0.99)];
  t.say(
    `${during.length} steps during ${refreshes.length} refreshes: median ${ms(median(during))}, p99 ${ms(a)}; ` +
      `${outside.length} outside: median ${ms(median(outside))}, p99 ${ms(b)}`,
  );
  return a / b;
}

const ms = (seconds: number) => `${(1000 * seconds).toFixed(0)} ms`;

function median(values: number[]): number {
  return percentile(values, 0.5);
}

function percentile(values: number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

let large: Promise<{ dir: string }> | undefined;

/** A run with the large model, ready to pretrain. */
function largeRun(): Promise<{ dir: string }> {
  large ??= (async () => {
    const dir = newFolder('refresh-large');
    const set = settings({ documents: 600, more: [...LARGE, 'ict.steps=2'] });
    for (const command of ['prepare', 'ict-warmup', 'build-index'] as const) {
      const started = startStage(command, dir, set);
      const { code } = await started.ended;
      if (code !== 0) throw new Error(`${command} of the large run: ${started.stderr()}`);
    }
    return { dir };
  })();
  return large;
}

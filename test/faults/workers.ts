import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { disposeModel } from '../../src/model/model.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { type Random, random } from '../../src/random.ts';
import { configSha256, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { EMBEDDINGS } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { runFolder } from '../../src/run/folder.ts';
import { noRedis, startRedis, type TestRedis } from '../support/redis.ts';
import { retrieverRun } from '../support/retriever-run.ts';
import { tinyModel } from '../support/tiny.ts';
import { complaints, leftAside } from './leavings.ts';
import { NET, type Started, signal, sleep, startProgram, until } from './processes.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { lastLines } from './sentence.ts';
import { newFolder } from './world.ts';

// Workers of a queue, and trainers that wait for them, two runs at once. Workers, the processes that embed and the trainers are killed at
// random moments of the work; workers are stopped for longer than their lease and come back; the server restarts empty, or
// stays away. Each index must in the end be that of one process, to the byte, and no process and no file may be left.

/** How often each thing is to happen. */
interface Plan {
  kills: number;
  stops: number;
  restarts: number;
  deaths: number;
}
const FULL: Plan = { kills: 60, stops: 10, restarts: 5, deaths: 3 };
const SHORT: Plan = { kills: 2, stops: 1, restarts: 1, deaths: 0 };
const KINDS = Object.keys(FULL) as (keyof Plan)[];

/** In milliseconds. A lease must be longer than a busy machine lets a process wait for its turn. */
const LEASE = 5000;
const WORKER_TIMES = JSON.stringify({ lease: LEASE, refused: 200, pause: 500, grace: 5000 });
const TRAINER_TIMES = { poll: 100, patience: 3 * LEASE };

const ENTRY = (name: string) => join(import.meta.dirname, '../support', name);
const SNAPSHOT = 'step-0000001';

/** A run with a snapshot, and the vectors that one process makes of it. */
interface Expected {
  dir: string;
  vectors: Buffer;
}

export async function workers({ short, seed }: FaultOptions): Promise<Report> {
  const t = tally('workers');
  if (noRedis) {
    t.note(`left out: ${noRedis}`, '');
    return t.report();
  }
  const source = random(seed);
  const context = await retrieverRun(newFolder('workers'), 'refresh.shards=3');
  const runs = [await expected(context, 1), await expected(context, 2)];
  const redis = await startRedis();
  const plan = { ...(short ? SHORT : FULL) };
  try {
    while (KINDS.some((kind) => plan[kind] > 0))
      await round({ t, plan, source, redis, runs, engine: context.engine });
    if (!short) await unfitWorkers(t, redis, runs[0], context.engine);
  } finally {
    await redis.end();
  }
  return t.report();
}

/** A copy of the run with a snapshot of other weights, and the vectors of its index. */
async function expected({ run, config }: Context, weights: number): Promise<Expected> {
  const dir = newFolder(`workers-${weights}`);
  cpSync(run.dir, dir, { recursive: true });
  const corpus = openCorpus(run.corpus);
  const model = tinyModel(config, corpus.tokenizer.size, weights);
  const of = { step: 1, configSha256: configSha256(config), corpusSha256: corpus.sha256 };
  await writeSnapshot(join(runFolder(dir).snapshots, SNAPSHOT), model, of);
  const root = newFolder('workers-expected');
  const { name } = await makeIndex(root, SNAPSHOT, { model, corpus, config, step: 1 });
  disposeModel(model);
  corpus.close();
  return { dir, vectors: readFileSync(join(root, name, EMBEDDINGS)) };
}

interface Round {
  t: Tally;
  /** What is still to happen; reduced. */
  plan: Plan;
  source: Random;
  redis: TestRedis;
  runs: readonly Expected[];
  engine: string;
}

const startWorker = (redis: TestRedis, engine: string, limit = '') =>
  startProgram('bash', [
    '-c',
    `${limit} exec "$@"`,
    'worker',
    process.execPath,
    ...['--import', 'tsx', ENTRY('queue-worker.ts'), redis.url.href, engine, WORKER_TIMES],
  ]);

function startTrainer(redis: TestRedis, dir: string, engine: string, version?: string): Started {
  const options = { dir, snapshot: SNAPSHOT, url: redis.url.href, engine, times: TRAINER_TIMES, version };
  return startProgram(process.execPath, [
    '--import',
    'tsx',
    ENTRY('queue-trainer.ts'),
    JSON.stringify(options),
  ]);
}

/** Two trainers and two workers, disturbed until both indexes are there. */
async function round(all: Round): Promise<void> {
  const { t, source, redis, runs, engine } = all;
  const copies = runs.map(({ dir }, i) => {
    const copy = newFolder(`workers-round-${i}`);
    cpSync(dir, copy, { recursive: true });
    return copy;
  });
  const atWork = [0, 1].map(() => startWorker(redis, engine));
  const trainers = copies.map((dir) => startTrainer(redis, dir, engine));
  const everything = [...atWork, ...trainers];
  const running = () => trainers.some((one) => one.running());
  const began = performance.now();

  const restart = (list: Started[], i: number, by: () => Started) => {
    list[i] = by();
    everything.push(list[i]);
  };
  while (running()) {
    await Promise.race([sleep(200 + 3000 * source.float()), Promise.all(trainers.map(({ ended }) => ended))]);
    // One that has started while the server was away has ended; whoever runs it starts it again.
    for (const [w, one] of atWork.entries())
      if (!one.running()) restart(atWork, w, () => startWorker(redis, engine));
    const kinds = KINDS.filter((kind) => all.plan[kind] > 0);
    if (!running() || kinds.length === 0) continue;
    const kind = source.pick(kinds);
    const i = source.int(2);
    if (kind === 'kills') {
      const target = source.pick(['worker', 'embedding process', 'trainer']);
      if (target === 'worker' && signal(atWork[i].pid, 'SIGKILL'))
        restart(atWork, i, () => startWorker(redis, engine));
      else if (target === 'trainer' && trainers[i].running() && signal(trainers[i].pid, 'SIGKILL'))
        restart(trainers, i, () => startTrainer(redis, copies[i], engine));
      else if (target === 'embedding process') {
        const [child] = atWork[i].embedding();
        if (child === undefined || !signal(child, 'SIGKILL')) continue;
      } else continue;
      t.count(`kills of a ${target}`);
    } else if (kind === 'stops') {
      const { pid } = atWork[i];
      if (!signal(pid, 'SIGSTOP')) continue;
      await sleep(2.5 * LEASE);
      signal(pid, 'SIGCONT');
      t.count('workers stopped for longer than their lease');
    } else {
      await redis.kill();
      if (kind === 'deaths') {
        await until(() => trainers.every((one) => !one.running() || /cannot be reached/.test(one.stderr())));
        t.count('deaths of the server');
      } else t.count('restarts of the server');
      await redis.start();
    }
    all.plan[kind]--;
  }
  t.note('seconds of a round', ((performance.now() - began) / 1000).toFixed(0));
  for (const [i, trainer] of trainers.entries()) {
    const { code } = await trainer.ended;
    if (!t.check(code === 0, `a trainer: exit code ${code}: ${lastLines(trainer.stderr())}`)) continue;
    judge(t, copies[i], runs[i].vectors);
  }
  await endWorkers(t, atWork);
  const orphans = everything.flatMap((one) => (one.running() ? [one.pid] : one.children()));
  t.check(orphans.length === 0, `processes left: ${orphans}`);
  for (const pid of orphans) signal(pid, 'SIGKILL');
  for (const dir of copies) rmSync(dir, { recursive: true, force: true });
}

/** The index is that of one process, and nothing incomplete is left. */
function judge(t: Tally, dir: string, vectors: Buffer): void {
  const run = runFolder(dir);
  const found = complaints(dir);
  t.check(found.length === 0, `a run: ${found.join('; ')}`);
  const made = readFileSync(join(currentIndex(run.index)!, EMBEDDINGS));
  if (t.check(made.equals(vectors), 'an index differs from that of one process'))
    t.count('indexes equal to the byte');
  t.check(leftAside(run.index).length === 0, `left in the folder of indexes: ${leftAside(run.index)}`);
  t.check(!existsSync(join(dir, 'queue.json')), 'queue.json is left');
  for (const name of existsSync(run.shards) ? readdirSync(run.shards) : [])
    t.check(!readdirSync(join(run.shards, name)).some((file) => file.endsWith('.probe')), 'a probe is left');
}

async function endWorkers(t: Tally, all: readonly Started[]): Promise<void> {
  for (const { pid } of all) signal(pid, 'SIGTERM');
  for (const worker of all) {
    const { code, signal: by } = await worker.ended;
    // One that has just been started again cannot yet hear the signal, or has not found the server.
    const early = (by === 'SIGTERM' && worker.stderr() === '') || /cannot be used/.test(worker.stderr());
    t.check(
      code === 0 || early,
      `a worker, stopped: ${by ?? `exit code ${code}`}: ${lastLines(worker.stderr())}`,
    );
  }
  await until(() => all.every((worker) => worker.children().length === 0), NET, 50);
}

/** A worker that can write only small files, and one of another version than the trainer's, beside a good one. */
async function unfitWorkers(
  t: Tally,
  redis: TestRedis,
  { dir, vectors }: Expected,
  engine: string,
): Promise<void> {
  const good = startWorker(redis, engine);
  const full = startWorker(redis, engine, 'ulimit -f 16;');
  for (const [what, version, pattern] of [
    ['a worker with a full disk', undefined, /failed \(/],
    ['workers of another version', '9.9.9', /left .* to other workers: it has realm /],
  ] as const) {
    const copy = newFolder('workers-unfit');
    cpSync(dir, copy, { recursive: true });
    const trainer = startTrainer(redis, copy, engine, version);
    const { code } = await trainer.ended;
    if (!t.check(code === 0, `${what}: exit code ${code}: ${lastLines(trainer.stderr())}`)) continue;
    judge(t, copy, vectors);
    const said = full.stderr() + good.stderr();
    if (version !== undefined) {
      t.check(pattern.test(said), `${what}: not reported: ${lastLines(said)}`);
      t.check(/no worker has taken a shard/.test(trainer.stderr()), `${what}: the trainer says nothing`);
    }
    t.count(what);
  }
  await endWorkers(t, [good, full]);
}

// npm run bench:workers -- --run RUN: `realm build-index` by itself, and by 1, 2 and 4 workers on this machine, in turns, with a
// redis-server that it starts. RUN has been prepared with model.initial, or trained; a copy of it is used. Each index must be the
// same to the byte, so all are in f32. Workers that share the processors of one machine cannot be faster than one: what is measured is what
// handing out costs.
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { EMBEDDINGS } from '../src/retrieval/manifest.ts';
import { currentIndex } from '../src/retrieval/publish.ts';
import { runFolder } from '../src/run/folder.ts';
import { noRedis, startRedis } from '../test/support/redis.ts';
import { middle } from './middle.ts';

const { values: options } = parseArgs({
  options: {
    run: { type: 'string', default: 'runs/default' },
    workers: { type: 'string', default: '1,2,4' },
    rounds: { type: 'string', default: '3' },
    /** More arguments of build-index, such as --set refresh.shards=4. */
    set: { type: 'string', multiple: true, default: [] },
  },
});
if (noRedis) throw new Error(noRedis);

const sets = ['index.precision=f32', ...options.set];
const folder = mkdtempSync(join(tmpdir(), 'bench-workers-'));
const dir = join(folder, 'run');
const run = runFolder(dir);
const given = runFolder(options.run);
cpSync(options.run, dir, { recursive: true, filter: (path) => path !== given.index });
const counts = [0, ...options.workers.split(',').map(Number)];
const seconds = counts.map((): number[] => []);
const redis = await startRedis();
try {
  console.log(`build-index of ${options.run} on ${availableParallelism()} cores`);
  let vectors: Buffer | undefined;
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [i, count] of counts.entries()) {
      const workers = await Promise.all(Array.from({ length: count }, startWorker));
      const queue = count > 0 ? ['--queue', redis.url.href] : [];
      rmSync(run.index, { recursive: true, force: true });
      const started = performance.now();
      await realm(['build-index', '--run', dir, ...queue, ...sets.flatMap((set) => ['--set', set])]).ended;
      seconds[i].push((performance.now() - started) / 1000);
      for (const worker of workers) worker.child.kill('SIGTERM');
      await Promise.all(workers.map(({ ended }) => ended));
      const made = readFileSync(join(currentIndex(run.index)!, EMBEDDINGS));
      if (vectors !== undefined && !made.equals(vectors)) throw new Error(`${count} workers: other vectors`);
      vectors = made;
    }
  }
  for (const [i, count] of counts.entries()) {
    const all = seconds[i].map((s) => s.toFixed(1)).join(', ');
    const ratio = middle(seconds[i].map((s, round) => s / seconds[0][round]));
    console.log(
      `${count === 0 ? 'by itself' : `${count} worker${count > 1 ? 's' : ''}`}`.padEnd(10),
      `${middle(seconds[i]).toFixed(1)} s (${all}), ${ratio.toFixed(3)} of the time by itself`,
    );
  }
} finally {
  await redis.end();
  rmSync(folder, { recursive: true, force: true });
}

function realm(args: readonly string[]) {
  const command = [join(import.meta.dirname, '../bin/realm'), ...args];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] });
  const lines = createInterface(child.stderr);
  const said: string[] = [];
  lines.on('line', (line) => said.push(line));
  const ended = new Promise<void>((resolve, reject) => {
    child.on('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`realm ${args[0]}: exit code ${code}\n${said.join('\n')}`)),
    );
  });
  return { child, lines, ended };
}

async function startWorker() {
  const worker = realm(['worker', '--queue', redis.url.href]);
  await new Promise<void>((resolve, reject) => {
    worker.lines.on('line', (line) => /waiting for shards/.test(line) && resolve());
    worker.ended.catch(reject);
  });
  return worker;
}

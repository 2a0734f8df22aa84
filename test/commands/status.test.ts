import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { runStates, statusLines } from '../../src/commands/status-lines.ts';
import { corpusSummary } from '../../src/corpus/store/reader.ts';
import { type RunStatus, runsIn, statusOf } from '../../src/report/status.ts';
import { lockRun, type Run, runFolder } from '../../src/run/folder.ts';
import type { Stage } from '../../src/run/stages.ts';
import { UserError } from '../../src/system/errors.ts';
import {
  logFile,
  MAX_LOG_BYTES,
  note,
  openJournal,
  progressFile,
  publish,
} from '../../src/system/journal.ts';
import { thisProcess } from '../../src/system/lock.ts';
import { queueState } from '../support/queue-state.ts';

const root = mkdtempSync(join(tmpdir(), 'realm-status-'));
after(() => rmSync(root, { recursive: true, force: true }));

let run: Run;
let count = 0;
beforeEach(() => {
  run = runFolder(join(root, `run-${++count}`));
});

function write(path: string, content: object | string): void {
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, typeof content === 'string' ? content : `${JSON.stringify(content)}\n`);
}

/** A run with a corpus, a finished first stage and its index, and a second stage that has begun. */
function trained(): void {
  write(run.config, 'ict: { steps: 70 }\npretrain: { steps: 300 }\nqa: { steps: 30 }\n');
  write(run.corpusManifest, { documents: 1234, blocks: 5678 });
  write(run.metrics('ict-warmup'), '{"step":70,"loss":1.5}\n');
  checkpoint('ict-warmup', 70, 70);
  index('step-0000000', 0);
  write(run.metrics('pretrain'), '{"step":100,"loss":2.5,"retrievalUtility":0.25}\n');
  checkpoint('pretrain', 100, 300);
  write(join(run.checkpoint('pretrain'), 'best'), 'step-0000050\n');
  index('step-0000060', 60);
  write(join(run.index, 'current'), 'step-0000060\n');
}

function checkpoint(stage: Stage, step: number, steps: number, evaluated?: object): void {
  const name = `step-${String(step).padStart(7, '0')}`;
  write(join(run.checkpoint(stage), name, 'state.json'), { step, steps, evaluated });
  write(join(run.checkpoint(stage), 'latest'), `${name}\n`);
}

function index(name: string, step: number, corpusSha256?: string): void {
  // Later than the weights that are written now.
  const createdAt = '2999-01-01T00:00:00.000Z';
  write(join(run.index, name, 'manifest.json'), { rows: 5678, step, createdAt, corpusSha256 });
}

const of = (state: RunStatus, stage: string) => state.stages.find((s) => s.stage === stage)!;

/** Names, sizes and times of all files below a folder. */
function everyFile(dir: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => {
    const { size, mtimeMs } = statSync(join(dir, name));
    return `${name} ${size} ${mtimeMs}`;
  });
}

test('dev results of a stage: before and after it, or only before; anything else in their place is ignored', () => {
  trained();
  const start = { 'devRecall@5': 0.556, devExactMatch: 0 };
  checkpoint('ict-warmup', 70, 70, { sha256: 'q', start, end: { 'devRecall@5': 0.5, devExactMatch: 0.25 } });
  checkpoint('pretrain', 100, 300, { sha256: 'q', start });
  const lines = statusLines([statusOf(run)]).join('\n');
  assert.match(
    lines,
    /^ict-warmup .*, recall@5 55\.6 % to 50\.0 %, exact match 0\.0 % to 25\.0 % \(on dev questions\), saved/m,
  );
  assert.match(
    lines,
    /^pretrain .*, recall@5 55\.6 % at the start, exact match 0\.0 % at the start \(on dev/m,
  );
  checkpoint('pretrain', 100, 300, { start: 'high' });
  assert.doesNotMatch(statusLines([statusOf(run)]).join('\n'), /^pretrain .*dev questions/m);
});

test('a run at rest: corpus, stages, indexes, what to run next; nothing is changed', () => {
  trained();
  const before = everyFile(run.dir);
  const state = statusOf(run);
  assert.deepEqual(everyFile(run.dir), before);
  assert.deepEqual(state.corpus, { documents: 1234, blocks: 5678 });
  const stages = state.stages.map(({ stage, state, step, steps }) => [stage, state, step, steps]);
  assert.deepEqual(stages.slice(0, 4), [
    ['ict-warmup', 'finished', 70, 70],
    ['reader-warmup', 'not started', 0, 0],
    ['pretrain', 'unfinished', 100, 300],
    ['finetune-qa', 'not started', 0, 30],
  ]);
  const { latest, best, saved, figures } = of(state, 'pretrain');
  assert.deepEqual([latest, best, figures.retrievalUtility], ['step-0000100', 'step-0000050', 0.25]);
  assert.ok(Number.isFinite(Date.parse(saved!)));
  assert.deepEqual(
    state.indexes.map(({ name, rows, stage, inUse, stepsBehind }) => [name, rows, stage, inUse, stepsBehind]),
    [
      ['step-0000000', 5678, 'ict-warmup', false, 0],
      ['step-0000060', 5678, 'pretrain', true, 40],
    ],
  );
  assert.equal(state.underWay, null);
  assert.equal(state.next, `realm pretrain --run ${run.dir}`);
  const lines = statusLines([state]).join('\n');
  assert.match(lines, /^corpus +1,234 documents, 5,678 blocks$/m);
  assert.match(
    lines,
    /^pretrain +unfinished, step 100 of 300, loss 2\.50, retrievalUtility 0\.250 \(on training examples\), saved/m,
  );
  assert.match(lines, /^index +step-0000060, .*the latest weights are 40 steps newer, in use$/m);
  assert.match(lines, /^now +nothing is running$/m);
});

test('the closed-book baseline is listed only where it was started, and metrics are labelled as of training', () => {
  trained();
  write(run.metrics('finetune-qa'), '{"step":30,"loss":1.5,"exactMatch":0.6125}\n');
  checkpoint('finetune-qa', 30, 30);
  const never = statusOf(run);
  assert.equal(of(never, 'closed-book').state, 'not started');
  const lines = statusLines([never]).join('\n');
  assert.doesNotMatch(lines, /closed-book/);
  assert.match(
    lines,
    /^finetune-qa +finished, step 30 of 30, loss 1\.50, exactMatch 0\.613 \(on training examples\), saved/m,
  );
  checkpoint('closed-book', 5, 20);
  assert.match(statusLines([statusOf(run)]).join('\n'), /^closed-book +unfinished, step 5 of 20, saved/m);
});

test('an index of another corpus is shown as such, and the next command builds it again', () => {
  trained();
  const { sha256 } = corpusSummary(run.corpus)!;
  assert.equal(sha256, createHash('sha256').update(readFileSync(run.corpusManifest)).digest('hex'));
  index('step-0000000', 0, 'e'.repeat(64));
  index('step-0000060', 60, sha256);
  let state = statusOf(run);
  assert.deepEqual(
    state.indexes.map(({ ofThisCorpus }) => ofThisCorpus),
    [false, true],
  );
  assert.equal(state.next, `realm pretrain --run ${run.dir}`, 'the one in use is of this corpus');
  assert.match(
    statusLines([state]).join('\n'),
    /^index +step-0000000, .*by ict-warmup.*, of another corpus$/m,
  );

  checkpoint('pretrain', 300, 300);
  index('step-0000300', 300, sha256);
  write(join(run.index, 'current'), 'step-0000300\n');
  assert.match(
    statusLines([statusOf(run)]).join('\n'),
    /^index +step-0000300, .*, matches the latest weights, in use$/m,
  );
  write(run.corpusManifest, { documents: 1235, blocks: 5680 });
  state = statusOf(run);
  assert.equal(state.next, `realm build-index --run ${run.dir}`);
  const lines = statusLines([state]).join('\n');
  assert.match(lines, /^index +step-0000300, .*, in use, of another corpus; run realm build-index$/m);
  assert.doesNotMatch(lines, /matches the latest weights/);
});

test('the index of a sentence encoder is its own, and stages without steps are not listed', () => {
  write(
    run.config,
    'ict: { steps: 0 }\nreaderWarmup: { steps: 9 }\npretrain: { steps: 0 }\nqa: { steps: 30 }\n',
  );
  write(run.corpusManifest, { documents: 1, blocks: 2 });
  index('step-0000000', 0, corpusSummary(run.corpus)!.sha256);
  const state = statusOf(run);
  assert.equal(state.indexes[0].stage, 'initial');
  const lines = statusLines([state]).join('\n');
  assert.match(
    lines,
    /^index +step-0000000, .* by the encoder as it was published, .*matches the latest weights/m,
  );
  assert.doesNotMatch(lines, /^(ict-warmup|pretrain)/m);
  assert.match(lines, /^reader-warmup +not started, 9 steps set$/m);
  assert.equal(state.next, `realm reader-warmup --run ${run.dir}`);
});

test('what comes next follows the stages that are done', () => {
  mkdirSync(`${run.corpus}.part`, { recursive: true }); // a new run needs --config
  assert.equal(statusOf(run).next, `realm prepare --config FILE --run ${run.dir}`);
  rmSync(`${run.corpus}.part`, { recursive: true });
  write(run.config, 'ict: { steps: 70 }\n');
  assert.equal(statusOf(run).next, `realm prepare --run ${run.dir}`);
  write(run.corpusManifest, { documents: 1, blocks: 2 });
  assert.equal(statusOf(run).next, `realm ict-warmup --run ${run.dir}`);
  checkpoint('ict-warmup', 70, 70);
  assert.equal(statusOf(run).next, `realm build-index --run ${run.dir}`);
  index('step-0000000', 0, corpusSummary(run.corpus)!.sha256);
  write(join(run.index, 'current'), 'step-0000000\n');
  assert.equal(statusOf(run).next, `realm pretrain --run ${run.dir}`);
  write(run.config, 'ict: { steps: 70 }\npretrain: { steps: 0 }\n');
  assert.equal(statusOf(run).next, `realm finetune-qa --run ${run.dir}`, 'pretraining has no steps');
  checkpoint('finetune-qa', 5, 30); // pretraining was left out
  assert.equal(statusOf(run).next, `realm finetune-qa --run ${run.dir}`);
  checkpoint('finetune-qa', 30, 30);
  assert.equal(statusOf(run).next, `realm eval exact-match --run ${run.dir}`);
  write(run.evaluations, { metric: 'exact-match', stage: 'finetune-qa', figures: { exactMatch: 0.5 } });
  assert.equal(statusOf(run).next, `realm ask --run ${run.dir}`);
});

test('while a command works: process, step, rate, memory, time left; the lock and its files stay as they are', () => {
  trained();
  const release = lockRun(run, 'pretrain');
  publish(() => ({
    name: 'pretrain',
    done: 120,
    total: 300,
    unit: 'examples',
    remark: 'loss 2.40',
    rate: 12.5,
    left: 200,
  }));
  const before = everyFile(run.dir);
  const state = statusOf(run);
  assert.deepEqual(everyFile(run.dir), before);
  const { command, pid, host, alive, progress } = state.underWay!;
  assert.deepEqual([command, pid, host, alive], ['pretrain', process.pid, hostname(), true]);
  assert.deepEqual([progress!.done, progress!.total, progress!.left, progress!.rate], [120, 300, 200, 12.5]);
  assert.ok(progress!.memory > 0);
  assert.deepEqual(
    [of(state, 'pretrain').state, of(state, 'pretrain').step, state.next],
    ['running', 120, null],
  );
  const lines = statusLines([state]).join('\n');
  assert.match(lines, new RegExp(`^now +"realm pretrain", process ${process.pid} on .* is running$`, 'm'));
  assert.match(
    lines,
    /^now +pretrain: 120 of 300, loss 2\.40, 12\.5 examples a second, memory .*, about 3 min 20 s left/m,
  );
  release();
  assert.ok(!existsSync(progressFile(run.dir)));
  assert.equal(statusOf(run).underWay, null);
});

test('shards at workers are shown while the process that waits for them works', () => {
  trained();
  const release = lockRun(run, 'build-index');
  const state = queueState('a-1');
  write(join(run.dir, 'queue.json'), state);
  assert.deepEqual(statusOf(run).underWay!.queue, state);
  const lines = statusLines([statusOf(run)]).join('\n');
  assert.match(
    lines,
    /^now +queue redis:\/\/host:6379: 3 of 8 shards of step-0000500 are used, 1 at work, 3 waiting or done, 1 failed, 2 workers, as of 0 s ago$/m,
  );
  assert.match(lines, /^now +shard 4 at a-1, lease renewed 12 s before$/m);
  // Of a process that was killed.
  write(join(run.dir, 'queue.json'), { ...state, pid: 1 });
  assert.equal(statusOf(run).underWay!.queue, null);
  release();
});

test('a lock whose process was killed is told as such, and its progress is not taken for that of another', async () => {
  trained();
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
  await new Promise((resolve) => child.once('spawn', resolve));
  const dead = { pid: child.pid!, host: hostname(), started: '1', work: 'pretrain' };
  write(join(run.dir, 'lock'), dead);
  write(progressFile(run.dir), {
    ...thisProcess('pretrain'),
    time: '',
    name: 'pretrain',
    done: 1,
    total: 2,
    memory: 3,
  });
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('exit', resolve));
  const state = statusOf(run);
  assert.equal(state.underWay!.alive, false);
  assert.equal(state.underWay!.progress, null);
  assert.equal(of(state, 'pretrain').state, 'unfinished');
  assert.equal(state.next, `realm pretrain --run ${run.dir}`);
  assert.match(
    statusLines([state]).join('\n'),
    /^now +nothing is running; "realm pretrain" \(process \d+\) ended/m,
  );
  assert.ok(existsSync(join(run.dir, 'lock')), 'it only reads');
});

test('a lock of another host is told, and that nothing can be seen of its process', () => {
  trained();
  write(join(run.dir, 'lock'), { pid: 1, host: 'elsewhere', started: '1', work: 'pretrain' });
  const state = statusOf(run);
  assert.deepEqual([state.underWay!.alive, state.next], [null, null]);
  assert.match(statusLines([state]).join('\n'), /process 1 on elsewhere.*another host/);
});

test('damaged files are left out or named, and the rest is told', () => {
  trained();
  write(run.config, 'ict: { stepz: 70 }\n');
  write(run.corpusManifest, '{"docu');
  write(join(run.dir, 'lock'), '{"pid":');
  write(progressFile(run.dir), 'no JSON');
  write(logFile(run.dir), 'no JSON\n[1]\n{"kind":"trouble"}\n');
  write(join(run.index, 'step-0000060', 'manifest.json'), '');
  write(join(run.checkpoint('pretrain'), 'latest'), '../../elsewhere');
  write(run.evaluations, '{"metric":1}\n');
  const state = statusOf(run);
  assert.deepEqual([state.corpus, state.underWay, state.trouble], [null, null, null]);
  assert.deepEqual(
    state.indexes.map(({ name }) => name),
    ['step-0000000'],
  );
  assert.equal(of(state, 'ict-warmup').state, 'finished');
  assert.equal(of(state, 'pretrain').latest, null);
  assert.equal(state.unreadable.length, 2);
  assert.match(statusLines([state]).join('\n'), /^unreadable +.*unknown setting/m);
});

test('a folder that is not there or holds no run is one sentence', () => {
  assert.throws(
    () => statusOf(run),
    (error) => error instanceof UserError && /no such folder/.test(error.message),
  );
  mkdirSync(run.dir);
  assert.throws(
    () => runStates([run.dir]),
    (error) =>
      error instanceof UserError && /holds no run; .*"realm prepare --config FILE --run /.test(error.message),
  );
});

test('a run of an earlier version is not shown as one without stages', () => {
  trained();
  mkdirSync(run.checkpoint('finetune-qa').replace('finetune-qa', 'qa'));
  assert.throws(
    () => statusOf(run),
    (error) =>
      error instanceof UserError &&
      /older version of realm, which named the stage finetune-qa "qa"/.test(error.message),
  );
});

test('all runs of a folder are listed, a line each', () => {
  const folder = join(root, 'several');
  for (const name of ['b', 'a']) write(runFolder(join(folder, name)).config, 'seed: 1\n');
  mkdirSync(join(folder, 'no-run'));
  const states = runsIn(folder).map(statusOf);
  assert.deepEqual(
    statusLines(states).map((line) => line.split('; ')[0]),
    ['a', 'b'].map((name) => `${join(folder, name)}  not prepared`),
  );
  assert.deepEqual(runsIn(join(folder, 'none')), []);
});

test('lines of trouble are kept with their times, the last one is told, and the log stays small', () => {
  write(run.config, 'seed: 1\n');
  const close = openJournal(run.dir, 'pretrain');
  note('refresher: the first trouble', 'trouble');
  note('refresher: the second trouble', 'trouble');
  note('engine: one', 'note');
  const { trouble } = statusOf(run);
  assert.deepEqual([trouble!.line, trouble!.work], ['refresher: the second trouble', 'pretrain']);
  assert.match(
    statusLines([statusOf(run)]).join('\n'),
    /^trouble +refresher: the second trouble \(pretrain, /m,
  );
  for (let i = 0; i < 1000; i++) note(`${i} ${'x'.repeat(1000)}`, 'note');
  const log = readFileSync(logFile(run.dir), 'utf8');
  assert.ok(log.length <= MAX_LOG_BYTES, `${log.length} bytes`);
  assert.match(JSON.parse(log.trimEnd().split('\n').at(-1)!).line, /^999 /);
  close();
  note('after the end', 'note');
  assert.equal(readFileSync(logFile(run.dir), 'utf8'), log);
});

test('a journal in a folder that was moved away writes nothing, and does not make the folder again', () => {
  write(run.config, 'seed: 1\n');
  const close = openJournal(run.dir, 'pretrain');
  rmSync(run.dir, { recursive: true });
  note('a line', 'trouble');
  publish(() => ({ name: 'pretrain', done: 1, total: 2, remark: '' }));
  close();
  assert.ok(!existsSync(run.dir));
});

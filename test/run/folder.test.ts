import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { jsonLines, lockRun, refuseOldRun, runConfig, runFolder } from '../../src/run/folder.ts';
import { STAGES } from '../../src/run/stages.ts';
import { UserError } from '../../src/system/errors.ts';
import { logFile, note } from '../../src/system/journal.ts';
import { releaseLocks } from '../../src/system/lock.ts';

const folder = mkdtempSync(join(tmpdir(), 'run-'));
after(() => rmSync(folder, { recursive: true }));

let made = 0;
const newRun = () => runFolder(join(folder, `run-${made++}`));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

test('a new run saves its effective configuration, and a later command reads it back', () => {
  const run = newRun();
  const config = file('one.yaml', 'ict: { steps: 7 }');
  const begun = runConfig(run, { config, set: ['seed=5', 'data.train=questions.jsonl'] });
  assert.deepEqual([begun.ict.steps, begun.seed, begun.data.train], [7, 5, resolve('questions.jsonl')]);
  writeFileSync(config, 'ict: { steps: 8 }'); // the run does not look at it again
  assert.deepEqual(runConfig(run, { set: [] }), begun);
  assert.deepEqual(loadConfig(run.config, []), begun);
});

test('a run without a configuration has the defaults, and keeps them', () => {
  const run = newRun();
  assert.deepEqual(runConfig(run, { set: [] }), loadConfig(undefined, []));
  assert.deepEqual(loadConfig(run.config, []), loadConfig(undefined, []));
});

test('until something is made with it, another --config replaces the first', () => {
  const run = newRun();
  const one = file('one.yaml', 'ict: { steps: 7 }');
  const two = file('two.yaml', 'ict: { steps: 8 }');
  runConfig(run, { config: one, set: ['seed=5'] });
  const other = runConfig(run, { config: two, set: [] });
  assert.deepEqual([other.ict.steps, other.seed], [8, 1]);
  assert.deepEqual(loadConfig(run.config, []), other);
});

test('a run in use refuses a different --config, but not the same one', () => {
  const run = newRun();
  mkdirSync(run.checkpoint('ict-warmup'), { recursive: true });
  const one = file('one.yaml', 'ict: { steps: 7 }');
  const two = file('two.yaml', 'ict: { steps: 8 }');
  const same = file('same.yaml', 'ict:\n  steps: 7 # said in other words\n');
  const begun = runConfig(run, { config: one, set: ['seed=5'] });
  const saved = readFileSync(run.config, 'utf8');
  for (const [config, set] of [
    [two, ['seed=5']],
    [one, []],
    [one, ['seed=6']],
  ] as const) {
    assert.throws(
      () => runConfig(run, { config, set }),
      (error) =>
        error instanceof UserError &&
        error.message.includes(run.config) &&
        /this run already has a configuration/.test(error.message),
    );
  }
  assert.equal(readFileSync(run.config, 'utf8'), saved);
  assert.deepEqual(runConfig(run, { config: one, set: ['seed=5'] }), begun);
  assert.deepEqual(runConfig(run, { config: same, set: ['seed=5'] }), begun);
});

test('--set in an existing run changes only that setting, and is saved', () => {
  const run = newRun();
  const begun = runConfig(run, { set: ['ict.steps=7', 'qa.steps=3'] });
  const changed = runConfig(run, { set: ['ict.steps=9'] });
  assert.deepEqual(changed, { ...begun, ict: { ...begun.ict, steps: 9 } });
  assert.deepEqual(runConfig(run, { set: [] }), changed);
});

test('a wrong setting leaves the run unchanged', () => {
  const run = newRun();
  assert.throws(() => runConfig(run, { set: ['ict.steps=none'] }), UserError);
  assert.ok(!existsSync(run.dir), 'not even a folder');
  runConfig(run, { set: ['ict.steps=7'] });
  const saved = readFileSync(run.config, 'utf8');
  assert.throws(() => runConfig(run, { set: ['ict.steps=none'] }), UserError);
  assert.equal(readFileSync(run.config, 'utf8'), saved);
});

test('a command that changes nothing does not write', () => {
  const run = newRun();
  runConfig(run, { set: [] });
  const { ino } = statSync(run.config);
  runConfig(run, { set: [] });
  assert.equal(statSync(run.config).ino, ino);
});

test('an error in the saved configuration names its file', () => {
  const run = newRun();
  runConfig(run, { set: [] });
  writeFileSync(run.config, 'seed: x');
  assert.throws(
    () => runConfig(run, { set: [] }),
    (error) => error instanceof UserError && error.message.startsWith(`${run.config}: seed: `),
  );
});

test('a metrics log grows line by line, drops the steps that are repeated, and can restart', () => {
  const path = newRun().metrics('ict-warmup');
  const first = jsonLines(path, 0);
  first.write({ step: 1, loss: 0.5 });
  first.write({ step: 2 });
  first.write({ step: 1, inUseAt: 3 });
  appendFileSync(path, '{"step":2,"lo'); // the process is killed in the middle of a line
  jsonLines(path, 2).write({ step: 3 });
  const lines = () => readFileSync(path, 'utf8').split('\n');
  assert.deepEqual(lines(), ['{"step":1,"loss":0.5}', '{"step":2}', '{"step":3}', '']);
  jsonLines(path, 0).write({ step: 1 });
  assert.deepEqual(lines(), ['{"step":1}', '']);
});

test('if the folder of a log was moved away, writing fails and does not create it again', () => {
  const { dir, metrics } = newRun();
  const log = jsonLines(metrics('ict-warmup'), 0);
  log.write({ step: 1 });
  renameSync(dir, `${dir}-elsewhere`);
  assert.throws(() => log.write({ step: 2 }), { code: 'ENOENT' });
  assert.ok(!existsSync(dir));
});

test('a run of an earlier version, whose stages had other names, is refused in one sentence', () => {
  for (const [old, stage] of [
    ['qa', 'finetune-qa'],
    ['ict', 'ict-warmup'],
  ]) {
    const run = newRun();
    mkdirSync(join(run.dir, 'checkpoints', old), { recursive: true });
    assert.throws(
      () => refuseOldRun(run),
      (error) =>
        error instanceof UserError &&
        error.message ===
          `${join(run.dir, 'checkpoints', old)}: was trained by an older version of realm, which named the stage ${stage} "${old}"; train a new run in another folder with --run`,
    );
  }
  const run = newRun();
  for (const stage of STAGES) mkdirSync(run.checkpoint(stage), { recursive: true });
  refuseOldRun(run);
});

test('the log of a run is closed with its lock, so that what follows in the same process is not in it', () => {
  for (const end of [(release: () => void) => release(), () => releaseLocks()]) {
    const run = newRun();
    const exitListeners = process.listenerCount('exit');
    const release = lockRun(run, 'prepare');
    note('of this command', 'note');
    end(release);
    note('of a later command', 'trouble');
    assert.match(readFileSync(logFile(run.dir), 'utf8'), /^[^\n]*of this command[^\n]*\n$/);
    assert.equal(process.listenerCount('exit'), exitListeners);
  }
});

test('a command removes what one that was killed left half written in the run folder', () => {
  const run = newRun();
  const ended = spawnSync(process.execPath, ['-e', '0']).pid;
  mkdirSync(run.dir, { recursive: true });
  const names = ['progress.json', 'predictions.jsonl'].map((name) => `${name}.${ended}.tmp`);
  for (const name of names) writeFileSync(join(run.dir, name), '');
  writeFileSync(join(run.dir, 'notes.tmp'), 'not ours');
  lockRun(run, 'prepare')();
  const left = readdirSync(run.dir);
  assert.ok(left.includes('notes.tmp') && !names.some((name) => left.includes(name)), left.join());
});

import assert from 'node:assert/strict';
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  describedSettings,
  runSettingLines,
  runSettings,
  settingLines,
} from '../../src/commands/config-lines.ts';
import { loadConfig } from '../../src/config.ts';
import { settingsReference } from '../../src/settings.ts';
import { UserError } from '../../src/system/errors.ts';
import { commandLine } from '../support/command-line.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = realpathSync(temporaryFolder('config'));
const realm = commandLine(folder);

function load(lines: readonly string[]) {
  const path = join(folder, 'printed.yaml');
  writeFileSync(path, lines.join('\n'));
  return loadConfig(path, []);
}

test('what config prints is a settings file with the defaults', () => {
  const lines = settingLines(describedSettings());
  assert.deepEqual(load(lines), loadConfig(undefined, []));
  const values = lines.filter((line) => /^ *\w+: ./.test(line));
  assert.equal(values.length, settingsReference().filter((entry) => 'default' in entry).length);
});

test('one setting, and a group', () => {
  assert.deepEqual(settingLines(describedSettings('qa.optimizer.beta1')), [
    'qa:',
    '  optimizer:',
    '    # Decay of the mean of the gradients.',
    '    # number from 0 to 1; source: google-research/bert',
    '    beta1: 0.9',
  ]);
  const names = describedSettings('world').map(({ name }) => name);
  assert.deepEqual(names, ['world', 'world.documents', 'world.heldOut']);
  assert.deepEqual(load(settingLines(describedSettings('qa.optimizer'))), loadConfig(undefined, []));
});

test('a name that is no setting, or an old one, is refused', () => {
  const refused = (name: string, message: RegExp) =>
    assert.throws(
      () => describedSettings(name),
      (error) => error instanceof UserError && message.test(error.message),
    );
  refused('qa.step', /^config qa\.step: no such setting; did you mean "qa\.steps"\?$/);
  refused('index.scalar', /^index\.scalar is now index\.dtype; use the new name$/);
});

test('what a run has changed, and whether its files are there', () => {
  const run = join(folder, 'run');
  mkdirSync(run);
  writeFileSync(join(folder, 'train.jsonl'), '');
  writeFileSync(
    join(run, 'config.yaml'),
    'seed: 1\nqa: { steps: 7 }\ndata: { documents: none.jsonl, train: ../train.jsonl }\nmodel: { initial: hf:owner/name }\n',
  );
  assert.deepEqual(runSettings(run), [
    { name: 'data.documents', value: join(run, 'none.jsonl'), default: null, exists: false },
    { name: 'data.train', value: join(folder, 'train.jsonl'), default: null, exists: true },
    { name: 'model.initial', value: 'hf:owner/name', default: null },
    { name: 'qa.steps', value: 7, default: 300_000 },
  ]);
  assert.deepEqual(runSettingLines(runSettings(run)), [
    `data.documents  ${join(run, 'none.jsonl')} (missing)`,
    `data.train      ${join(folder, 'train.jsonl')}`,
    'model.initial   hf:owner/name',
    'qa.steps        7 (default 300000)',
  ]);
  writeFileSync(join(run, 'config.yaml'), 'seed: 1\n');
  assert.deepEqual(runSettingLines(runSettings(run)), ['every setting has its default']);
});

test('the command prints settings, JSON with --json, and what a run has changed', async () => {
  const all = await realm('config');
  assert.equal(all.code, 0, all.err);
  assert.deepEqual(load(all.out.split('\n')), loadConfig(undefined, []));
  const { code, out } = await realm('config', 'qa.steps', '--json');
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(out), [settingsReference().find(({ name }) => name === 'qa.steps')]);
  const run = join(folder, 'other');
  mkdirSync(run);
  writeFileSync(join(run, 'config.yaml'), 'qa: { steps: 7 }\nseed: 2\n');
  const some = await realm('config', 'qa', '--run', run, '--json');
  assert.deepEqual(JSON.parse(some.out), [{ name: 'qa.steps', value: 7, default: 300_000 }]);
  const none = await realm('config', '--run', join(folder, 'nothing'));
  assert.equal(none.code, 2);
  assert.match(none.err, /config\.yaml: no such file; name the folder of a run/);
});

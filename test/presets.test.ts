import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, realpathSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { loadConfig } from '../src/config.ts';
import { configFile, presets } from '../src/presets.ts';
import { UserError } from '../src/system/errors.ts';
import { temporaryFolder } from './support/tiny.ts';

const packaged = join(import.meta.dirname, '../configs');
const home = process.cwd();
const folder = temporaryFolder('presets');
before(() => process.chdir(folder));
after(() => process.chdir(home));

test('the presets are the files in configs', () => {
  assert.deepEqual(
    presets().map((name) => `${name}.yaml`),
    readdirSync(packaged).sort(),
  );
});

test('a preset is found from any folder, by its name, its file name or its path in the package', () => {
  for (const name of presets()) {
    for (const given of [name, `${name}.yaml`, `configs/${name}.yaml`, `./configs/${name}.yaml`]) {
      assert.equal(resolve(configFile(given)), join(packaged, `${name}.yaml`));
    }
  }
  assert.equal(loadConfig('squad-open', []).text.vocabularySize, 16_000);
  assert.equal(loadConfig('configs/squad-open.yaml', ['seed=9']).seed, 9);
});

test("the caller's own file comes before a preset of the same name", () => {
  writeFileSync('nq.yaml', 'seed: 11\n');
  mkdirSync('configs');
  writeFileSync('configs/paper.yaml', 'seed: 12\n');
  assert.equal(configFile('nq.yaml'), 'nq.yaml');
  assert.equal(loadConfig('nq.yaml', []).seed, 11);
  assert.equal(loadConfig('configs/paper.yaml', []).seed, 12);
  assert.equal(loadConfig('paper', []).seed, 1);
});

test('a folder or file that only shares part of the path does not hide a preset', () => {
  mkdirSync('world');
  assert.equal(resolve(configFile('world')), join(packaged, 'world.yaml'));
  mkdirSync('below');
  process.chdir('below');
  writeFileSync('configs', '');
  assert.equal(resolve(configFile('configs/world.yaml')), join(packaged, 'world.yaml'));
  process.chdir(realpathSync('..'));
});

test('a name that is neither a file nor a preset lists the presets', () => {
  for (const given of [
    'squad',
    'other/world.yaml',
    'configs/world.yml',
    '../package.json.yaml',
    '__proto__',
  ]) {
    assert.throws(
      () => configFile(given),
      (error) =>
        error instanceof UserError &&
        error.message.startsWith(`${given}: no such configuration file; `) &&
        error.message.endsWith(presets().join(', ')),
    );
  }
  assert.throws(() => loadConfig('below', []), /below: is a folder and not a configuration file/);
});

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { settingsPage } from '../scripts/settings-docs.ts';
import { loadConfig } from '../src/config.ts';
import { isSetting, PATHS, settingsReference } from '../src/settings.ts';

const settings = settingsReference().filter(isSetting);

test('docs/settings.md is up to date', () => {
  const page = readFileSync(join(import.meta.dirname, '../docs/settings.md'), 'utf8');
  assert.ok(page === settingsPage(), 'run "npm run docs:settings"');
});

test('every setting is in the reference, with its default and a sentence', () => {
  const leaves = (node: unknown, name = ''): [string, unknown][] =>
    typeof node === 'object' && node !== null
      ? Object.entries(node).flatMap(([key, value]) => leaves(value, name === '' ? key : `${name}.${key}`))
      : [[name, node]];
  assert.deepEqual(
    settings.map(({ name, default: value }) => [name, value]),
    leaves(loadConfig(undefined, [])),
  );
  for (const { name, description } of settingsReference()) assert.match(description, /^\S.*\.$/, name);
});

test('what a setting can be is in words, and its unit', () => {
  const of = (wanted: string) => settings.find(({ name }) => name === wanted)!;
  assert.deepEqual(
    [
      'model.layers',
      'text.blockTokens',
      'model.dropout',
      'model.temperature',
      'refresh.engine',
      'refresh.every',
    ].map((name) => of(name).values),
    [
      'whole number from 1 to 1000',
      'whole number, 16 or more',
      'number from 0 to 0.9',
      'number above 0',
      'tensorflow | webgpu | wasm | cpu | null',
      'whole number, 1 or more | text',
    ],
  );
  assert.equal(of('data.train').values, 'path | null');
  assert.equal(of('text.blockTokens').unit, 'tokens');
  assert.equal(of('text.blockTokens').source, 'paper, section 4.3');
  assert.ok(settings.every(({ values }) => !/undefined/.test(values)));
  // Whole numbers count something.
  const bare = settings.filter(({ values, unit }) => values.startsWith('whole number') && unit === undefined);
  assert.deepEqual(
    bare.map(({ name }) => name),
    ['seed', 'refresh.nice'],
  );
});

test('the settings that are paths', () => {
  assert.deepEqual(
    [...PATHS],
    [
      'data.documents',
      'data.sentences',
      'data.train',
      'data.dev',
      'data.test',
      'text.vocabulary',
      'text.ner',
      'model.initial',
      'model.initialReader',
    ],
  );
});

import assert from 'node:assert/strict';
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { loadConfig, saveConfig } from '../../src/config.ts';
import { embedderShapes } from '../../src/model/embedder.ts';
import { describeModel, disposeModel, type Model } from '../../src/model/model.ts';
import { configSha256, readSnapshot, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { towerFingerprint } from '../../src/retrieval/ensure-index.ts';
import { UserError } from '../../src/system/errors.ts';
import { sha256File } from '../../src/system/files.ts';
import { loadWeights } from '../../src/weights/checkpoint.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('snapshot');
const config = tinyConfig();
const OF = { step: 30, configSha256: configSha256(config), corpusSha256: 'c'.repeat(64) };
const dir = join(folder, 'step-0000030');
let model: Model;

before(async () => {
  await startTestEngine();
  model = tinyModel(config, 50);
});
after(() => disposeModel(model));

test('a snapshot has a complete manifest, and its weights load exactly as written', async () => {
  await writeSnapshot(dir, model, OF);
  const manifest = readSnapshot(dir, OF);
  assert.deepEqual(readdirSync(dir).sort(), ['manifest.json', 'model.safetensors']);
  const { bytes, sha256, weightsSha256, ...rest } = manifest;
  assert.deepEqual(rest, { format: 1, ...OF });
  assert.equal(sha256, sha256File(join(dir, 'model.safetensors')));
  assert.equal(bytes, readFileSync(join(dir, 'model.safetensors')).length);
  const loaded = describeModel(config.model, 50);
  loadWeights(dir, loaded, embedderShapes(loaded.documentTower, loaded.embedder), '');
  assert.equal(await towerFingerprint(loaded), weightsSha256);
  assert.equal(await towerFingerprint(model), weightsSha256);
  disposeModel(loaded);
});

for (const [what, harm, message] of [
  [
    'no manifest',
    () => rmSync(join(dir, 'manifest.json')),
    /manifest\.json: no such snapshot manifest; the trainer/,
  ],
  [
    'half a manifest',
    () => truncateSync(join(dir, 'manifest.json'), 50),
    /manifest\.json: .*is not valid JSON/,
  ],
  ['another format', () => edit({ format: 2 }), /manifest\.json: format/],
  ['a field too few', () => edit({ sha256: undefined }), /manifest\.json: sha256/],
  ['another step', () => edit({ step: 40 }), /is of step 40, not of step 30/],
  ['another corpus', () => edit({ corpusSha256: 'd' }), /another corpus.*stop and restart the trainer/],
  ['other settings', () => edit({ configSha256: 'd' }), /other settings.*stop and restart the trainer/],
  ['no weights', () => rmSync(join(dir, 'model.safetensors')), /model\.safetensors: no such weights/],
  ['half the weights', () => truncateSync(join(dir, 'model.safetensors'), 999), /has 999 bytes, not \d+/],
  ['a bit of the weights', flipBit, /model\.safetensors: is damaged/],
] as [string, () => void, RegExp][]) {
  test(`refused with a one-sentence error: ${what}`, async () => {
    await writeSnapshot(dir, model, OF);
    readSnapshot(dir, OF);
    harm();
    assert.throws(
      () => readSnapshot(dir, OF),
      (error) => error instanceof UserError && message.test(error.message) && error.message.startsWith(dir),
    );
  });
}

function edit(change: object): void {
  const path = join(dir, 'manifest.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
}

function flipBit(): void {
  const path = join(dir, 'model.safetensors');
  const bytes = readFileSync(path);
  bytes[bytes.length - 9] ^= 1;
  writeFileSync(path, bytes);
}

test('the hash of settings survives saving and loading, and changes only with settings that embedding depends on', () => {
  const path = join(folder, 'config.yaml');
  saveConfig(path, config);
  assert.equal(configSha256(loadConfig(path, [])), OF.configSha256);
  for (const other of ['text.blockTokens=63', 'model.gelu=exact', 'index.m=17'])
    assert.notEqual(configSha256(tinyConfig(other)), OF.configSha256);
  assert.equal(configSha256(tinyConfig('qa.steps=5', 'train.logEvery=7')), OF.configSha256);
});

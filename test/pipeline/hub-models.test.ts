import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { main } from '../../src/cli.ts';
import { loadConfig } from '../../src/config.ts';
import { describeModel } from '../../src/model/model.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import { importBert } from '../../src/weights/import-bert.ts';
import { COMMIT, fakeHub } from '../support/hub.ts';
import { temporaryFolder } from '../support/tiny.ts';

const encoder = join(import.meta.dirname, '../../assets/world-encoder');
const PINNED = `hf:owner/tiny@main#${COMMIT}`;
const folder = temporaryFolder('hub-models');
const hub = await fakeHub();
hub.files = ['config.json', 'vocab.txt', 'model.safetensors'].map((path) => ({
  path,
  content: readFileSync(join(encoder, path)),
  lfs: path.endsWith('.safetensors'),
}));
const before = { ...process.env };
process.env.HF_HOME = join(folder, 'home');
process.env.HF_ENDPOINT = hub.url;
delete process.env.HF_HUB_CACHE;
delete process.env.HF_HUB_OFFLINE;
after(() => {
  process.env = before;
});

const documents = join(folder, 'docs.jsonl');
const text = 'Oslo has been the capital of Norway since 1814. Trondheim was it before, until 1217 or so.';
writeFileSync(documents, `${JSON.stringify({ id: '1', title: 'Oslo', text })}\n`);
const settings = join(folder, 'settings.yaml');
writeFileSync(
  settings,
  `${readFileSync(join(import.meta.dirname, '../../configs/world.yaml'), 'utf8').replace(/ {2}initial: .*/, '  initial: hf:owner/tiny')}`,
);
const dir = join(folder, 'run');
const run = runFolder(dir);
const prepare = ['prepare', '--run', dir, '--config', settings, '--set', `data.documents=${documents}`];

/** Runs a command line and returns its exit code and stderr. */
async function realm(...args: string[]): Promise<{ code: number; said: string }> {
  const write = process.stderr.write;
  let said = '';
  process.stderr.write = ((piece: string) => {
    said += piece;
    return true;
  }) as typeof write;
  try {
    return { code: await main(['node', 'realm', ...args]), said };
  } finally {
    process.stderr.write = write;
  }
}

test('missing documents are noticed before anything is downloaded', async () => {
  const args = ['prepare', '--run', dir, '--config', settings];
  const { code } = await realm(...args, '--set', 'data.documents=nowhere.jsonl');
  assert.equal(code, 2);
  assert.deepEqual(hub.requests, []);
  assert.ok(!existsSync(run.config));
});

test('a model that the Hub does not have leaves no run behind', async () => {
  const { code, said } = await realm(...prepare, '--set', 'model.initial=hf:owner/other');
  assert.equal(code, 2);
  assert.match(said, /hf:owner\/other.*no such model/);
  assert.ok(!existsSync(run.config));
});

test('prepare downloads the model, prints its size and licence first, and the run keeps its commit', async () => {
  const { code, said } = await realm(...prepare);
  assert.equal(code, 0, said);
  assert.match(said, /^hf:owner\/tiny@main: 2\.8 MB in 3 files, licence apache-2\.0, commit 1a2b/);
  assert.equal(loadConfig(run.config, []).model.initial, PINNED);
  assert.ok(existsSync(run.corpusManifest));
});

test('the same command keeps the commit and sends no request to the Hub, even if the branch has moved', async () => {
  hub.forget();
  hub.revisions = { main: 'b'.repeat(40) };
  for (const args of [prepare, ['prepare', '--run', dir, '--set', 'model.initial=hf:owner/tiny']]) {
    const { code, said } = await realm(...args);
    assert.equal(code, 0, said);
    assert.equal(loadConfig(run.config, []).model.initial, PINNED);
  }
  assert.deepEqual(hub.requests, []);
  hub.forget();
});

test('another revision is another model: the run refuses a --config with it', () => {
  const other = join(folder, 'other.yaml');
  writeFileSync(other, readFileSync(settings, 'utf8').replace('hf:owner/tiny', 'hf:owner/tiny@v2'));
  const set = [`data.documents=${documents}`];
  assert.throws(() => runConfig(run, { config: other, set }), /differs from/);
  assert.equal(runConfig(run, { config: settings, set }).model.initial, PINNED);
});

test('later stages read the weights from the cache', async () => {
  const { model } = loadConfig(run.config, []);
  const sizes = describeModel(model, 2000).embedder;
  const cached = importBert(PINNED, sizes);
  const original = importBert(encoder, sizes);
  assert.deepEqual([...cached.params.keys()], [...original.params.keys()]);
  for (const [name, { data }] of original.params) assert.deepEqual(cached.params.get(name)!.data, data);
  assert.deepEqual(hub.requests, []);
});

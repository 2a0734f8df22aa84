import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { makeBatches, SIZES } from '../../bench/batches.ts';
import { startBuild } from '../../bench/build-process.ts';
import { findInstalled } from '../../src/engine/installed.mjs';
import { UserError } from '../../src/system/errors.ts';
import { checkout } from '../support/checkout.ts';

/** Another build, without a native engine. */
const other = checkout();
for (const name of ['bench', 'configs']) cpSync(name, join(other.root, name), { recursive: true });
after(other.remove);

const [size, mini] = SIZES;
const batches = makeBatches(size, 1);

test('npm run bench -- --against takes the steps of another checkout, too', () => {
  const program = ['--import', 'tsx', 'bench/bench.ts', '--against', other.root, '--engine', 'wasm'];
  const options = ['--sizes', 'tiny', '--rounds', '1', '--threads', '2', '--python', 'none', '--quick'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...program, ...options, '--json'], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /\nagainst realm: WebAssembly on 2 CPU cores\n/);
  assert.equal(stderr.match(/ of the peak; ours \/ realm \d.\d\d \(\d.\d\d to \d.\d\d\)\n/g)?.length, 4);
  const { against, rows } = JSON.parse(stdout);
  assert.deepEqual(against, { commit: 'realm', engine: 'WebAssembly on 2 CPU cores' });
  for (const row of rows) assert.ok(row.against.length === 1 && row.against[0] > 0, JSON.stringify(row));
});

test('a build in a process of its own measures the memory of a step', async () => {
  const build = await startBuild(other.root, 'wasm', 1);
  const bytes = await build.memory('embed', size, batches);
  build.end();
  const weights = 4 * 16_000 * 128; // at least those of the word embeddings of one encoder
  assert.ok(bytes > weights && bytes < 1e9, String(bytes));
});

test('the native engine uses freed memory again', async (t) => {
  if (!findInstalled()) return t.skip('the native engine is not built');
  const build = await startBuild('.', 'tensorflow', 1);
  const bytes = await build.memory('embed', mini, makeBatches(mini, 1));
  build.end();
  // 61 MB of weights, and 122 MB of outputs in each of the layers; with TensorFlow's allocation and glibc 2.36 it took 370 to 420 MB.
  assert.ok(bytes < 300e6, `${(bytes / 1e6).toFixed(0)} MB`);
});

test('what a checkout lacks is told in one sentence', async () => {
  const refused = (message: string) => new UserError(message);
  await assert.rejects(
    startBuild(other.folder, 'cpu', 1),
    refused(`${other.folder}: is no checkout of realm with its packages; run npm ci in one and name it`),
  );
  writeFileSync(join(other.root, 'bench', 'ours.ts'), 'export const STEPS = [];');
  await assert.rejects(
    (await startBuild(other.root, 'cpu', 1)).prepare(size, batches),
    refused(`${other.root}: bench/ours.ts there has no function ours; name a checkout of another commit`),
  );
  rmSync(join(other.root, 'src', 'engine.ts'));
  await assert.rejects(
    startBuild(other.root, 'cpu', 1),
    refused(
      `${other.root}: src/engine.ts there has no function startEngine; name a checkout of another commit`,
    ),
  );
});

import assert from 'node:assert/strict';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { embedderShapes } from '../../src/model/embedder.ts';
import { disposeModel } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { embedShard } from '../../src/pipeline/embed.ts';
import { configSha256, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { digestsOf, readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { listShards, shardFolder } from '../../src/retrieval/shards.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { commandLine } from '../support/command-line.ts';
import { retrieverRun } from '../support/retriever-run.ts';
import { temporaryFolder, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('embed');
/** A run without an index, and another one with the index that `build-index` makes of it. */
let original: Context;
let plain: Context;
before(async () => {
  original = await retrieverRun(folder, 'index.subIndexes=2');
  plain = copy('plain');
  await buildRunIndex(plain);
});

/** A copy of the run, as another machine would see it. */
function copy(name: string): Context {
  const run = runFolder(join(folder, name));
  cpSync(original.run.dir, run.dir, { recursive: true });
  return { ...original, run };
}

const embed = (context: Context, number: number, of: number, snapshot?: string) =>
  embedShard({ ...context, readOnly: true }, { number, of }, snapshot);
const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof UserError && message.test(error.message);

/** The index in use has the same bytes in every file, and in the manifest all but the time. */
function assertSameIndex(actual: Context, expected: Context): void {
  const [a, b] = [actual, expected].map(({ run }) => currentIndex(run.index)!);
  const [ours, theirs] = [a, b].map(readManifest);
  assert.deepEqual({ ...ours, createdAt: '' }, { ...theirs, createdAt: '' });
  assert.ok(theirs.rows > 2 * 1024 && theirs.graphs.length === 2);
  for (const { name } of digestsOf(theirs))
    assert.ok(readFileSync(join(a, name)).equals(readFileSync(join(b, name))), name);
}

test('an index assembled of any number of shards equals that of build-index to the byte', async () => {
  for (const of of [1, 2, 3, 5]) {
    const context = copy(`of-${of}`);
    // In any order, and two at once.
    const numbers = Array.from({ length: of }, (_, i) => of - i);
    for (const number of numbers) await embed(context, number, of);
    await buildRunIndex(context, undefined, true);
    assertSameIndex(context, plain);
    assert.deepEqual(readdirSync(context.run.shards), [], 'shards are removed once the index is published');
    // Again: the index is there, and no shard is needed.
    await buildRunIndex(context, undefined, true);
    rmSync(context.run.dir, { recursive: true });
  }
});

test('a shard that is there is recognised, a damaged one is made again, and two at once are harmless', async () => {
  const context = copy('again');
  const first = await embed(context, 2, 3);
  assert.deepEqual([first.embedded, first.shard, first.of, first.first], [true, 2, 3, 1024]);
  assert.deepEqual(await embed(context, 2, 3), { ...first, embedded: false });
  const bytes = readFileSync(first.path);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(first.path, bytes);
  assert.deepEqual(await embed(context, 2, 3), first);
  const [a, b] = await Promise.all([embed(context, 1, 3), embed(context, 1, 3)]);
  assert.deepEqual([a.sha256, a.path], [b.sha256, b.path]);
  const [weights] = readdirSync(context.run.shards);
  assert.equal(readdirSync(join(context.run.shards, weights)).length, 2);
  assert.ok(!existsSync(join(context.run.dir, 'lock')) && !existsSync(context.run.index));
});

test('shards that are missing, or would give other vectors, are named with the command for them', async () => {
  const context = copy('missing');
  const { dir, shards } = context.run;
  const assembled = () => buildRunIndex(context, undefined, true);
  await assert.rejects(
    assembled(),
    refusal(/has no shards of the current corpus.*realm embed --run \S+ --shard 1\/N" to/),
  );
  for (const number of [1, 3, 8]) await embed(context, number, 8);
  await assert.rejects(
    assembled(),
    refusal(
      /: shards 2, 4-7 of 8 are missing; make each of them with "realm embed --run \S+ --shard NUMBER\/8"$/,
    ),
  );
  assert.ok(!existsSync(join(context.run.index, 'current')));
  for (const number of [1, 2]) await embed(context, number, 3);
  const other = {
    ...context,
    config: runConfig(context.run, { set: ['text.blockTokens=60'] }, () => {}, false),
  };
  await embed(other, 3, 3);
  await assert.rejects(
    assembled(),
    refusal(
      /: shard 3 of 3 is missing; 3\/3 cannot be used, because it was made with other settings of text or model; make it with "realm embed --run \S+ --shard 3\/3"$/,
    ),
  );
  await embed(context, 3, 3);
  await assembled();
  assertSameIndex(context, plain);
  assert.ok(!existsSync(join(shards, 'lock')) && existsSync(dir));
});

test('vectors of a snapshot are those of its weights', async () => {
  const context = copy('snapshot');
  const { run, config } = context;
  const corpus = openCorpus(run.corpus);
  const model = tinyModel(config, corpus.tokenizer.size, 2);
  await writeSnapshot(join(run.snapshots, 'step-0000040'), model, {
    step: 40,
    configSha256: configSha256(config),
    corpusSha256: corpus.sha256,
  });
  const tower = embedderShapes(model.documentTower, model.embedder);
  assert.ok(tower.length > 10);
  disposeModel(model);
  const [old, made] = [await embed(context, 1, 4), await embed(context, 1, 4, 'step-0000040')];
  assert.notEqual(made.sha256, old.sha256);
  const { weightsSha256 } = JSON.parse(
    readFileSync(join(run.snapshots, 'step-0000040/manifest.json'), 'utf8'),
  );
  const [file] = listShards(shardFolder(run.shards, { weightsSha256 }));
  assert.deepEqual([file.path, file.origin.weightsSha256], [made.path, weightsSha256]);
  corpus.close();
  for (const name of ['step-0000041', 'none', '../snapshots', ''])
    await assert.rejects(embed(context, 1, 4, name), UserError, name);
});

test('the commands embed and build-index --assemble do the same', async () => {
  const context = copy('commands');
  const realm = commandLine();
  const engine = ['--engine', context.engine];
  const run = ['--run', context.run.dir, ...engine];
  const missing = await realm('build-index', '--assemble', ...run);
  assert.deepEqual([missing.code, missing.out], [2, '']);
  const one = await realm('embed', '--shard', '1/2', ...run, '--json');
  assert.equal(one.code, 0, one.err);
  const { sha256, path, embedded } = JSON.parse(one.out);
  assert.ok(path.includes(sha256) && embedded);
  assert.match(
    (await realm('embed', '--shard', '1/2', ...run)).out,
    /was there already\n.*\n.*\nSHA-256 {2}[0-9a-f]{64}\n$/,
  );
  assert.equal((await realm('embed', '--shard', '3/2', ...run)).code, 2);
  assert.equal((await realm('embed', '--shard', '2/2', '--snapshot', 'ict-warmup', ...run)).code, 0);
  const done = await realm('build-index', '--assemble', ...run);
  assert.equal(done.code, 0, done.err);
  assertSameIndex(context, plain);
});

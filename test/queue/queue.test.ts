import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { engineIdentity } from '../../src/engine.ts';
import { describeModel, disposeModel, type Model, retrieverShapes } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { type HandOut, queuedEmbeddings } from '../../src/queue/hand-out.ts';
import { startRefresher } from '../../src/refresher/client.ts';
import { configSha256, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { encodeBlocks } from '../../src/retrieval/encode-blocks.ts';
import { vectorSource } from '../../src/retrieval/ensure-index.ts';
import { digestsOf, readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { shardOrigin } from '../../src/retrieval/shards.ts';
import { runFolder } from '../../src/run/folder.ts';
import { openCheckpoint } from '../../src/train/checkpoints.ts';
import { loadWeights } from '../../src/weights/checkpoint.ts';
import { commandLine } from '../support/command-line.ts';
import { noRedis, startRedis, type TestRedis } from '../support/redis.ts';
import { retrieverRun } from '../support/retriever-run.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Workers and trainers with a real Redis server. Whatever happens to workers and server, the vectors are those that one
// process makes.

const skip = noRedis;
const folder = temporaryFolder('queue');
let original: Context;
let plain: Context;
let redis: TestRedis;
before(async () => {
  if (skip) return;
  redis = await startRedis();
  original = await retrieverRun(folder, 'refresh.shards=3');
  plain = copy('plain');
  await buildRunIndex(plain);
});

const workers = new Set<ChildProcess>();
after(async () => {
  for (const worker of workers) worker.kill('SIGKILL');
  await redis?.end();
});

function copy(name: string): Context {
  const run = runFolder(join(folder, name));
  cpSync(original.run.dir, run.dir, { recursive: true });
  return { ...original, run };
}

/** A process, and what it has printed on stderr. */
function started(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  workers.add(child);
  let text = '';
  child.stderr.on('data', (piece) => {
    text += piece;
    if (process.env.REALM_TEST_TRACE) process.stderr.write(piece);
  });
  return {
    child,
    text: () => text,
    async says(pattern: RegExp): Promise<void> {
      while (!pattern.test(text)) {
        assert.ok(child.exitCode === null && child.signalCode === null, `it ended: ${text}`);
        await sleep(20);
      }
    },
    async end(): Promise<number | null> {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await gone;
      return child.exitCode;
    },
  };
}

const REALM = join(import.meta.dirname, '../../bin/realm');
const worker = (url: URL, env: NodeJS.ProcessEnv = {}) =>
  started([REALM, 'worker', '--queue', url.href, '--engine', original.engine], env);

/** A worker whose lease is short. */
const quickWorker = (url: URL) => {
  const times = JSON.stringify({ lease: 10_000, refused: 100, pause: 200, grace: 1000 });
  const entry = join(import.meta.dirname, '../support/queue-worker.ts');
  return started(['--import', 'tsx', entry, url.href, original.engine, times]);
};

function assertSameIndex(actual: Context): void {
  const [a, b] = [actual, plain].map(({ run }) => currentIndex(run.index)!);
  const [ours, theirs] = [a, b].map(readManifest);
  assert.deepEqual({ ...ours, createdAt: '' }, { ...theirs, createdAt: '' });
  for (const { name } of digestsOf(theirs))
    assert.ok(readFileSync(join(a, name)).equals(readFileSync(join(b, name))), name);
}

/** All files of a folder as one text. */
const contentOf = (dir: string) =>
  (
    readdirSync(dir, { recursive: true, withFileTypes: true }) as unknown as {
      name: string;
      parentPath: string;
      isFile(): boolean;
    }[]
  )
    .filter((entry) => entry.isFile())
    .map(({ name, parentPath }) => readFileSync(join(parentPath, name), 'latin1'))
    .join('\n');

/** A trainer's side without a run of its own: what it has embedded itself, what it has said, and how to take all vectors. */
async function handOut(name: string, url: URL, change: Partial<HandOut['origin']> = {}) {
  const context = copy(name);
  const { run, config } = context;
  const corpus = openCorpus(run.corpus);
  const model: Model = describeModel(config.model, corpus.tokenizer.size);
  loadWeights(openCheckpoint(run.checkpoint('ict-warmup'), 'latest').dir, model, retrieverShapes(model), '');
  const of = { step: 7, configSha256: configSha256(config), corpusSha256: corpus.sha256 };
  await writeSnapshot(join(run.snapshots, 'step-0000007'), model, of);
  const source = await vectorSource(model, corpus, config);
  const said: string[] = [];
  const own: number[] = [];
  const given: HandOut = {
    url,
    run,
    snapshot: 'step-0000007',
    origin: { ...shardOrigin(source, engineIdentity()), ...change },
    shards: 3,
    embed(first, end) {
      own.push(first);
      const { tokensPerBatch } = config.index;
      return encodeBlocks(model, corpus, {
        blockTokens: config.text.blockTokens,
        tokensPerBatch,
        first,
        end,
      });
    },
    say: (sentence) => said.push(sentence),
  };
  const take = async (times = { poll: 50, patience: 1e9 }) => {
    const all: number[] = [];
    for await (const piece of queuedEmbeddings(given, 0, {}, times)) all.push(...piece);
    disposeModel(model);
    corpus.close();
    const index = currentIndex(plain.run.index)!;
    const bytes = readFileSync(join(index, 'embeddings.f32'));
    assert.ok(bytes.equals(Buffer.from(Float32Array.from(all).buffer)), 'the vectors of one process');
    assert.ok(!existsSync(join(run.dir, 'queue.json')));
  };
  return { run, said, own, take };
}

test('two workers make the index of build-index, and give their shards back when they are stopped', {
  skip,
}, async () => {
  const two = [worker(redis.url), worker(redis.url)];
  await Promise.all(two.map((one) => one.says(/waiting for shards/)));
  const context = { ...copy('two'), queue: redis.url.href };
  await buildRunIndex(context);
  assertSameIndex(context);
  const done = two.map(({ text }) => [...text().matchAll(/is done, \d+ in all/g)].length);
  assert.equal(done[0] + done[1], 3, two.map(({ text }) => text()).join('\n'));
  assert.deepEqual(readdirSync(context.run.shards), []);
  assert.ok(!existsSync(join(context.run.snapshots, 'step-0000000')));
  assert.deepEqual(await Promise.all(two.map((one) => one.end())), [0, 0]);
});

test('the refresher hands its shards to workers too', { skip }, async () => {
  const one = worker(redis.url);
  await one.says(/waiting for shards/);
  const { run, config, engine } = copy('refresher');
  const corpus = openCorpus(run.corpus);
  const model = describeModel(config.model, corpus.tokenizer.size);
  loadWeights(openCheckpoint(run.checkpoint('ict-warmup'), 'latest').dir, model, retrieverShapes(model), '');
  const snapshot = join(run.snapshots, 'step-0000007');
  const of = { step: 7, configSha256: configSha256(config), corpusSha256: corpus.sha256 };
  await writeSnapshot(snapshot, model, of);
  const { rows, dimensions } = readManifest(currentIndex(plain.run.index)!);
  await new Promise<void>((resolve, reject) => {
    const refresher = startRefresher(run.dir, {
      engine,
      nice: 0,
      threads: 0,
      queue: redis.url.href,
      rows,
      dimensions,
      maxFailures: 1,
      onFailure: reject,
      onPublished: () => refresher.stop().then(resolve, reject),
    });
    refresher.request({ snapshot, step: 7 });
  });
  corpus.close();
  disposeModel(model);
  const [ours, theirs] = [run, plain.run].map(({ index }) => join(currentIndex(index)!, 'embeddings.f32'));
  assert.ok(readFileSync(ours).equals(readFileSync(theirs)));
  assert.equal([...one.text().matchAll(/is done/g)].length, 3, one.text());
  await one.end();
});

test('the shard of a killed worker is done by another one, and its process ends with it', {
  skip,
}, async () => {
  const { own, said, take } = await handOut('killed', redis.url);
  const taken = take();
  const first = quickWorker(redis.url);
  await first.says(/embedding/);
  first.child.kill('SIGKILL');
  const second = quickWorker(redis.url);
  await taken;
  assert.deepEqual([own, said], [[], []]);
  await second.end();
});

test('a worker can be stopped while the server is away', { skip }, async () => {
  const server = await startRedis();
  const one = quickWorker(server.url);
  await one.says(/waiting for shards/);
  await sleep(500); // for its second connection, which waits for jobs
  await server.kill();
  await sleep(3000); // now it waits between two tries to connect
  assert.equal(await one.end(), 0);
  await server.end();
});

test('without a worker the trainer embeds itself, and says so once', { skip }, async () => {
  const { own, said, take } = await handOut('alone', redis.url);
  await take({ poll: 20, patience: 200 });
  assert.deepEqual(own, [0, 1024, 2048]);
  assert.equal(said.length, 1);
  assert.match(
    said[0],
    /^queue redis:\/\/127\.0\.0\.1:\d+: no worker has taken a shard for 0\.2 s; this machine/,
  );
});

test('a worker of another version or engine leaves the shards to others, and the trainer says why', {
  skip,
}, async () => {
  const one = quickWorker(redis.url);
  await one.says(/waiting for shards/);
  for (const [name, change, why] of [
    ['version', { version: '9.9.9' }, /it has realm 0\.1\.0, and the trainer 9\.9\.9/],
    ['engine', { engine: 'an abacus' }, /it computes with .*, and the trainer with an abacus/],
  ] as const) {
    const { said, own, take } = await handOut(name, redis.url, change);
    await take({ poll: 50, patience: 3000 });
    assert.deepEqual(own, [0, 1024, 2048]);
    assert.match(said.join('\n'), /^queue \S+: no worker has taken a shard for 3 s \(one refused: [^\n]*$/);
    assert.match(said[0], why);
    assert.match(one.text(), why);
  }
  // It still takes the shards that it can do.
  const { said, own, take } = await handOut('same', redis.url);
  await take();
  assert.deepEqual([own, said], [[], []]);
  await one.end();
});

test('a server that dies for good or comes back empty costs time only', { skip }, async () => {
  const mortal = await startRedis();
  const gone = await handOut('gone', mortal.url);
  const one = quickWorker(mortal.url);
  await one.says(/waiting for shards/);
  const taken = gone.take({ poll: 50, patience: 20_000 });
  await one.says(/embedding/);
  await mortal.kill();
  await taken;
  assert.equal(gone.said.length, 1);
  assert.match(gone.said[0], /cannot be reached \(.+\); this machine embeds the shards itself$/);
  // The worker waits for the server, and then for new shards.
  await mortal.start();
  const back = await handOut('back', mortal.url);
  const again = back.take();
  await one.says(/back is done/);
  await mortal.kill();
  await mortal.start();
  await again;
  assert.deepEqual([back.own, back.said], [[], []]);
  assert.equal(await one.end(), 0);
  await mortal.end();
});

test('a password is in no message and no file of the run', { skip }, async () => {
  const secret = 'Unheard0f';
  const locked = await startRedis([], secret);
  const bare = new URL(locked.url);
  bare.password = '';
  const realm = commandLine();
  const refused = await realm('worker', '--queue', bare.href, '--engine', original.engine);
  assert.equal(refused.code, 2);
  assert.match(refused.err, /cannot be used \(NOAUTH .*check address and password/);
  // The worker takes it from the variable, the trainer from the address.
  const one = worker(bare, { REALM_QUEUE_PASSWORD: secret });
  await one.says(/waiting for shards/);
  const context = copy('secret');
  const run = ['--run', context.run.dir, '--engine', context.engine];
  const built = await realm('build-index', ...run, '--queue', locked.url.href);
  assert.equal(built.code, 0, built.err);
  assertSameIndex(context);
  const saved = await realm('build-index', ...run, '--set', `refresh.queue=${locked.url.href}`);
  assert.equal(saved.code, 2);
  const all = [built, saved, refused].map(({ out, err }) => out + err).join('\n') + one.text();
  assert.ok(!all.includes(secret) && !contentOf(context.run.dir).includes(secret));
  assert.match(all, /embedding step-0000000 \d\/3/);
  await one.end();
  await locked.end();
});

test('worker and trainer use a server with TLS, and refuse one whose certificate they do not trust', {
  skip: skip || (spawnSync('openssl', ['version']).status !== 0 && 'openssl is not installed'),
}, async () => {
  const [key, certificate] = ['key.pem', 'certificate.pem'].map((name) => join(folder, name));
  const made = spawnSync('openssl', [
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', certificate, '-days', '2'],
    ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'],
  ]);
  assert.equal(made.status, 0, String(made.stderr));
  const files = ['--tls-cert-file', certificate, '--tls-key-file', key, '--tls-ca-cert-file', certificate];
  const safe = await startRedis(['--tls-port', '', ...files, '--tls-auth-clients', 'no'], 'Unheard0f');
  assert.equal(safe.url.protocol, 'rediss:');
  const trusts = { NODE_EXTRA_CA_CERTS: certificate };
  const refused = await commandLine()('worker', '--queue', safe.url.href, '--engine', original.engine);
  assert.equal(refused.code, 2);
  assert.match(refused.err, /cannot be used \(self-signed certificate/);

  const one = worker(safe.url, trusts);
  await one.says(/waiting for shards/);
  const context = copy('tls');
  const run = ['--run', context.run.dir, '--engine', context.engine, '--queue', safe.url.href];
  const built = started([REALM, 'build-index', ...run], trusts);
  await new Promise((resolve) => built.child.once('exit', resolve));
  assert.equal(built.child.exitCode, 0, built.text());
  assertSameIndex(context);
  assert.equal([...one.text().matchAll(/is done/g)].length, 3, one.text());
  assert.equal(await one.end(), 0);
  await safe.end();
});

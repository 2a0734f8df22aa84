import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { disposeModel } from '../../src/model/model.ts';
import type { FromRefresher, RefresherStart, ToRefresher } from '../../src/refresher/client.ts';
import { configSha256, writeSnapshot } from '../../src/refresher/snapshot.ts';
import { indexName, makeIndex } from '../../src/retrieval/ensure-index.ts';
import { EMBEDDINGS } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex } from '../../src/retrieval/search.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import { PART } from '../../src/system/files.ts';
import { startTestEngine } from '../support/engine.ts';
import { TINY, temporaryFolder, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('refresher');
const run = runFolder(folder);
const config = runConfig(run, { set: TINY });
/** Snapshots of step 20, of step 40 with other weights, of step 50 for other settings, and of step 60 for another corpus. */
const snapshot = (step: number) => join(run.snapshots, indexName(step));
/** The index that this process makes from the same weights. */
const here = join(folder, 'here');
let corpus: Corpus;
let engine: string;

before(async () => {
  ({ name: engine } = await startTestEngine());
  ({ corpus } = await tinyCorpus(folder, config));
  const model = tinyModel(config, corpus.tokenizer.size);
  const of = { configSha256: configSha256(config), corpusSha256: corpus.sha256 };
  await writeSnapshot(snapshot(20), model, { step: 20, ...of });
  await writeSnapshot(snapshot(50), model, { step: 50, ...of, configSha256: 'other' });
  await writeSnapshot(snapshot(60), model, { step: 60, ...of, corpusSha256: 'other' });
  const other = tinyModel(config, corpus.tokenizer.size, 2);
  await writeSnapshot(snapshot(40), other, { step: 40, ...of });
  disposeModel(other);
  await makeIndex(here, 'one', { model, corpus, config, step: 20 });
  disposeModel(model);
});

const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** A refresher that is ready, and the messages it sends. */
async function startChild(more: Partial<RefresherStart> = {}) {
  const child = fork(join(import.meta.dirname, '../../src/refresher/child.ts'), [], {
    execArgv: ['--import', import.meta.resolve('tsx')],
  });
  children.push(child);
  const received: FromRefresher[] = [];
  child.on('message', (message) => received.push(message as FromRefresher));
  const send = (message: ToRefresher) => child.send(message);
  const answer = async () => {
    const from = received.length;
    while (received.slice(from).every(({ type }) => type === 'progress' || type === 'alive'))
      await once(child, 'message');
    return received.at(-1)!;
  };
  send({ type: 'start', runDir: folder, engine, nice: 0, threads: 1, queue: null, ...more });
  assert.deepEqual(await answer(), { type: 'ready' });
  return { child, received, send, answer };
}

test('new weights become the index in use, identical to one made in this process', async () => {
  const { child, received, send, answer } = await startChild({ threads: 0 }); // all
  send({ type: 'refresh', snapshot: snapshot(20), step: 20 });
  const published = await answer();
  assert.ok(published.type === 'published', JSON.stringify(published));
  assert.deepEqual([published.name, published.step, published.rows], ['step-0000020', 20, corpus.blocks]);
  assert.ok(received.some((m) => m.type === 'alive' && m.quiet >= 0));
  assert.ok(received.some((m) => m.type === 'progress' && m.done === m.total && m.total === corpus.blocks));

  assert.equal(currentIndex(run.index), join(run.index, published.name));
  const [theirs, ours] = [run.index, here].map((root) => openIndex(currentIndex(root)!, { efSearch: 64 }));
  assert.equal(theirs.manifest.step, 20);
  assert.equal(theirs.manifest.weightsSha256, ours.manifest.weightsSha256);
  const all = Int32Array.from({ length: corpus.blocks }, (_, b) => b);
  const vectors = ours.vectors(all);
  const off = theirs.vectors(all).map((value, i) => Math.abs(value - vectors[i]));
  assert.ok(Math.max(...off) < 1e-4, `${Math.max(...off)}`);
  theirs.close();
  ours.close();

  // When asked to stop, it exits without an error.
  send({ type: 'stop' });
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

/** One refresher, shared by the tests of refused requests. */
let patient: ReturnType<typeof startChild>;

test('a refresh that cannot be done is reported without a stack, and the next one succeeds', async () => {
  patient = startChild();
  const { send, answer } = await patient;
  send({ type: 'refresh', snapshot: join(folder, 'none'), step: 30 });
  const failed = await answer();
  assert.ok(failed.type === 'failed', JSON.stringify(failed));
  assert.match(failed.message, /none.*no such snapshot manifest; the trainer writes a new one/);
  assert.equal(failed.stack, undefined);
  send({ type: 'refresh', snapshot: snapshot(40), step: 40 });
  assert.equal((await answer()).type, 'published');
});

test('it runs at the requested nice value, but never at a lower one than the trainer', async () => {
  const own = getPriority();
  const { child } = await startChild({ nice: 19 });
  assert.equal(getPriority(child.pid!), 19);
  if (own === 0) setPriority(3);
  const other = await startChild({ nice: 0 });
  assert.equal(getPriority(other.child.pid!), Math.max(own, 3));
});

test('weights for other settings or another corpus than the run has are refused', async () => {
  const { send, answer } = await patient;
  const before = currentIndex(run.index);
  for (const [step, message] of [
    [50, /other settings of model, text or index.*stop and restart the trainer/],
    [60, /another corpus.*stop and restart the trainer/],
  ] as const) {
    send({ type: 'refresh', snapshot: snapshot(step), step });
    const failed = await answer();
    assert.ok(failed.type === 'failed', JSON.stringify(failed));
    assert.match(failed.message, message);
    assert.equal(failed.stack, undefined);
  }
  assert.equal(currentIndex(run.index), before);
});

test('it exits when the trainer has ended', async () => {
  const { child } = await patient;
  child.disconnect();
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

test('it exits at once, even while embedding, when the trainer has ended', async () => {
  const long = runFolder(temporaryFolder('refresher-long'));
  // One block per call with a wide model: the piece of all blocks, written only when it is complete, takes many seconds.
  const wide = ['model.hidden=256', 'model.intermediate=1024', 'model.layers=6'];
  const slow = runConfig(long, { set: [...TINY, ...wide, 'index.tokensPerBatch=1'] });
  const { corpus: large } = await tinyCorpus(long.dir, slow, { documents: 200 });
  const model = tinyModel(slow, large.tokenizer.size);
  const path = join(long.snapshots, 'long');
  const of = { step: 1, configSha256: configSha256(slow), corpusSha256: large.sha256 };
  await writeSnapshot(path, model, of);
  disposeModel(model);
  large.close();
  const { child, send } = await startChild({ runDir: long.dir });
  send({ type: 'refresh', snapshot: path, step: 1 });
  const embeddings = join(long.index, `long${PART}`, EMBEDDINGS);
  while (!existsSync(embeddings)) await sleep(5);
  child.disconnect();
  assert.deepEqual(await once(child, 'exit'), [0, null]);
  assert.deepEqual(readdirSync(long.index), [], 'it stopped before its first piece was complete');
});

import assert from 'node:assert/strict';
import { existsSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import type { EngineName } from '../../src/engine.ts';
import { readerTowerShapes } from '../../src/model/model.ts';
import { type AblateOptions, ablate } from '../../src/pipeline/ablate.ts';
import { type Context, emptyModel, firstWeights, runCorpus } from '../../src/pipeline/context.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { runFolder } from '../../src/run/folder.ts';
import type { Stage } from '../../src/run/stages.ts';
import { UserError } from '../../src/system/errors.ts';
import { releaseLocks } from '../../src/system/lock.ts';
import { openCheckpoint } from '../../src/train/checkpoints.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { startTestEngine } from '../support/engine.ts';
import { stopAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('ablate');
const dir = join(folder, 'ablation');
let engine: EngineName;
before(async () => {
  ({ name: engine } = await startTestEngine());
});

const SMALL = [
  ...TINY,
  'world.documents=40',
  'ict={steps: 2, batch: 8, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
  'pretrain={steps: 2, batch: 2, candidates: 3, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
  'refresh.every=1',
  // Too small to change a single-precision number: fine-tuning ends with the weights that it started with.
  'qa={steps: 1, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104, devQuestions: 4, optimizer: {warmupSteps: 0, learningRate: 1e-30}}',
  'model.initial=null',
];

async function measure(only: string | undefined, more: Partial<AblateOptions> = {}) {
  try {
    return await ablate({ run: dir, set: SMALL, engine, seeds: 1, only, ...more });
  } finally {
    releaseLocks();
  }
}

const rowRun = (name: string, seed = 1) => runFolder(join(dir, `seed-${seed}`, name));
function weights(name: string, stage: Stage): Map<string, Buffer> {
  const file = readSafetensors(openCheckpoint(rowRun(name).checkpoint(stage), 'latest').weights);
  const values = [...file.tensors].map(([name, tensor]) => {
    const { buffer, byteOffset, byteLength } = tensor.read();
    return [name, Buffer.from(buffer.slice(byteOffset, byteOffset + byteLength))] as const;
  });
  file.close();
  return new Map(values);
}
/** Whether all tensors that both have, with names that start with a prefix, are identical to the bit. */
function same(a: Map<string, Buffer>, b: Map<string, Buffer>, prefix: string): boolean {
  const names = [...a.keys()].filter((name) => name.startsWith(prefix) && b.has(name));
  assert.ok(names.length > 3, prefix);
  return names.every((name) => a.get(name)!.equals(b.get(name)!));
}

test('a grid that would take months is refused before any settings are saved, and other settings may follow', async () => {
  const large = join(folder, 'large');
  const shared = runFolder(join(large, 'seed-1', 'shared'));
  for (const [documents, stage, steps] of [
    [40, 'finetune-qa', 'qa.steps'],
    [50, 'ict-warmup', 'ict.steps'],
  ]) {
    const set = [...SMALL, `world.documents=${documents}`, `${steps}=1000000000`];
    await assert.rejects(measure('baseline', { run: large, set }), (error: Error) => {
      assert.match(
        error.message,
        new RegExp(`^${stage}: would take about .* on this machine, .*, or add --yes`),
      );
      return error instanceof UserError;
    });
    for (const { config } of [large, shared.dir, join(large, 'seed-1', 'baseline')].map(runFolder))
      assert.equal(existsSync(config), false, config);
    const corpus = openCorpus(shared.corpus);
    assert.equal(corpus.documents, documents);
    corpus.close();
  }
});

test('rows are measured one by one, and finished rows are kept', async () => {
  const table = await measure('baseline');
  assert.deepEqual(
    table!.rows.map(({ name }) => name),
    ['baseline'],
  );
  const outcome = join(rowRun('baseline').dir, 'outcome.json');
  const before = statSync(outcome).mtimeMs;
  const all = await measure('realm, realm-retriever,realm-reader,baseline');
  assert.equal(statSync(outcome).mtimeMs, before);
  assert.deepEqual(
    all!.rows.map(({ name }) => name),
    ['realm', 'realm-retriever', 'realm-reader', 'baseline'],
  );
  assert.deepEqual(all!.rows[3].exactMatch, table!.rows[0].exactMatch);
  assert.deepEqual(JSON.parse(readFileSync(join(dir, 'ablation', 'table.json'), 'utf8')), all);
  assert.ok(all!.questions > 10);
});

test('each row starts from the weights that its name says', () => {
  const initial = (() => {
    const run = rowRun('baseline');
    const context: Context = { run, config: loadConfig(run.config, []), engine };
    const corpus = runCorpus(context);
    const model = emptyModel(context, corpus);
    firstWeights(context, model, readerTowerShapes(model));
    corpus.close();
    return new Map(
      [...model.params].map(([name, t]) => {
        const values = t.dataSync() as Float32Array;
        return [name, Buffer.from(values.slice().buffer)];
      }),
    );
  })();
  const [ict, pretrained] = [weights('shared', 'ict-warmup'), weights('realm', 'pretrain')];
  assert.ok(!same(ict, pretrained, 'embedder.') && !same(initial, pretrained, 'reader.'));
  for (const [name, retriever, reader] of [
    ['realm', pretrained, pretrained],
    ['realm-retriever', pretrained, initial],
    ['realm-reader', ict, pretrained],
    ['baseline', ict, initial],
  ] as const) {
    const tuned = weights(name, 'finetune-qa');
    assert.ok(same(tuned, retriever, 'embedder.'), name);
    assert.ok(same(tuned, reader, 'reader.layer'), name);
  }
});

test('each row searches with the index of its own retriever, and recall is that of the retriever', async () => {
  const index = (name: string) => readManifest(currentIndex(rowRun(name).index)!).weightsSha256;
  assert.equal(index('realm-retriever'), index('realm'));
  assert.equal(index('realm-reader'), index('baseline'));
  assert.notEqual(index('realm'), index('baseline'));
  const table = await measure(undefined, { only: 'realm' });
  const recall = (name: string) => table!.rows.find((row) => row.name === name)!.recall5;
  assert.deepEqual(recall('realm-retriever'), recall('realm'));
  assert.deepEqual(recall('realm-reader'), recall('baseline'));
  for (const [name, stage] of [
    ['realm', 'pretrain'],
    ['baseline', 'ict-warmup'],
  ] as const) {
    const run = rowRun(name);
    const measured = await evalRecall({ run, config: loadConfig(run.config, []), engine }, stage);
    assert.equal(recall(name).mean, measured.recall[5]);
    assert.notEqual(measured.recall[5], measured.recall[1]);
  }
});

test('rows of a seed have its seed, wait for their indexes and are otherwise equal', () => {
  const settings = (name: string, seed = 1) => loadConfig(rowRun(name, seed).config, []);
  const realm = settings('realm');
  assert.deepEqual([realm.seed, realm.refresh.mode], [1, 'sync']);
  assert.deepEqual(settings('shared'), realm);
  assert.deepEqual(settings('baseline'), {
    ...realm,
    qa: { ...realm.qa, retriever: 'ict-warmup', reader: 'initial' },
  });
});

test('what rows share is made once', () => {
  const real = (path: string) => realpathSync(path);
  for (const name of ['realm', 'realm-retriever', 'realm-reader', 'baseline']) {
    assert.equal(real(rowRun(name).corpus), real(rowRun('shared').corpus));
    assert.equal(
      real(rowRun(name).checkpoint('ict-warmup')),
      real(rowRun('shared').checkpoint('ict-warmup')),
    );
  }
  for (const name of ['realm-retriever', 'realm-reader'])
    assert.equal(real(rowRun(name).checkpoint('pretrain')), real(rowRun('realm').checkpoint('pretrain')));
  assert.ok(!existsSync(rowRun('baseline').checkpoint('pretrain')));
});

test('a stopped row resumes, and ends like one that was never stopped', async () => {
  const whole = await measure('tokens');
  const outcome = () => {
    const { seconds: _, ...rest } = JSON.parse(
      readFileSync(join(rowRun('tokens').dir, 'outcome.json'), 'utf8'),
    );
    return rest;
  };
  const [wanted, tuned] = [outcome(), weights('tokens', 'finetune-qa')];
  const pretrained = weights('tokens', 'pretrain');
  rmSync(rowRun('tokens').dir, { recursive: true });
  const { metrics } = rowRun('tokens');
  assert.equal(await stopAfter(0, metrics('pretrain'), () => measure('tokens')), undefined);
  assert.ok(!existsSync(join(rowRun('tokens').dir, 'outcome.json')));
  const again = await measure('tokens');
  assert.deepEqual(again, whole);
  assert.deepEqual(outcome(), wanted);
  assert.ok(same(weights('tokens', 'pretrain'), pretrained, 'embedder.'));
  assert.ok(same(weights('tokens', 'finetune-qa'), tuned, 'reader.'));
});

test('another seed has another world; the table has the rows that are measured with all seeds', async () => {
  const table = await measure('baseline', { seeds: 2 });
  assert.deepEqual([table!.seeds, table!.rows.map(({ name }) => name)], [2, ['baseline']]);
  assert.equal(table!.rows[0].exactMatch.bySeed.length, 2);
  const text = (seed: number) =>
    readFileSync(join(rowRun('shared', seed).dir, 'data', 'documents.jsonl'), 'utf8');
  assert.notEqual(text(1), text(2));
});

test('a mistake is reported, and nothing is measured', async () => {
  await assert.rejects(measure('realm,stail'), /--only realm,stail: no row "stail"; there are realm, /);
  const before = readFileSync(join(dir, 'config.yaml'), 'utf8');
  await assert.rejects(
    measure('realm', { set: [...SMALL, 'pretrain.steps=3'] }),
    /seed-1\/\w+: was started with other settings; choose another folder with --run/,
  );
  assert.equal(readFileSync(join(dir, 'config.yaml'), 'utf8'), before);
  const own = join(folder, 'documents.jsonl');
  writeFileSync(own, '{"title": "A", "text": "B."}\n');
  await assert.rejects(
    measure('realm', { run: join(folder, 'own'), set: [`data.documents=${own}`] }),
    /data\.documents names your own documents; name their questions too/,
  );
  writeFileSync(join(rowRun('realm').dir, 'outcome.json'), '{"correct": [true]}');
  await assert.rejects(measure('realm'), /outcome\.json: is not a valid outcome of a row; remove it/);
});

import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { blockSequences, embedAll, textFormat } from '../../src/model/embedder.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel, retrieverShapes } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import { type Context, emptyModel, stageWeights } from '../../src/pipeline/context.ts';
import { exportSentenceTransformers } from '../../src/pipeline/export-sentence-encoder.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { openNewRun, prepareCorpus } from '../../src/pipeline/prepare.ts';
import { retrievePassages } from '../../src/pipeline/retrieve.ts';
import { UserError } from '../../src/system/errors.ts';
import { startTestEngine } from '../support/engine.ts';
import { encoderSettings, TEXTS } from '../support/sentence-encoder.ts';
import { temporaryFolder } from '../support/tiny.ts';

// An index narrower than the encoder (model.width): its last layer starts as the principal components of blocks' vectors.

const root = temporaryFolder('narrow-layer');

let engine: Context['engine'];
before(async () => {
  ({ name: engine } = await startTestEngine());
  mock.method(process.stderr, 'write', () => true);
  writeDocuments(TEXTS);
  const question = { question: 'who built the bridge of stone?', answer: ['stone'], passage_id: 'd0' };
  writeFileSync(join(root, 'questions.jsonl'), `${JSON.stringify(question)}\n`);
});

function writeDocuments(texts: readonly string[]): void {
  const lines = texts.map((text, i) => `${JSON.stringify({ id: `d${i}`, title: '', text })}\n`);
  writeFileSync(join(root, 'documents.jsonl'), lines.join(''));
}

function settings(encoder: string, ...more: string[]): string[] {
  return [
    `data.documents=${join(root, 'documents.jsonl')}`,
    `data.train=${join(root, 'questions.jsonl')}`,
    ...encoderSettings(encoder),
    'ict={steps: 0, batch: 2}',
    'qa={steps: 1, batch: 1, retrieverBlocks: 4, readerBlocks: 2, readerTokens: 40, devQuestions: 0}',
    ...more,
  ];
}

async function prepared(name: string, encoder: string, ...more: string[]): Promise<Context> {
  const opened = await openNewRun({
    run: join(root, name),
    config: 'squad-open',
    set: settings(encoder, ...more),
  });
  await prepareCorpus(opened.run, opened.config);
  return { ...opened, engine };
}

/** Vectors of all blocks by the encoder as the run starts with it. */
async function vectors(context: Context): Promise<Float32Array[]> {
  const corpus = openCorpus(context.run.corpus);
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'initial', corpus, model, retrieverShapes(model));
  const blocks = Array.from({ length: corpus.blocks }, (_, b) => ({
    title: corpus.titleIds(b),
    body: corpus.bodyIds(b),
  }));
  const sequences = blockSequences(textFormat(corpus.tokenizer, model.embedder), blocks, 24);
  const all = await embedAll(model.params, model.documentTower, model.embedder, sequences, 1000);
  const P = vectorLength(model.embedder);
  disposeModel(model);
  corpus.close();
  return blocks.map((_, b) => all.subarray(b * P, (b + 1) * P));
}

const product = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** The largest difference between the inner products of two sets of vectors. */
function furthest(a: Float32Array[], b: Float32Array[]): number {
  return Math.max(...a.flatMap((x, i) => a.map((y, j) => Math.abs(product(x, y) - product(b[i], b[j])))));
}

for (const encoder of ['mean-normalize', 'cls-dense-prompts'])
  test(`${encoder}: as many components as blocks keep all scores, and fewer do not`, async () => {
    const wide = await vectors(await prepared(`${encoder}-wide`, encoder));
    const kept = await prepared(`${encoder}-kept`, encoder, 'model.width=6'); // six blocks: rank 6 at most
    const { dimensions } = await buildRunIndex(kept);
    assert.equal(dimensions, 6);
    assert.ok(furthest(wide, await vectors(kept)) < 1e-5);
    const fewer = await prepared(`${encoder}-fewer`, encoder, 'model.width=2');
    assert.ok(furthest(wide, await vectors(fewer)) > 1e-4);
  });

test('components are kept when documents change, and made again for another width', async () => {
  const context = await prepared('kept-components', 'mean-normalize', 'model.width=5');
  await assert.rejects(
    vectors({ ...context, readOnly: true }),
    (error) =>
      error instanceof UserError &&
      /components\.safetensors: no such file, which holds .*; make it with "realm build-index --run/.test(
        error.message,
      ),
  );
  const { weightsSha256 } = await buildRunIndex(context);
  const file = readFileSync(context.run.components);
  try {
    writeDocuments([...TEXTS, 'A stone bridge in a town was old.']);
    await prepareCorpus(context.run, context.config);
    const { rows, ...again } = await buildRunIndex(context);
    assert.deepEqual([rows, again.weightsSha256], [7, weightsSha256]);
    assert.deepEqual(readFileSync(context.run.components), file);
  } finally {
    writeDocuments(TEXTS);
  }
  const [{ passages }] = await retrievePassages(context, ['who built the bridge?'], 3);
  assert.equal(passages.length, 3);
  const config = { ...context.config, model: { ...context.config.model, width: 4 } };
  assert.equal((await buildRunIndex({ ...context, config })).dimensions, 4);
  assert.notDeepEqual(readFileSync(context.run.components), file);
});

test('a fine-tuned run refuses other components: its query vectors belong to those', async () => {
  const context = await prepared('tuned', 'mean-normalize', 'model.width=5');
  assert.equal((await finetuneQa(context)).step, 1);
  const [{ passages }] = await retrievePassages(context, ['who built the bridge?'], 3);
  assert.equal(passages.length, 3);
  rmSync(context.run.components);
  await assert.rejects(buildRunIndex(context), /components\.safetensors: no such file.*put back the file/);
});

test('two towers start with the same layer, and the inverse cloze task trains it', async () => {
  const context = await prepared(
    'towers',
    'mean-normalize',
    'model.width=5',
    'model.sharedTowers=false',
    'ict.steps=1',
  );
  const corpus = openCorpus(context.run.corpus);
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'initial', corpus, model, retrieverShapes(model));
  const [query, document] = await Promise.all(
    ['queryEmbedder', 'documentEmbedder'].map((tower) => model.params.get(`${tower}.dense.0.kernel`)!.data()),
  );
  assert.deepEqual(query, document);
  disposeModel(model);
  corpus.close();
  assert.equal((await ictWarmup(context)).step, 1);
  assert.equal((await buildRunIndex(context)).dimensions, 5);
});

test('an exported encoder has the layer, and starts a run with the same index', async () => {
  const context = await prepared('exported', 'cls-dense-prompts', 'model.width=5');
  const { weightsSha256 } = await buildRunIndex(context);
  const to = join(root, 'encoder');
  await exportSentenceTransformers(context, to);
  const again = await prepared('from-export', 'cls-dense-prompts', `model.initial=${to}`);
  assert.deepEqual(again.config.model.dense?.at(-1), { size: 5, activation: 'none' });
  assert.equal((await buildRunIndex(again)).weightsSha256, weightsSha256);
  assert.equal(existsSync(again.run.components), false);
});

test('a width that cannot be is refused before anything is made', async () => {
  const refused = (encoder: string, width: number, message: RegExp, ...more: string[]) =>
    assert.rejects(
      openNewRun({
        run: join(root, 'refused'),
        config: 'squad-open',
        set: settings(encoder, `model.width=${width}`, ...more),
      }),
      (error) => error instanceof UserError && message.test(error.message),
    );
  await refused(
    'mean-normalize',
    16,
    /model\.width is 16, and vectors have 16 numbers without it; lower it to 15/,
  );
  await refused('cls-dense-prompts', 12, /model\.width is 12, and vectors have 12 numbers without it/);
  await refused('mean-normalize', 4, /model\.width needs model\.pooling cls or mean/, 'model.pooling=pooler');
  await refused('mean-normalize', 4, /both set the length of the vectors/, 'model.projection=8');
  await refused('version-0/0_Transformer', 4, /0_Transformer: model\.width needs/);
  assert.throws(
    () => loadConfig(undefined, ['model.width=64']),
    /model\.width needs model\.pooling cls or mean/,
  );
  assert.equal(existsSync(join(root, 'refused')), false);
});

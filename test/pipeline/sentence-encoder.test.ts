import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { blockSequences, embedAll, querySequences, textFormat } from '../../src/model/embedder.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel, readerTowerShapes, retrieverShapes } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import { type Context, emptyModel, stageWeights } from '../../src/pipeline/context.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { exportRealm } from '../../src/pipeline/export.ts';
import { exportSentenceTransformers } from '../../src/pipeline/export-sentence-encoder.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { firstReader } from '../../src/pipeline/first-reader.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { nextCommands } from '../../src/pipeline/next-command.ts';
import { openNewRun, prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import { retrievePassages } from '../../src/pipeline/retrieve.ts';
import { runConfig } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { startTestEngine } from '../support/engine.ts';
import { encoderSettings, TEXTS } from '../support/sentence-encoder.ts';
import { temporaryFolder } from '../support/tiny.ts';

// A sentence encoder as a retriever without any training, and as the start of every stage.

const root = temporaryFolder('sentence-encoder-run');
const fixtures = join(import.meta.dirname, '../fixtures/sentence-transformers');

let engine: Context['engine'];
before(async () => {
  ({ name: engine } = await startTestEngine());
  mock.method(process.stderr, 'write', () => true);
  const lines = (records: object[]) => records.map((record) => `${JSON.stringify(record)}\n`).join('');
  writeFileSync(
    join(root, 'documents.jsonl'),
    lines(TEXTS.map((text, i) => ({ id: `d${i}`, title: i % 2 === 0 ? 'Town' : '', text }))),
  );
  const questions = [
    { question: 'who built the bridge of stone?', answer: ['stone'], passage_id: 'd0' },
    { question: 'where was the old town?', answer: ['north'], passage_id: 'd4' },
  ];
  writeFileSync(join(root, 'questions.jsonl'), lines(questions));
});

function settings(encoder: string, ...more: string[]): string[] {
  return [
    `data.documents=${join(root, 'documents.jsonl')}`,
    `data.train=${join(root, 'questions.jsonl')}`,
    `data.test=${join(root, 'questions.jsonl')}`,
    ...encoderSettings(encoder),
    'ict.steps=0',
    'pretrain={steps: 1, batch: 2, microBatch: 2, candidates: 3}',
    'qa={steps: 1, batch: 2, retrieverBlocks: 4, readerBlocks: 2, readerTokens: 40, devQuestions: 0}',
    ...more,
  ];
}

async function prepared(name: string, encoder: string, ...more: string[]): Promise<Context> {
  const set = settings(encoder, ...more);
  const opened = await openNewRun({ run: join(root, name), config: 'squad-open', set });
  await prepareCorpus(opened.run, opened.config);
  return { ...opened, engine };
}

/** Blocks by inner products with the question, best first. */
async function ranking(context: Context, question: string): Promise<{ block: number; score: number }[]> {
  const corpus = openCorpus(context.run.corpus);
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'initial', corpus, model, retrieverShapes(model));
  const format = textFormat(corpus.tokenizer, model.embedder);
  const blocks = Array.from({ length: corpus.blocks }, (_, b) => ({
    title: corpus.titleIds(b),
    body: corpus.bodyIds(b),
  }));
  const P = vectorLength(model.embedder);
  const embed = (sequences: ReturnType<typeof blockSequences>) =>
    embedAll(model.params, 'embedder.', model.embedder, sequences, 1000);
  const z = await embed(blockSequences(format, blocks, 24));
  const q = await embed(querySequences(format, [corpus.tokenizer.encode(question).ids], 16));
  disposeModel(model);
  corpus.close();
  return blocks
    .map((_, block) => ({ block, score: q.reduce((sum, value, p) => sum + value * z[block * P + p], 0) }))
    .sort((a, b) => b.score - a.score);
}

test('the run keeps the head of the folder, and the same settings are not refused later', async () => {
  const { run, config } = await prepared('kept', 'cls-dense-prompts');
  const saved = loadConfig(run.config, []).model;
  assert.equal(saved.pooling, 'cls');
  assert.deepEqual(saved.dense, [
    { size: 20, activation: 'tanh' },
    { size: 12, activation: 'none' },
  ]);
  assert.deepEqual(
    [saved.projection, saved.normalize, saved.queryPrefix, saved.documentPrefix, saved.sequenceTokens],
    ['none', true, 'query: ', 'passage: ', 40],
  );
  assert.deepEqual(config.model, saved);
  assert.equal(vectorLength(config.model), 12);
  const again = runConfig(run, { config: 'squad-open', set: settings('cls-dense-prompts') });
  assert.deepEqual(again.model, saved);
  const other = settings('cls-dense-prompts', 'model.normalize=false');
  assert.throws(() => runConfig(run, { config: 'squad-open', set: other }), /differs from/);
});

for (const encoder of ['mean-normalize', 'cls-dense-prompts'])
  test(`${encoder}: an index, recall and passages without any training`, async () => {
    const context = await prepared(`untrained-${encoder}`, encoder);
    assert.deepEqual(nextCommands(context.run, context.config, 'prepare'), [
      `realm build-index --run ${context.run.dir}`,
    ]);
    // Pretraining would teach a reader that cannot fill masks nothing.
    const { data } = context.config;
    const withQuestions = { ...context.config, data: { ...data, train: 'questions.jsonl' } };
    assert.match(nextCommands(context.run, withQuestions, 'build-index')[0], /^realm finetune-qa /);
    const { rows, dimensions } = await buildRunIndex(context);
    assert.deepEqual([rows, dimensions], [TEXTS.length, encoder === 'mean-normalize' ? 16 : 12]);
    const afterWarmup = nextCommands(context.run, withQuestions, 'reader-warmup');
    assert.deepEqual(
      afterWarmup.map((command) => command.split(' ')[1]),
      ['finetune-qa', 'pretrain'],
    );
    assert.equal(existsSync(context.run.checkpoint('ict-warmup')), false);
    const question = 'where was the old town?';
    const wanted = await ranking(context, question);
    const [{ passages }] = await retrievePassages(context, [question], 4);
    assert.deepEqual(
      passages.map(({ rank, text }) => [rank, text]),
      wanted.slice(0, 4).map(({ block }, i) => [i + 1, TEXTS[block]]),
    );
    passages.forEach(({ score }, i) => {
      assert.ok(Math.abs(score - wanted[i].score) < 1e-5);
    });
    const measured = await evalRecall(context, undefined);
    const { stage, recall, bm25, hybrid, hybridWeight, differences } = measured;
    assert.deepEqual([stage, hybridWeight], ['initial', 0.5]);
    for (const of of [recall, bm25, hybrid]) assert.deepEqual(Object.keys(of), ['1', '5', '20', '100']);
    for (const k of [1, 5, 20, 100]) {
      assert.ok(Math.abs(differences.bm25[k].difference.value - (hybrid[k] - bm25[k])) < 1e-9);
      assert.ok(Math.abs(differences.dense[k].difference.value - (hybrid[k] - recall[k])) < 1e-9);
    }
    const { fit = [], ...best } = await evalRecall(context, undefined, { fitHybrid: true });
    assert.deepEqual(
      [fit.length, fit[0].recall, fit[20].recall],
      [21, bm25, recall],
      'its ends are each alone',
    );
    assert.equal(
      fit.find(({ weight }) => weight === best.hybridWeight)!.mrr,
      Math.max(...fit.map(({ mrr }) => mrr)),
    );
    assert.deepEqual(fit.find(({ weight }) => weight === 0.5)!.recall, hybrid);
    assert.deepEqual(best.bm25, bm25);
    assert.equal(recall[20], 1);
    await assert.rejects(retrievePassages(context, [' '], 1), UserError);
  });

test('later stages start from the encoder where ict.steps is 0', async () => {
  const context = await prepared('stages', 'mean-normalize');
  assert.deepEqual(await ictWarmup(context), { metrics: {}, seconds: 0, stopped: false, step: 0 });
  assert.equal(existsSync(context.run.checkpoint('ict-warmup')), false);
  assert.equal((await pretrain(context)).step, 1);
  assert.equal((await finetuneQa(context)).step, 1);
  const [{ passages }] = await retrievePassages(context, ['where was the old town?'], 2);
  assert.equal(passages.length, 2);
});

test('fine-tuning starts from the encoder in a run that is not pretrained', async () => {
  const context = await prepared('not-pretrained', 'version-2');
  assert.equal((await finetuneQa(context)).step, 1);
});

test('an encoder without a head of its own must be trained first', async () => {
  const context = await prepared('pooler', 'mean-normalize', 'model.pooling=pooler', 'ict.steps=1');
  assert.deepEqual(nextCommands(context.run, context.config, 'prepare'), [
    `realm ict-warmup --run ${context.run.dir}`,
  ]);
  await assert.rejects(
    buildRunIndex(context),
    /this run has no retriever yet; train one with "realm ict-warmup/,
  );
});

test('a run is exported for sentence-transformers, and starts another run with the same index', async () => {
  const context = await prepared('exported-encoder', 'cls-dense-prompts');
  const { weightsSha256 } = await buildRunIndex(context);
  const to = join(root, 'encoder');
  const [part, ...others] = await exportSentenceTransformers(context, to);
  assert.deepEqual([part, others], [{ folder: to, loadedBy: 'SentenceTransformer' }, []]);
  await exportSentenceTransformers(context, to); // an earlier export is replaced
  const again = await prepared('from-export', 'cls-dense-prompts', `model.initial=${to}`);
  const { initial: _, ...model } = again.config.model;
  assert.deepEqual({ ...model, initial: context.config.model.initial }, context.config.model);
  assert.equal((await buildRunIndex(again)).weightsSha256, weightsSha256);

  const theirs = join(root, 'theirs');
  cpSync(join(fixtures, 'mean-normalize'), theirs, { recursive: true });
  await assert.rejects(exportSentenceTransformers(context, theirs), /has other files/);
  assert.equal(existsSync(join(theirs, 'expected.json')), true);
});

test('a fine-tuned run is exported as two folders, of queries and of documents', async () => {
  const context = await prepared(
    'exported-tuned',
    'mean-normalize',
    'qa.steps=1',
    'qa.optimizer.learningRate=0.01',
    'qa.optimizer.warmupSteps=0',
  );
  const untrained = join(root, 'untrained');
  await exportSentenceTransformers(context, untrained);
  await finetuneQa(context);
  const to = join(root, 'towers');
  const parts = await exportSentenceTransformers(context, to);
  assert.deepEqual(
    parts.map(({ folder }) => folder),
    [join(to, 'query'), join(to, 'document')],
  );
  const weights = (folder: string) => readFileSync(join(folder, 'model.safetensors'));
  assert.deepEqual(weights(join(to, 'document')), weights(untrained));
  assert.notDeepEqual(weights(join(to, 'query')), weights(untrained));
});

test('a run with the head of a sentence encoder is not exported as REALM, whose classes do not have it', async () => {
  const context = await prepared('exported', 'cls-dense-prompts');
  const to = join(root, 'folders');
  await assert.rejects(
    exportRealm(context, to),
    (error) =>
      error instanceof UserError &&
      /config\.yaml: this run has model\.pooling cls, model\.projection none, model\.dense, model\.normalize true, which .*--format sentence-transformers$/.test(
        error.message,
      ),
  );
  assert.equal(existsSync(to), false);
});

test('the reader of an encoder without a head for masks starts with the frequency of words as its guess', async () => {
  const context = await prepared('first-reader', 'mean-normalize');
  const corpus = openCorpus(context.run.corpus);
  const model = emptyModel(context, corpus);
  firstReader(context, model, corpus, readerTowerShapes(model));
  const bias = model.params.get('reader.mlm.bias')!.dataSync();
  const counts = new Map<number, number>();
  for (let i = 0; i < corpus.sentences.count; i++)
    for (const piece of corpus.sentences.ids(i)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  const [often, n] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
  const never = [...bias.keys()].find((piece) => !counts.has(piece))!;
  assert.ok(Math.abs(bias[often] - bias[never] - Math.log((n + 0.5) / 0.5)) < 1e-5);
  disposeModel(model);
  corpus.close();
});

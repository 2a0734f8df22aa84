import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import type { Recall } from '../../src/eval/evaluate.ts';
import { blockSequences, embedAll } from '../../src/model/embedder.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel, retrieverShapes } from '../../src/model/model.ts';
import { type Context, emptyModel, stageWeights } from '../../src/pipeline/context.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import { dropTrivial } from '../../src/retrieval/candidates.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import { latestState } from '../../src/train/checkpoints.ts';
import { drawMasked, queryVectors } from '../../src/train/pretrain.ts';
import { stepRandom } from '../../src/train/sampler.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { readEvents } from '../support/events.ts';
import { stoppedAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

// What a stage logs of every index that it uses: what the same queries find, and recall.

const folder = temporaryFolder('probes');
const devFile = join(folder, 'questions.dev.jsonl');
let begun: Context;
let said = '';

interface Line {
  step: number;
  inUseAt: number;
  questions: number;
  recall?: Record<string, number>;
  probes: {
    query: string;
    answer: string;
    blocks: { block: number; document: string; title: string; score: number }[];
  }[];
}

before(async () => {
  const { name: engine } = await startTestEngine();
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
  writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), folder);
  const run = runFolder(join(folder, 'begun'));
  const optimizer = '{warmupSteps: 0, learningRate: 1e-2}';
  const config = runConfig(run, {
    set: [
      ...TINY,
      `data.documents=${join(folder, 'documents.jsonl')}`,
      `data.train=${join(folder, 'questions.train.jsonl')}`,
      'model.dropout=0.1',
      `ict={steps: 2, batch: 8, optimizer: ${optimizer}}`,
      `pretrain={steps: 4, batch: 2, candidates: 3, optimizer: ${optimizer}}`,
      'refresh={every: 2, mode: sync}',
      `qa={steps: 4, batch: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104, devQuestions: 0, optimizer: ${optimizer}}`,
      'qa.refreshEvery=2',
      'train={logEvery: 1, saveEvery: 1}',
    ],
  });
  begun = { run, config, engine };
  await prepareCorpus(run, config);
  await ictWarmup(begun);
});
after(() => mock.restoreAll());

/** The same run in another folder, with settings changed. */
function copy(of: Context, name: string, ...set: string[]): Context {
  const run = runFolder(join(folder, name));
  cpSync(of.run.dir, run.dir, { recursive: true });
  return { ...of, run, config: runConfig(run, { set }) };
}

function lines<T = Line>(path: string): T[] {
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** What a stage writes, without the probes and values that depend on the clock. */
function outcome({ run }: Context, stage: 'pretrain' | 'finetune-qa') {
  const withoutClock = (path: string) =>
    lines<object>(path).map((line) => Object.entries(line).filter(([name]) => !/second/i.test(name)));
  return {
    weights: latestState(run.checkpoint(stage))!.files['model.safetensors'].sha256,
    // Dev results have lines of their own.
    metrics: withoutClock(run.metrics(stage)).filter((line) => line.some(([name]) => name === 'loss')),
    refreshes: withoutClock(run.refreshes(stage)),
  };
}

/** The record of an evaluation in the log. */
const logged = (recall: Recall) => ({ 1: recall[1], 5: recall[5], 20: recall[20] });

test('for every index pretraining logs what masked sentences find, and recall; without questions it trains the same', async () => {
  const plain = copy(begun, 'plain');
  const main = copy(begun, 'main', `data.dev=${devFile}`);
  const cut = copy(main, 'cut');
  const ict = await evalRecall(main, 'ict-warmup', { questions: devFile });
  await pretrain(plain);
  await pretrain(main);
  assert.deepEqual(outcome(main, 'pretrain'), outcome(plain, 'pretrain'));

  const log = lines(main.run.probes('pretrain'));
  assert.deepEqual(
    log.map(({ step, inUseAt }) => [step, inUseAt]),
    [0, 2, 4].map((step) => [step, step]),
  );
  // The index of the last step is of the stage's last weights.
  const trained = await evalRecall(main, 'pretrain', { questions: devFile });
  assert.deepEqual([log[0].recall, log[2].recall], [ict.recall, trained.recall].map(logged));
  assert.ok(log.every(({ questions }) => questions === ict.questions));
  // The same before and after the stage: the sample of a small corpus is the whole corpus.
  const dev = ({ recall }: Line) =>
    Object.fromEntries(Object.entries(recall!).map(([k, share]) => [`devRecall@${k}`, share]));
  assert.deepEqual(
    lines<Record<string, number>>(main.run.metrics('pretrain')).filter(({ loss }) => loss === undefined),
    [
      { step: 0, ...dev(log[0]) },
      { step: 4, ...dev(log[2]) },
    ],
  );
  const scalars = readEvents(join(main.run.events('pretrain'), 'probes'));
  for (const k of [1, 5, 20]) {
    assert.deepEqual(
      scalars[`recall@${k}`],
      log.map(({ inUseAt, recall }) => [inUseAt, Math.fround(recall![k])]),
    );
  }
  for (const { questions, recall, probes } of lines(plain.run.probes('pretrain'))) {
    assert.deepEqual([questions, recall, probes.length], [0, undefined, 8]);
  }
  assert.deepEqual(
    lines(plain.run.probes('pretrain')).map(({ probes }) => probes),
    log.map(({ probes }) => probes),
  );

  // By hand: inner products with every block, without trivial candidates.
  const corpus = openCorpus(main.run.corpus);
  const model = emptyModel(main, corpus);
  await stageWeights(main, 'pretrain', corpus, model, retrieverShapes(model));
  const projection = vectorLength(main.config.model);
  const examples = drawMasked(corpus, main.config, 0, 8, stepRandom(main.config.seed, -4));
  const q = await queryVectors(model, corpus, examples, main.config);
  const all = Array.from({ length: corpus.blocks }, (_, b) => b);
  const sequences = blockSequences(
    corpus.tokenizer,
    all.map((b) => ({ title: corpus.titleIds(b), body: corpus.bodyIds(b) })),
    main.config.text.blockTokens,
  );
  const z = await embedAll(model.params, model.documentTower, model.embedder, sequences, 1000);
  const score = (i: number, b: number) =>
    q
      .subarray(i * projection, (i + 1) * projection)
      .reduce((sum, value, d) => sum + value * z[b * projection + d], 0);
  let dropped = 0;
  log[2].probes.forEach(({ query, answer, blocks }, i) => {
    const { sentence, source } = examples[i];
    const best = all.toSorted((a, b) => score(i, b) - score(i, a)).slice(0, 10);
    const read = dropTrivial(corpus, sentence, source, best, 10, main.config.pretrain.trivialOverlap);
    dropped += read.dropped;
    assert.deepEqual(
      blocks.map(({ block }) => block),
      read.candidates.slice(0, 5),
    );
    for (const found of blocks) {
      assert.ok(Math.abs(found.score - score(i, found.block)) < 1e-4);
      assert.equal(found.document, corpus.documentId(found.block));
      assert.equal(found.title, corpus.title(found.block));
    }
    assert.equal(query.split('____').length, 2);
    assert.ok(corpus.text(source).includes(query.replace('____', answer)), query);
  });
  assert.ok(dropped > 0);
  disposeModel(model);
  corpus.close();

  await stoppedAfter(3, cut.run.metrics('pretrain'), () => pretrain(cut));
  await pretrain(cut);
  assert.deepEqual(lines(cut.run.probes('pretrain')), log);
  assert.deepEqual(readEvents(join(cut.run.events('pretrain'), 'probes')), scalars);
});

test('fine-tuning with a refreshed index logs what training questions find', async () => {
  const main = copy(begun, 'finetune-qa', `data.dev=${devFile}`, 'refresh.mode=off', 'pretrain.steps=1');
  await pretrain(main);
  assert.deepEqual(
    lines(main.run.probes('pretrain')).map(({ inUseAt }) => inUseAt),
    [0],
  );
  const context = { ...main, config: runConfig(main.run, { set: ['refresh.mode=sync'] }) };
  const plain = copy(context, 'qa-plain', 'data.dev=null');
  await finetuneQa(context);
  await finetuneQa(plain);
  assert.deepEqual(outcome(context, 'finetune-qa'), outcome(plain, 'finetune-qa'));
  const log = lines(context.run.probes('finetune-qa'));
  assert.deepEqual(
    log.map(({ step, inUseAt }) => [step, inUseAt]),
    [0, 2, 4].map((step) => [step, step]),
  );
  const { recall } = await evalRecall(context, 'finetune-qa', { questions: devFile });
  assert.deepEqual(log[2].recall, logged(recall));
  const asked = new Map(
    lines<{ question: string; answer: string[] }>(join(folder, 'questions.train.jsonl')).map((q) => [
      q.question,
      q.answer[0],
    ]),
  );
  for (const { query, answer, blocks } of log[0].probes) {
    assert.equal(asked.get(query), answer);
    assert.equal(blocks.length, 5);
  }
  assert.equal(new Set(log[0].probes.map(({ query }) => query)).size, 8);
  assert.deepEqual(
    log[0].probes.map(({ query }) => query),
    log[2].probes.map(({ query }) => query),
  );
});

test('if the questions cannot be read, pretraining says so and logs no recall', async () => {
  const bad = join(folder, 'bad.jsonl');
  writeFileSync(bad, '{"question": 1}\n');
  const main = copy(begun, 'bad', `data.dev=${bad}`, 'refresh.mode=off', 'pretrain.steps=1');
  said = '';
  await pretrain(main);
  assert.match(
    said,
    /pretrain: recall is not logged, because data\.dev cannot be read: .*bad\.jsonl: line 1/,
  );
  assert.ok(existsSync(main.run.probes('pretrain')));
});

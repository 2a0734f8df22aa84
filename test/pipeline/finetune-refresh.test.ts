import assert from 'node:assert/strict';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import { ask } from '../../src/commands/ask-lines.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { disposeModel, retrieverShapes } from '../../src/model/model.ts';
import { type Context, emptyModel, firstWeights, stageWeights } from '../../src/pipeline/context.ts';
import { evalExactMatch } from '../../src/pipeline/evaluate-answers.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { exportRealm } from '../../src/pipeline/export.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import { towerFingerprint } from '../../src/retrieval/ensure-index.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { type Run, runConfig, runFolder } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { latestState } from '../../src/train/checkpoints.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { stoppedAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

// Fine-tuning that trains the document tower: its index follows it, and is the one that answers come from.

const folder = temporaryFolder('finetune-refresh');
const STEPS = 5;
let engine: Context['engine'];

before(async () => {
  ({ name: engine } = await startTestEngine());
  writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), folder);
  mock.method(process.stderr, 'write', () => true);
});
after(() => mock.restoreAll());

/** A run that is pretrained, with settings changed. */
async function pretrained(name: string, ...set: string[]): Promise<Context> {
  const run = runFolder(join(folder, name));
  const optimizer = '{warmupSteps: 0, learningRate: 1e-2}';
  const config = runConfig(run, {
    set: [
      ...TINY,
      `data.documents=${join(folder, 'documents.jsonl')}`,
      `data.train=${join(folder, 'questions.train.jsonl')}`,
      `data.test=${join(folder, 'questions.test.jsonl')}`,
      'model.dropout=0.1',
      'model.projectionLayerNormEps=1e-12',
      `ict={steps: 2, batch: 8, optimizer: ${optimizer}}`,
      `pretrain={steps: 2, batch: 2, candidates: 3, optimizer: ${optimizer}}`,
      'refresh={every: 2, mode: sync}',
      `qa={steps: ${STEPS}, batch: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104, optimizer: ${optimizer}}`,
      'qa.refreshEvery=2',
      'train={logEvery: 1, saveEvery: 2}',
      ...set,
    ],
  });
  const context = { run, config, engine };
  await prepareCorpus(run, config);
  await ictWarmup(context);
  await pretrain(context);
  return context;
}

/** The same run in another folder. */
function copy({ run, ...rest }: Context, name: string): Context {
  cpSync(run.dir, join(folder, name), { recursive: true });
  return { ...rest, run: runFolder(join(folder, name)) };
}

function lines(path: string): Record<string, number>[] {
  const text = existsSync(path) ? readFileSync(path, 'utf8').trimEnd() : '';
  return text === '' ? [] : text.split('\n').map((line) => JSON.parse(line));
}

/** What the stage writes, without values that depend on the clock. */
function outcome({ run }: Context) {
  const withoutClock = (path: string) =>
    lines(path).map((line) => Object.entries(line).filter(([name]) => !/second/i.test(name)));
  return {
    weights: latestState(run.checkpoint('finetune-qa'))!.files['model.safetensors'].sha256,
    metrics: withoutClock(run.metrics('finetune-qa')),
    refreshes: withoutClock(run.refreshes('finetune-qa')),
    index: [basename(currentIndex(run.index)!), current(run).weightsSha256],
  };
}

const current = ({ index }: Run) => readManifest(currentIndex(index)!);

/** `towerFingerprint` of the document tower after fine-tuning. */
async function tunedTower(context: Context): Promise<string> {
  const corpus = openCorpus(context.run.corpus);
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'finetune-qa', corpus, model, retrieverShapes(model));
  const sha256 = await towerFingerprint(model);
  disposeModel(model);
  corpus.close();
  return sha256;
}

/** `towerFingerprint` of a document tower that starts from an exported folder. */
async function towerOf(initial: string, context: Context): Promise<string> {
  const corpus = openCorpus(context.run.corpus);
  const config = { ...context.config, model: { ...context.config.model, initial } };
  const model = emptyModel({ ...context, config }, corpus);
  firstWeights({ ...context, config }, model, retrieverShapes(model));
  const sha256 = await towerFingerprint(model);
  disposeModel(model);
  corpus.close();
  return sha256;
}

for (const sharedTowers of [true, false]) {
  test(`the index follows the document tower, ${sharedTowers ? 'shared' : 'separate'}`, async () => {
    const main = await pretrained(`main-${sharedTowers}`, `model.sharedTowers=${sharedTowers}`);
    const again = copy(main, `again-${sharedTowers}`);
    const { run } = main;
    const before = current(run).weightsSha256;
    assert.equal((await finetuneQa(main)).stopped, false);

    const { refreshes, metrics } = outcome(main);
    const at = (name: string, all: [string, unknown][][]) =>
      all.map((line) => Object.fromEntries(line)[name]);
    assert.deepEqual(at('name', refreshes), ['finetune-qa-step-0000002', 'finetune-qa-step-0000004']);
    assert.deepEqual(at('inUseAt', refreshes), [2, 4]);
    assert.deepEqual(at('indexAgeSteps', metrics), [0, 1, 0, 1, 0]);
    assert.equal(latestState(run.checkpoint('finetune-qa'))!.index, 'finetune-qa-step-0000004');
    assert.deepEqual(readdirSync(run.snapshots), []);
    assert.ok(existsSync(join(run.index, latestState(run.checkpoint('pretrain'))!.index!)));

    // At the end the index is of the last weights, and evaluations use it whichever index is current.
    const tower = await tunedTower(main);
    assert.notEqual(tower, before);
    assert.deepEqual(
      [basename(currentIndex(run.index)!), current(run).weightsSha256],
      ['finetune-qa-step-0000005', tower],
    );
    const { createdAt } = current(run);
    const figures = await evalExactMatch(main);
    const answers = await ask(main, 'Who wrote it?');
    assert.equal(current(run).createdAt, createdAt, 'nothing is embedded again');
    await evalRecall(main, 'pretrain');
    assert.equal(current(run).weightsSha256, before);
    assert.deepEqual(await ask(main, 'Who wrote it?'), answers);
    assert.deepEqual(await evalExactMatch(main), figures);
    assert.equal(current(run).weightsSha256, tower);
    // The exported tower is the one that made the exported vectors.
    const to = join(folder, `exported-${sharedTowers}`);
    await exportRealm(main, to);
    assert.equal(await towerOf(join(to, 'embedder'), main), tower);

    // Stopped and resumed, it ends with the same result.
    await stoppedAfter(3, again.run.metrics('finetune-qa'), () => finetuneQa(again));
    const { step, index } = latestState(again.run.checkpoint('finetune-qa'))!;
    assert.ok(step >= 3 && step < STEPS);
    // A stop while the index of step 4 is being built leaves that of step 2 in use; resuming then builds it.
    const inUse = ['finetune-qa-step-0000002', ...(step < 4 ? [] : ['finetune-qa-step-0000004'])];
    assert.ok(inUse.includes(index!), `step ${step}, ${index}`);
    await evalExactMatch(again); // with an index of its own, made in between
    assert.equal((await finetuneQa(again)).stopped, false);
    assert.deepEqual(outcome(again), outcome(main));
  });
}

test('with contrastive learning, stopped and resumed, it ends with the same result; the index is built at the end', async () => {
  const main = await pretrained(
    'contrastive',
    'model.sharedTowers=false',
    'refresh.mode=off',
    'qa={batch: 6, microBatch: 4, readQuestions: 2, contrastive: 1, hardNegatives: 1, minedNegatives: 1}',
    'qa.distillation=0.5',
    `qa.steps=${STEPS}`,
    'qa.retrieverBlocks=10',
    'qa.readerBlocks=2',
    'qa.readerTokens=104',
    'qa.refreshEvery=2',
    'qa.retrieverLearningRate=1e-3',
    'qa.optimizer={warmupSteps: 0, learningRate: 1e-2}',
  );
  const again = copy(main, 'contrastive-again');
  const before = current(main.run).weightsSha256;
  assert.equal((await finetuneQa(main)).stopped, false);
  const { metrics, refreshes, index } = outcome(main);
  assert.deepEqual(refreshes, []);
  const tower = await tunedTower(main);
  assert.notEqual(tower, before);
  assert.deepEqual(index, [`finetune-qa-step-000000${STEPS}`, tower]);
  for (const line of metrics) {
    const { contrastiveLoss, contrastiveAccuracy, distillationLoss } = Object.fromEntries(line);
    assert.ok(
      Number(contrastiveLoss) > 0 && Number(contrastiveAccuracy) <= 1 && Number(distillationLoss) >= 0,
    );
  }
  await stoppedAfter(3, again.run.metrics('finetune-qa'), () => finetuneQa(again));
  const { step } = latestState(again.run.checkpoint('finetune-qa'))!;
  assert.ok(step >= 3 && step < STEPS);
  assert.equal((await finetuneQa(again)).stopped, false);
  assert.deepEqual(outcome(again), outcome(main));
});

test('the stage resumes only as it was started: with the document tower trained, or frozen', async () => {
  const main = await pretrained('rest', 'qa.refreshEvery=null');
  const trained = { ...main, config: { ...main.config, qa: { ...main.config.qa, refreshEvery: 2 } } };
  const other = copy(main, 'rest-trained');
  const before = current(main.run);
  await finetuneQa(main);
  assert.deepEqual(current(main.run), before, 'the index stays');
  assert.equal(existsSync(main.run.refreshes('finetune-qa')), false);
  assert.notEqual(
    await tunedTower(main),
    before.weightsSha256,
    'the query tower, which is shared, has moved on',
  );
  const refused = (message: RegExp) => (error: unknown) =>
    error instanceof UserError && message.test(error.message);
  await assert.rejects(finetuneQa(trained), refused(/started without qa\.refreshEvery.*--resume none/));
  await finetuneQa({ ...trained, run: other.run });
  await assert.rejects(finetuneQa(other), refused(/started with qa\.refreshEvery.*--resume none/));
});

test('a missing index is rebuilt from the weights of the checkpoint', async () => {
  const main = await pretrained('gone', 'refresh.mode=off');
  await stoppedAfter(1, main.run.metrics('finetune-qa'), () => finetuneQa(main));
  const { step } = latestState(main.run.checkpoint('finetune-qa'))!;
  rmSync(main.run.index, { recursive: true });
  assert.equal((await finetuneQa(main)).stopped, false);
  assert.ok(existsSync(join(main.run.index, `finetune-qa-step-000000${step}`)));
  assert.equal(current(main.run).weightsSha256, await tunedTower(main));
});

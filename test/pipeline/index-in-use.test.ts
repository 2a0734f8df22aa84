import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { ask } from '../../src/commands/ask-lines.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import { type Context, goBack } from '../../src/pipeline/context.ts';
import { evalExactMatch } from '../../src/pipeline/evaluate-answers.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { type Run, runConfig, runFolder } from '../../src/run/folder.ts';
import { latestState } from '../../src/train/checkpoints.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { stoppedAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

// Each stage must work with the vectors of the right retriever, whatever another command has made the current index.

const folder = temporaryFolder('index-in-use');
const STEPS = 3;
let main: Context;

/** The run with settings changed, as another command would open it. */
function open(...set: string[]): Context {
  return { ...main, config: runConfig(main.run, { set }) };
}

before(async () => {
  const { name: engine } = await startTestEngine();
  writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), folder);
  const run = runFolder(join(folder, 'run'));
  const set = [
    ...TINY,
    `data.documents=${join(folder, 'documents.jsonl')}`,
    `data.train=${join(folder, 'questions.train.jsonl')}`,
    `data.test=${join(folder, 'questions.test.jsonl')}`,
    'ict={steps: 2, batch: 8, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
    `pretrain={steps: ${STEPS}, batch: 2, candidates: 3, optimizer: {warmupSteps: 0, learningRate: 1e-2}}`,
    'refresh={every: 1, mode: sync}',
    'qa={steps: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104}',
    'train.logEvery=1',
  ];
  main = { run, config: runConfig(run, { set }), engine };
  await prepareCorpus(run, main.config);
  await ictWarmup(main);
});

const current = ({ index }: Run) => readManifest(currentIndex(index)!);

test('snapshots and indexes do not accumulate while pretraining refreshes', async () => {
  const { run, config } = main;
  // Files of a process that was killed.
  mkdirSync(join(run.snapshots, 'step-0000099'), { recursive: true });
  const most = { snapshots: 0, indexes: 0 };
  const count = (dir: string) =>
    existsSync(dir) ? readdirSync(dir).filter((n) => /^step-\d+$/.test(n)).length : 0;
  const watch = setInterval(() => {
    most.snapshots = Math.max(most.snapshots, count(run.snapshots));
    most.indexes = Math.max(most.indexes, count(run.index));
  }, 5);
  await pretrain(main);
  clearInterval(watch);
  assert.equal(readFileSync(run.refreshes('pretrain'), 'utf8').trimEnd().split('\n').length, STEPS);
  assert.equal(most.snapshots, 1);
  // In addition to those kept: the one being built, and the one that the checkpoint was trained with.
  assert.ok(most.indexes <= config.refresh.keepIndexes + 2, `${most.indexes}`);
  assert.equal(count(run.snapshots), 0);
  assert.equal(current(run).step, STEPS);
});

test("measuring an earlier stage's retriever does not change what the fine-tuned model answers", async () => {
  const { run } = main;
  await finetuneQa(main);
  const figures = await evalExactMatch(main);
  const predictions = readFileSync(run.predictions, 'utf8');
  const question = 'Who wrote it?';
  const answers = await ask(main, question);
  const { weightsSha256 } = current(run);

  await evalRecall(main, 'ict-warmup');
  assert.notEqual(current(run).weightsSha256, weightsSha256, 'another index is the current one');
  assert.deepEqual(await ask(main, question), answers);
  await evalRecall(main, 'ict-warmup');
  assert.deepEqual(await evalExactMatch(main), figures);
  assert.equal(readFileSync(run.predictions, 'utf8'), predictions);
  assert.equal(current(run).weightsSha256, weightsSha256);

  // By its own name the stage is measured with the query tower that was tuned and the index that it searches.
  await evalRecall(main, 'ict-warmup');
  const tuned = await evalRecall(main, 'finetune-qa');
  assert.deepEqual([tuned.stage, tuned.recall], ['finetune-qa', figures.recall]);
  assert.equal(current(run).weightsSha256, weightsSha256);
  await buildRunIndex(main, 'ict-warmup');
  assert.equal((await buildRunIndex(main, 'finetune-qa')).weightsSha256, weightsSha256);
});

test('a model fine-tuned before pretraining keeps the retriever that it was tuned with', async () => {
  const dir = join(folder, 'tuned-first');
  cpSync(main.run.corpus, join(dir, 'corpus'), { recursive: true });
  cpSync(main.run.checkpoint('ict-warmup'), join(dir, 'checkpoints', 'ict-warmup'), { recursive: true });
  const run = runFolder(dir);
  cpSync(main.run.config, run.config);
  const tuned = { ...main, run };
  await finetuneQa(tuned);
  await evalExactMatch(tuned);
  const predictions = readFileSync(run.predictions, 'utf8');
  const answers = await ask(tuned, 'Who wrote it?');
  const { weightsSha256 } = current(run);

  await pretrain(tuned);
  assert.notEqual(current(run).weightsSha256, weightsSha256, "the current index is pretraining's");
  await evalExactMatch(tuned);
  assert.equal(readFileSync(run.predictions, 'utf8'), predictions);
  assert.deepEqual(await ask(tuned, 'Who wrote it?'), answers);
  assert.equal(current(run).weightsSha256, weightsSha256);

  goBack(tuned, 'finetune-qa', 'none');
  await finetuneQa(tuned);
  assert.equal(latestState(run.checkpoint('finetune-qa'))!.retriever, 'pretrain');
});

test('a run switched to exact search gets an index without a graph from its vectors, and back', async () => {
  const { run } = main;
  const question = 'Who wrote it?';
  const answers = await ask(open('index.kind=graph'), question);
  const rows = current(run).rows;
  assert.equal(current(run).graphs.length, 1);
  const exact = open('index.kind=exact');
  await assert.rejects(
    ask(exact, question),
    /has no index for the current corpus, settings and weights; .* "realm build-index --run/,
  );
  await evalExactMatch(exact);
  assert.deepEqual(await ask(exact, question), answers);
  assert.deepEqual([current(run).graphs.length, current(run).reused], [0, rows]);
  const graph = open('index.kind=graph');
  await buildRunIndex(graph);
  assert.deepEqual(await ask(graph, question), answers);
  assert.equal(current(run).graphs.length, 1);
});

test('pretraining that resumes without its index builds one from the weights of its checkpoint', async () => {
  const { run } = main;
  rmSync(run.checkpoint('pretrain'), { recursive: true });
  const off = open('refresh.mode=off', 'pretrain.steps=12');
  rmSync(run.metrics('pretrain'));
  await stoppedAfter(1, run.metrics('pretrain'), () => pretrain(off));
  rmSync(run.index, { recursive: true });
  const { step } = latestState(run.checkpoint('pretrain'))!;
  assert.equal((await pretrain(off)).stopped, false);
  assert.equal(current(run).step, step);
});

test('a stage that stopped is refused with another corpus before an index is built', async () => {
  const { run, config } = main;
  const dir = join(folder, 'stopped');
  for (const part of ['corpus', 'index', join('checkpoints', 'ict-warmup')])
    cpSync(join(run.dir, part), join(dir, part), { recursive: true });
  const set = ['refresh.mode=off', 'pretrain.steps=50'];
  cpSync(run.config, join(dir, 'config.yaml'));
  const other: Context = { ...main, run: runFolder(dir), config: runConfig(runFolder(dir), { set }) };
  await stoppedAfter(1, other.run.metrics('pretrain'), () => pretrain(other));
  const [first, ...documents] = readFileSync(join(folder, 'documents.jsonl'), 'utf8').split('\n');
  writeFileSync(join(dir, 'documents.jsonl'), [first, first, ...documents].join('\n'));
  const vocabulary = join(dir, 'vocab.txt'); // so that only the documents differ
  cpSync(join(run.corpus, 'vocab.txt'), vocabulary);
  const data = { ...config.data, documents: join(dir, 'documents.jsonl') };
  await prepareCorpus(other.run, { ...config, data, text: { ...config.text, vocabulary } });
  const indexes = readdirSync(other.run.index);
  await assert.rejects(pretrain(other), /was trained on a different corpus; prepare that corpus again/);
  assert.deepEqual(readdirSync(other.run.index), indexes);
});

test('a corpus with one more document keeps the vectors of all others', async () => {
  const { run, config } = main;
  const before = (await buildRunIndex(main, 'ict-warmup')).rows;
  const text = 'Orla Venn was born in Quenfell in 1912. She founded the mill of Drost in 1940.';
  appendFileSync(join(folder, 'documents.jsonl'), `${JSON.stringify({ title: 'Orla Venn', text })}\n`);
  await prepareCorpus(run, config);
  const { rows, reused } = await buildRunIndex(main, 'ict-warmup');
  assert.deepEqual([rows, reused], [before + 1, before]);
  // Evaluations find the index of the current corpus.
  assert.equal((await evalRecall(main, 'ict-warmup')).questions > 0, true);
  assert.equal(current(run).rows, before + 1);
});

test('a model larger than the memory of the machine is refused before it is created', async () => {
  await assert.rejects(
    ictWarmup(open('ict.steps=9', 'model={hidden: 999999, heads: 1, intermediate: 1000000, layers: 100}')),
    /config\.yaml: the settings under model make weights of .* GiB, this machine has .* GiB of memory; lower model\.hidden/,
  );
});

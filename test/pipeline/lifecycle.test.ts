import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { after, before, mock, test } from 'node:test';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import { exactMatch } from '../../src/answers/metrics.ts';
import { ask } from '../../src/commands/ask-lines.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { readBlockRecords } from '../../src/datasets/formats/block-records.ts';
import type { Recall } from '../../src/eval/evaluate.ts';
import type { Comparison, Interval } from '../../src/eval/statistics.ts';
import { blockSequences, embedAll, querySequences, type Sequences } from '../../src/model/embedder.ts';
import { vectorLength } from '../../src/model/head.ts';
import { describeModel, disposeModel, retrieverShapes } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import { closedBook } from '../../src/pipeline/closed-book.ts';
import { type Context, emptyModel, firstWeights, stageWeights } from '../../src/pipeline/context.ts';
import { evalExactMatch, scorePredictions } from '../../src/pipeline/evaluate-answers.ts';
import { evalMasked } from '../../src/pipeline/evaluate-masked.ts';
import { evalRecall, scoreRetrieved } from '../../src/pipeline/evaluate-recall.ts';
import { exportRealm } from '../../src/pipeline/export.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import type { AskAnswer } from '../../src/pipeline/qa-session.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { type Run, runConfig, runFolder } from '../../src/run/folder.ts';
import { trainVocabulary } from '../../src/tokenizer/train-vocabulary.ts';
import { openCheckpoint } from '../../src/train/checkpoints.ts';
import { exportBert } from '../../src/weights/export-bert.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { generateWorld, type World, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { stoppedAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder, tinyConfig, tinyModel } from '../support/tiny.ts';

// Every stage once, through the functions that the commands call, on a generated world: what one stage leaves is what
// the next one takes up. That the stages compute the right thing is the matter of the other tests.

const root = temporaryFolder('pipeline');
const data = join(root, 'data');
const encoder = join(root, 'encoder');
const STEPS = 6;

let engine: Context['engine'];
let said = '';
before(async () => {
  ({ name: engine } = await startTestEngine());
  const world = generateWorld({ seed: 1, documents: 40, heldOut: 0.2 });
  writeWorld(world, data);
  await writeEncoder(world.documents);
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
});
after(() => mock.restoreAll());

/** An encoder to start from, like BERT: random weights would need many steps to distinguish texts. */
async function writeEncoder(documents: World['documents']): Promise<void> {
  async function* texts() {
    for (const { title, text } of documents) yield `${title} ${text}`;
  }
  const config = tinyConfig();
  const vocabulary = await trainVocabulary(
    texts(),
    config.text.vocabularySize,
    config.text.lowercase ?? true,
  );
  const model = tinyModel(config, vocabulary.length);
  await exportBert(encoder, model.params, model.readerTower, model.reader);
  writeFileSync(join(encoder, 'vocab.txt'), `${vocabulary.join('\n')}\n`);
  disposeModel(model);
}

/** A new run on the world's texts. Its index is refreshed every second step while the trainer waits. */
function begin(name: string, ...more: string[]): Context {
  const run = runFolder(join(root, name));
  const set = [
    ...TINY,
    `data.documents=${join(data, 'documents.jsonl')}`,
    `data.sentences=${join(data, 'sentences.jsonl')}`,
    `data.train=${join(data, 'questions.train.jsonl')}`,
    `data.test=${join(data, 'questions.test.jsonl')}`,
    `model.initial=${encoder}`,
    'model.dropout=0.1',
    'model.projectionLayerNormEps=1e-12',
    'ict={steps: 4, batch: 8, microBatch: 4, optimizer: {warmupSteps: 0, learningRate: 1e-3}}',
    `pretrain={steps: ${STEPS}, batch: 4, microBatch: 2, candidates: 3, optimizer: {warmupSteps: 0, learningRate: 1e-2}}`,
    'refresh={every: 2, mode: sync}',
    'qa={steps: 3, batch: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104}',
    'closedBook={steps: 2, batch: 4}',
    'train={logEvery: 1, saveEvery: 5}',
    ...more,
  ];
  return { run, config: runConfig(run, { set }), engine };
}

function lines(path: string) {
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

/** The log of pretraining, without values that depend on the clock. */
function figures(run: Run) {
  return lines(run.metrics('pretrain')).map(
    ({ seconds: _, stepSeconds: _s, indexAgeSeconds: _i, ...rest }) => rest,
  );
}

async function pretrained(context: Context): Promise<void> {
  await prepareCorpus(context.run, context.config);
  await ictWarmup(context);
  const { stopped } = await pretrain(context);
  assert.equal(stopped, false);
}

/** Recall of the ICT retriever by inner products with every block. */
async function recallByHand(context: Context): Promise<Recall> {
  const { run, config } = context;
  const corpus = openCorpus(run.corpus);
  const model = emptyModel(context, corpus);
  const vectorsOf = async (p: string, sequences: Sequences) => {
    const flat = await embedAll(model.params, p, model.embedder, sequences, 1000);
    const P = vectorLength(config.model);
    return sequences.ids.map((_, i) => [...flat.subarray(i * P, (i + 1) * P)]);
  };
  await stageWeights(context, 'ict-warmup', corpus, model, retrieverShapes(model));
  const blocks = Array.from({ length: corpus.blocks }, (_, b) => ({
    title: corpus.titleIds(b),
    body: corpus.bodyIds(b),
  }));
  const z = await vectorsOf(
    model.documentTower,
    blockSequences(corpus.tokenizer, blocks, config.text.blockTokens),
  );
  const asked = lines(join(data, 'questions.test.jsonl'));
  const ids = asked.map(({ question }) => corpus.tokenizer.encode(question).ids);
  const q = await vectorsOf(
    model.queryTower,
    querySequences(corpus.tokenizer, ids, config.text.questionTokens),
  );
  const ranks = q.map((vector, i) => {
    const scores = z.map((block) => block.reduce((sum, value, d) => sum + value * vector[d], 0));
    const order = scores.map((_, b) => b).sort((a, b) => scores[b] - scores[a]);
    return order.findIndex((b) =>
      hasAnswer(corpus.text(b), { answers: asked[i].answer, answerKind: 'string' }),
    );
  });
  corpus.close();
  disposeModel(model);
  const share = (k: number) => ranks.filter((rank) => rank >= 0 && rank < k).length / ranks.length;
  return { 1: share(1), 5: share(5), 20: share(20), 100: share(100) };
}

let main: Context;
/** Metrics of retrieval. */
const KEPT = ['recall@1', 'recall@5', 'recall@20', 'recall@100', 'mrr'];

test('texts become a corpus, a retriever and an index', async () => {
  main = begin('main');
  const { run, config } = main;
  const counts = await prepareCorpus(run, config);
  assert.equal(counts.documents, 40);
  assert.equal(counts.sentences, lines(join(data, 'sentences.jsonl')).length);

  const warm = await ictWarmup(main);
  assert.equal(warm.stopped, false);
  assert.deepEqual(
    lines(run.metrics('ict-warmup')).map(({ step }) => step),
    [1, 2, 3, 4],
  );

  const manifest = await buildRunIndex(main);
  assert.equal(manifest.rows, counts.blocks);
  assert.equal(manifest.recall10?.value, 1);
  assert.deepEqual(readManifest(currentIndex(run.index)!), manifest);
});

test('recall is measured with the current index, and with BM25', async () => {
  const { run } = main;
  const { createdAt } = readManifest(currentIndex(run.index)!);
  const { questions, recall, bm25 } = await evalRecall(main, 'ict-warmup');
  assert.equal(questions, lines(join(data, 'questions.test.jsonl')).length);
  assert.deepEqual(recall, await recallByHand(main));
  const [logged] = lines(run.evaluations);
  assert.deepEqual(
    [logged.metric, logged.stage, logged.questions, logged.protocol, logged.figures['recall@5'].value],
    ['recall', 'ict-warmup', questions, 'dpr', recall[5]],
  );
  assert.ok(bm25[5] > 0.5, 'questions of this world name what they ask of');
  assert.equal(
    readManifest(currentIndex(run.index)!).createdAt,
    createdAt,
    'the same weights, the same index',
  );
});

test('pretraining swaps in a new index every second step', async () => {
  const { run, config } = main;
  const { stopped, metrics: last } = await pretrain(main);
  assert.equal(stopped, false);
  assert.deepEqual(
    figures(run).map(({ step, indexAgeSteps }) => [step, indexAgeSteps]),
    [1, 2, 3, 4, 5, 6].map((step) => [step, (step - 1) % 2]),
  );
  assert.ok(Number.isFinite(last.loss) && Number.isFinite(last.retrievalUtility));
  assert.deepEqual(
    lines(run.refreshes('pretrain')).map(({ name, step, inUseAt, rows }) => ({ name, step, inUseAt, rows })),
    [2, 4, 6].map((step) => ({
      name: `step-000000${step}`,
      step,
      inUseAt: step,
      rows: readManifest(currentIndex(run.index)!).rows,
    })),
  );
  // The index of the last refresh is of the last weights: nothing is embedded again.
  const { createdAt, step } = readManifest(currentIndex(run.index)!);
  assert.equal(step, STEPS);
  const { baselines } = await evalRecall(main, 'pretrain');
  const ict = lines(run.evaluations)[0].figures;
  assert.deepEqual(baselines['ict-warmup'], Object.fromEntries(KEPT.map((name) => [name, ict[name]])));
  assert.equal(readManifest(currentIndex(run.index)!).createdAt, createdAt);
  const indexes = readdirSync(run.index).filter((name) => name.startsWith('step-'));
  assert.equal(indexes.length, config.refresh.keepIndexes);
});

test('fine-tuning makes a model that answers, and its predictions are counted correctly', async () => {
  const { run } = main;
  assert.equal((await finetuneQa(main)).stopped, false);
  const result = await evalExactMatch(main);
  const predictions = lines(run.predictions);
  const asked = lines(join(data, 'questions.test.jsonl'));
  assert.deepEqual(
    predictions.map(({ question, answers }) => ({ question, answers })),
    asked.map(({ question, answer }) => ({ question, answers: answer })),
  );
  const right = predictions.filter((p) => exactMatch(p.prediction, p.answers, 'orqa'));
  assert.equal(result.exactMatch, right.length / asked.length);
  assert.deepEqual(
    predictions.map((p) => p.correct),
    predictions.map((p) => right.includes(p)),
  );

  const corpus = openCorpus(run.corpus);
  const [{ question, prediction, document }] = predictions;
  const { answers } = await ask(main, question);
  assert.equal(answers.length, 2, 'one of each block read');
  assert.deepEqual([answers[0].answer, answers[0].document], [prediction, document]);
  for (const a of answers) {
    assert.ok(a.answer.length > 0);
    const passage = a.before + a.answer + a.after;
    assert.ok(Array.from({ length: corpus.blocks }, (_, b) => corpus.text(b)).includes(passage));
  }
  const sum = (of: (a: AskAnswer) => number) => answers.reduce((total, a) => total + of(a), 0);
  assert.ok(Math.abs(sum((a) => a.retrieval) - 1) < 1e-5);
  assert.ok(answers[0].probability >= answers[1].probability && sum((a) => a.probability) <= 1 + 1e-6);
  corpus.close();
});

test('the run is exported for transformers, the blocks in the order of the corpus', async () => {
  const to = join(root, 'exported');
  const parts = await exportRealm(main, to);
  const names = parts.map(({ folder }) => relative(to, folder));
  assert.deepEqual(names, ['embedder', 'scorer', 'encoder', 'reader', 'openqa']);

  // Block 3 embedded by the exported tower is row 3 of the exported vectors, and its text is record 3.
  const corpus = openCorpus(main.run.corpus);
  const config = { ...main.config, model: { ...main.config.model, initial: join(to, 'embedder') } };
  const model = describeModel(config.model, corpus.tokenizer.size);
  firstWeights({ ...main, config }, model, retrieverShapes(model));
  const block = { title: corpus.titleIds(3), body: corpus.bodyIds(3) };
  const sequences = blockSequences(corpus.tokenizer, [block], config.text.blockTokens);
  const vector = await embedAll(model.params, model.documentTower, model.embedder, sequences, 1000);
  const { tensors, close } = readSafetensors(join(to, 'openqa', 'model.safetensors'));
  const P = vector.length;
  const row = tensors.get('block_emb')!.read(3 * P, 4 * P);
  assert.ok(row.every((value, i) => Math.abs(value - vector[i]) < 1e-4));
  assert.deepEqual(tensors.get('block_emb')!.shape, [corpus.blocks, P]);
  close();
  disposeModel(model);
  const records = [...readBlockRecords(join(to, 'openqa', 'block_records.npy'))];
  assert.deepEqual(
    records.map((record) => record.text),
    Array.from({ length: corpus.blocks }, (_, b) => corpus.text(b)),
  );
  corpus.close();
  await assert.rejects(exportRealm(main, root), /has other files; choose an empty or new folder/);
});

test('the closed-book baseline trains and answers without documents', async () => {
  const { run } = main;
  const result = (await closedBook(main))!;
  assert.equal(result.questions, lines(join(data, 'questions.test.jsonl')).length);
  assert.ok(result.exactMatch >= 0 && result.exactMatch <= 1);
  assert.equal(lines(run.metrics('closed-book')).length, 2);
  const { figures } = await evalExactMatch(main);
  assert.equal((figures.closedBook as Interval).value, result.exactMatch);
});

test('predictions and rankings are scored again from their files, and compared', async () => {
  const { run } = main;
  const to = join(root, 'retrieved.trec');
  const { exactMatch, recall, against, seen } = await evalExactMatch(main, {
    to,
    format: 'trec',
    against: run.dir,
  });
  const rest = ({ difference, better, worse, pValue }: Comparison) => [
    difference.value,
    better,
    worse,
    pValue,
  ];
  assert.deepEqual(rest(against!), [0, 0, 0, 1]);
  const asked = lines(join(data, 'questions.test.jsonl'));
  assert.equal(
    seen!.reduce((sum, part) => sum + part.questions, 0),
    asked.length,
  );
  const again = await scorePredictions(run.predictions);
  assert.equal((again.figures.exactMatch as Interval).value, exactMatch);
  const questions = join(data, 'questions.test.jsonl');
  const retrieved = await scoreRetrieved(to, run.dir, { questions });
  const { 100: _, ...within } = recall; // the corpus has fewer blocks
  assert.deepEqual(retrieved.recall, within);

  // The third question is the first again, with another answer: it counts once, and keeps its number in what is written.
  const twice = join(root, 'twice.jsonl');
  const all = [asked[0], asked[1], { ...asked[0], answer: ['zzz'] }, ...asked.slice(2)];
  writeFileSync(twice, all.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const once = await evalExactMatch(main, { questions: twice, to, format: 'trec' });
  assert.equal(once.questions, asked.length);
  const predicted = lines(run.predictions);
  assert.deepEqual(
    predicted.map(({ question, answers }) => [question, answers]),
    all.map(({ question, answer }) => [question, answer]),
  );
  assert.equal(once.exactMatch, predicted.slice(1).filter(({ correct }) => correct).length / asked.length);
  assert.equal(
    ((await scorePredictions(run.predictions)).figures.exactMatch as Interval).value,
    once.exactMatch,
  );
  const ranked = await scoreRetrieved(to, run.dir, { questions: twice });
  assert.equal(ranked.questions, all.length);
  assert.ok(Math.abs(ranked.recall[20] * all.length - recall[20] * asked.length) <= 1, 'none is mixed up');
  const dpr = await evalExactMatch(main, { questions: twice, protocol: 'dpr' });
  assert.equal(dpr.questions, all.length);
});

test('perplexity through retrieval, of sentences that pretraining has not seen', async () => {
  const { run, config } = main;
  const corpus = openCorpus(run.corpus);
  const left = corpus.sentences.count - STEPS * config.pretrain.batch;
  corpus.close();
  const perplexity = await evalMasked(main, 'perplexity');
  assert.deepEqual([perplexity.questions, perplexity.heldOut], [Math.min(left, 1000), true]);
  const { figures } = await evalMasked(main, 'utility', join(data, 'sentences.jsonl'));
  assert.ok(Number.isFinite((figures.retrievalUtility as Interval).value));
  assert.deepEqual(
    lines(run.evaluations)
      .slice(-2)
      .map(({ metric, stage }) => [metric, stage]),
    [
      ['perplexity', 'pretrain'],
      ['utility', 'pretrain'],
    ],
  );
});

test('the run folder has the results of each stage, and nothing unfinished', () => {
  const { run } = main;
  const all = readdirSync(run.dir, { recursive: true }) as string[];
  for (const path of [
    'config.yaml',
    'corpus/manifest.json',
    ...Object.entries({ 'ict-warmup': 4, pretrain: STEPS, 'finetune-qa': 3, 'closed-book': 2 }).flatMap(
      ([stage, steps]) => [
        `checkpoints/${stage}/latest`,
        `checkpoints/${stage}/best`,
        `checkpoints/${stage}/step-000000${steps}/model.safetensors`,
        `checkpoints/${stage}/step-000000${steps}/optimizer.safetensors`,
        `checkpoints/${stage}/step-000000${steps}/state.json`,
        `metrics/${stage}.jsonl`,
      ],
    ),
    'metrics/pretrain-refreshes.jsonl',
    'index/current',
    'predictions.jsonl',
    'metrics/evaluations.jsonl',
  ])
    assert.ok(all.includes(path), path);
  assert.deepEqual(
    all.filter((path) => /\.(tmp|old)$/.test(path)),
    [],
  );
});

test('one seed gives the same pretraining to the bit, even if it is stopped and resumed; another seed gives another', async () => {
  const again = begin('again');
  await prepareCorpus(again.run, again.config);
  await ictWarmup(again);
  await stoppedAfter(3, again.run.metrics('pretrain'), () => pretrain(again));
  const { length } = figures(again.run);
  assert.ok(length >= 3 && length < STEPS);
  assert.equal((await pretrain(again)).stopped, false);

  assert.deepEqual(figures(again.run), figures(main.run));
  const weights = ({ run }: Context) => {
    const { tensors, close } = readSafetensors(openCheckpoint(run.checkpoint('pretrain'), 'latest').weights);
    const all = [...tensors].map(([name, t]) => [name, Buffer.from(t.read().buffer).toString('base64')]);
    close();
    return all;
  };
  assert.deepEqual(weights(again), weights(main));

  const other = begin('other', 'seed=2', 'refresh.mode=off');
  await pretrained(other);
  const losses = (run: Run) => figures(run).map(({ loss }) => loss);
  assert.notDeepEqual(losses(other.run), losses(main.run));
});

/** Refresher processes that this process started. */
function refreshers(): number[] {
  return execFileSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(\d+)\s.*refresher\/child\.ts/.exec(line))
    .filter((found) => found !== null && Number(found[2]) === process.pid)
    .map((found) => Number(found![1]));
}

const noPs = process.platform === 'win32' && 'no ps here';

test('training in async mode survives the death of its refresher, and leaves none running', {
  skip: noPs,
}, async () => {
  const context = begin(
    'async',
    'refresh={mode: async, every: 12}',
    'pretrain={steps: 24, batch: 4, candidates: 2}',
    'train.saveEvery=100',
    'model.dropout=0',
  );
  const { run, config } = context;
  await prepareCorpus(run, config);
  await ictWarmup(context);
  const killed: number[] = [];
  said = '';
  const kill = setInterval(() => {
    for (const pid of refreshers()) {
      process.kill(pid, 'SIGKILL');
      killed.push(pid);
      clearInterval(kill);
    }
  }, 50);
  const { stopped, metrics: figures } = await pretrain(context);
  clearInterval(kill);
  assert.equal(killed.length, 1);
  assert.match(said, /the refresher died \(killed by SIGKILL\)/);
  assert.equal(stopped, false);
  assert.ok(Number.isFinite(figures.loss));
  assert.equal(lines(run.metrics('pretrain')).length, 24);
  assert.deepEqual(refreshers(), []);
});

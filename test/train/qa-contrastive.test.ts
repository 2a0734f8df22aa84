import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { answerFinder } from '../../src/answers/answer-finder.ts';
import type { Config } from '../../src/config.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { type EncoderInput, encoderInput } from '../../src/model/bert.ts';
import { embedSequences, type Sequences } from '../../src/model/embedder.ts';
import { isRetriever, lossGradients, type Model } from '../../src/model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../../src/model/questions.ts';
import { type Bm25, ensureBm25 } from '../../src/retrieval/bm25.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { qaShapes, qaStep } from '../../src/train/finetune-qa.ts';
import { questionSequences, sequencesOf } from '../../src/train/qa-batch.ts';
import { candidateMaker, type Rank, rankByIndex } from '../../src/train/qa-candidates.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep, assertSlope, descend } from '../support/gradients.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

// The step with qa.contrastive: the softmax over the blocks of the batch, and its gradients in micro-batches.

const folder = temporaryFolder('qa-contrastive');
const N = 6;
const config = tinyConfig(
  `qa.batch=${N}`,
  'qa.retrieverBlocks=12',
  'qa.readerBlocks=3',
  'model.sharedTowers=false',
  'model.temperature=2',
  'qa.gold=true',
  'qa.refreshEvery=1',
  'qa.contrastive=0.7',
  'qa.hardNegatives=1',
  'qa.minedNegatives=2',
  'qa.distillation=0.3',
);
const vary = (changes: Partial<Config['qa']>): Config => ({ ...config, qa: { ...config.qa, ...changes } });
let corpus: Corpus;
let model: Model;
let index: SearchIndex;
let bm25: Bm25;
let questions: EncodedQuestion[];
before(async () => {
  await startTestEngine();
  const tiny = await tinyCorpus(folder, config);
  ({ corpus } = tiny);
  model = tinyModel(config, corpus.tokenizer.size);
  await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
  index = openIndex(currentIndex(folder)!, { efSearch: 128 });
  bm25 = await ensureBm25(join(folder, 'bm25'), corpus);
  // The fifth has the answer of the first, in a block of its own; the last has no right block at all.
  const some = [0, 13, 26, 39, 52, 65].map((i) => tiny.world.train[i]);
  questions = encodeQuestions(corpus, [
    ...some.slice(0, 4),
    { ...some[4], answers: [...some[4].answers, ...some[0].answers] },
    { question: some[5].question, answers: ['zzz'] },
  ]);
});
after(() => {
  bm25?.close();
  index?.close();
  corpus?.close();
});

const step = async (settings: Config, n = 0, asked = questions, rank?: Rank) => {
  const stage = qaStep(model, corpus, index, asked, settings, { rank, words: bm25 });
  const result = await stage.step(n);
  stage.dispose();
  return result;
};

const source = () => ({ model, corpus, index, config });
const embedded = (tower: string, input: EncoderInput) =>
  embedSequences(model.params, tower, model.embedder, input);
const inputOf = ({ ids, firstSegment }: Sequences) => encoderInput(ids, firstSegment);
const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => sum(Array.from(a, (x, i) => x * b[i]));

/** Vectors of the questions and of all blocks. */
function vectors() {
  return tf.tidy(() => ({
    q: embedded(model.queryTower, inputOf(questionSequences(source(), questions))).arraySync(),
    z: embedded(
      model.documentTower,
      inputOf(
        sequencesOf(
          source(),
          Array.from({ length: corpus.blocks }, (_, block) => block),
        ),
      ),
    ).arraySync(),
  }));
}

/** The blocks of the batch's softmax, from the definition, and the row of each question's positive. */
function batchBlocks() {
  const { q, z } = vectors();
  const has = answerFinder(corpus);
  const choose = candidateMaker(corpus, questions, config.qa, has, bm25);
  const rank = rankByIndex(index, 12);
  const chosen = rank(Float32Array.from(q.flat()), questions).map((ranking, b) =>
    choose.choose(questions[b], ranking, (block) => dot(q[b], z[block])),
  );
  const blocks = [
    ...new Set(
      chosen.flatMap(({ positive, negatives }) =>
        positive === undefined ? negatives : [positive, ...negatives],
      ),
    ),
  ];
  return { q, z, has, chosen, blocks };
}

test('the loss by hand: the other positives and all hard negatives, but not blocks that hold the answer', async () => {
  const { q, z, has, chosen, blocks } = batchBlocks();
  let [loss, correct, count, left] = [0, 0, 0, 0];
  chosen.forEach(({ positive }, b) => {
    if (positive === undefined) return;
    count++;
    const others = blocks.filter((block) => block !== positive && !has(block, questions[b]));
    left += blocks.length - 1 - others.length;
    const own = dot(q[b], z[positive]) / 2;
    const scores = others.map((block) => dot(q[b], z[block]) / 2);
    loss += Math.log(Math.exp(own) + sum(scores.map(Math.exp))) - own;
    if (scores.every((score) => score < own)) correct++;
  });
  assert.ok(count === N - 1 && left > 0, `${count} take part, ${left} blocks are left out`);
  assert.ok(chosen.some(({ negatives }) => negatives.length > 1));
  const { metrics, gradients } = await step(config);
  tf.dispose(gradients);
  assert.ok(Math.abs(metrics.contrastiveLoss - loss / count) < 1e-5 * Math.max(1, loss), `${loss / count}`);
  assert.ok(Math.abs(metrics.contrastiveAccuracy - correct / count) < 1e-6);
  const { retrieverLoss, readerLoss, contrastiveLoss, distillationLoss } = metrics;
  const all = retrieverLoss + readerLoss + 0.7 * contrastiveLoss + 0.3 * distillationLoss;
  assert.ok(distillationLoss > 0 && Math.abs(metrics.loss - all) < 1e-5 * all);
});

test('the gradients are those of one pass: the other losses, and the softmax of the whole batch', async () => {
  const { has, chosen, blocks } = batchBlocks();
  const plain = await step(vary({ contrastive: 0, minedNegatives: 0, microBatch: N }));
  const asked = inputOf(questionSequences(source(), questions));
  const documents = inputOf(sequencesOf(source(), blocks));
  const softmax = lossGradients(model, qaShapes(model, true), () => {
    const q = embedded(model.queryTower, asked);
    const z = embedded(model.documentTower, documents);
    const scores = tf.matMul(q, z, false, true).div(2);
    const losses = chosen.flatMap(({ positive }, b) => {
      if (positive === undefined) return [];
      const kept = blocks.flatMap((block, u) => (block === positive || !has(block, questions[b]) ? [u] : []));
      const row = tf.gather(scores.slice([b, 0], [1, -1]).flatten(), tf.tensor1d(kept, 'int32'));
      return row.logSumExp().sub(row.slice([kept.indexOf(blocks.indexOf(positive))], [1]).sum());
    });
    return tf.addN(losses).div(losses.length).mul(0.7) as tf.Scalar;
  });
  const metrics = { ...plain.metrics };
  metrics.loss += softmax.value.dataSync()[0];
  for (const [microBatch, weakSupervision] of [
    [1, 1],
    [4, 1],
    [N, 1],
    [50, 1],
    [4, 0.4],
    [4, 0],
  ]) {
    // The weight is one of the retriever's gradients; the reader's stay.
    const gradients = Object.fromEntries(
      Object.entries(plain.gradients).map(([name, gradient]) => {
        const weak = gradient.mul(isRetriever(model, name) ? weakSupervision : 1);
        const contrastive = softmax.gradients[name];
        return [name, contrastive ? weak.add(contrastive) : weak];
      }),
    );
    const cached = await step(vary({ microBatch, weakSupervision }));
    assertSameStep(cached, { gradients, metrics }, 1e-5);
    tf.dispose([cached.gradients, gradients]);
  }
  tf.dispose([plain.gradients, softmax.value, softmax.gradients]);
});

test('with dropout, the gradient is the slope of the loss, and repeating a step gives the same result', async () => {
  const noisy = { ...vary({ microBatch: 4, readQuestions: 2 }), model: { ...config.model, dropout: 0.2 } };
  const { metrics, gradients } = await step(noisy, 1);
  const again = await step(noisy, 1);
  assertSameStep(again, { metrics, gradients }, 0);
  // The reader's weights also change what the retriever is drawn to, which has no gradient.
  const towers = Object.entries(gradients).filter(([name]) => !/^(reader|span)\./.test(name));
  await assertSlope(model, Object.fromEntries(towers), async () => {
    const { metrics, gradients } = await step(noisy, 1);
    tf.dispose(gradients);
    return metrics.loss;
  });
  tf.dispose([gradients, again.gradients]);
});

test('questions that are not read train the retriever as before, and the reader learns from the others', async () => {
  const all = await step(config);
  const two = await step(vary({ readQuestions: 2 }));
  for (const name of ['retrieverLoss', 'contrastiveLoss', 'contrastiveAccuracy', 'retrieved'])
    assert.ok(Math.abs(two.metrics[name] - all.metrics[name]) < 1e-5, name);
  // The batch's first two questions alone.
  const first = await step(vary({ batch: 2 }), 0);
  for (const name of ['readerLoss', 'exactMatch', 'read', 'distillationLoss'])
    assert.ok(Math.abs(two.metrics[name] - first.metrics[name]) < 1e-5, name);
  for (const [name, gradient] of Object.entries(first.gradients)) {
    if (!/^(reader|span)\./.test(name)) continue;
    const error = tf.tidy(() => gradient.sub(two.gradients[name]).abs().max().dataSync()[0]);
    const size = tf.tidy(() => gradient.abs().max().dataSync()[0]);
    assert.ok(error <= 1e-5 * Math.max(size, 0.1), `${name}: off by ${error} where the largest is ${size}`);
  }
  tf.dispose([all.gradients, two.gradients, first.gradients]);
});

test('the reader reads the blocks of a hybrid search with its bonus, which the losses of the retriever do not have', async () => {
  const by = rankByIndex(index, 12);
  const { chosen } = batchBlocks();
  const { positive, blocks } = chosen[0];
  const others = blocks.filter((block) => block !== positive).slice(0, 2);
  const hybrid =
    (bonus: (block: number) => number): Rank =>
    (vectors, asked) =>
      by(vectors, asked).map((ranking) => ({
        ...ranking,
        hybrid: { blocks: [positive!, ...others], bonus: (blocks) => blocks.map(bonus) },
      }));
  const alone = (readerBlocks: number, bonus: (block: number) => number) =>
    step(vary({ minedNegatives: 0, batch: 1, readerBlocks }), 0, [questions[0]], hybrid(bonus));
  const far = (block: number) => (block === positive ? 0 : -1000);
  const [plain, same, first, one] = [
    await alone(3, () => 0),
    await alone(3, () => 3),
    await alone(3, far),
    await alone(1, far),
  ];
  // The same for all blocks changes nothing.
  assertSameStep(same, plain, 1e-4);
  for (const name of ['contrastiveLoss', 'retrieverLoss', 'distillationLoss'])
    assert.equal(first.metrics[name], plain.metrics[name], name);
  // Blocks that are nearly impossible count as if they were not read.
  assert.ok(Math.abs(first.metrics.readerLoss - one.metrics.readerLoss) < 1e-5);
  assert.ok(Math.abs(plain.metrics.readerLoss - one.metrics.readerLoss) > 1e-2);
  tf.dispose([plain, same, first, one].map(({ gradients }) => gradients));
});

test('a batch without any right block leaves the contrastive loss out', async () => {
  const lost = encodeQuestions(corpus, [{ ...questions[5], answers: ['zzz'] }]);
  const settings = vary({ batch: 1, gold: false, hardNegatives: 0 });
  const { metrics, gradients } = await step(settings, 0, lost);
  assert.equal(metrics.contrastiveLoss, undefined);
  assert.ok(Number.isFinite(metrics.loss));
  tf.dispose(gradients);
});

test('steps leak no tensor, and following the gradient lowers the loss', async () => {
  const noisy = { ...vary({ microBatch: 4, readQuestions: 2 }), model: { ...config.model, dropout: 0.1 } };
  const empty = tf.memory().numTensors;
  const stage = qaStep(model, corpus, index, questions, noisy, { words: bm25 });
  tf.dispose((await stage.step(0)).gradients);
  const held = tf.memory().numTensors;
  for (let n = 1; n <= 10; n++) tf.dispose((await stage.step(n)).gradients);
  assert.equal(tf.memory().numTensors, held);
  stage.dispose();
  assert.equal(tf.memory().numTensors, empty);
  const own = tinyModel(config, corpus.tokenizer.size);
  const quiet = qaStep(own, corpus, index, questions, vary({ retrieverBlocks: 42, distillation: 0 }), {
    words: bm25,
  });
  const losses = await descend(own, () => quiet.step(0), 6, 0.05);
  assert.ok(losses.at(-1)! < 0.9 * losses[0], losses.join());
});

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import { exactMatch } from '../../src/answers/metrics.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { evaluateAnswers, freshRanks, type Prediction, retrievalRanks } from '../../src/eval/evaluate.ts';
import { maskedMetrics, scoreMasked, sentencesOf, untrainedSentences } from '../../src/eval/masked.ts';
import type { Interval } from '../../src/eval/statistics.ts';
import { mean } from '../../src/eval/statistics.ts';
import { type Model, pretrainedShapes } from '../../src/model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../../src/model/questions.ts';
import { makeRealmBatch } from '../../src/model/realm-batch.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { qaStep } from '../../src/train/finetune-qa.ts';
import { drawMasked, realmGradients, retrieveCandidates } from '../../src/train/pretrain.ts';
import { exampleAt, stepRandom } from '../../src/train/sampler.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('evaluate');
const ASKED = 12;
const config = tinyConfig(
  `qa.batch=${ASKED}`,
  'qa.retrieverBlocks=12',
  'qa.readerBlocks=3',
  'pretrain.microBatch=4',
  'pretrain.candidates=4',
);
let corpus: Corpus;
let world: World;
let model: Model;
let index: SearchIndex;
before(async () => {
  await startTestEngine();
  ({ corpus, world } = await tinyCorpus(folder, config));
  model = tinyModel(config, corpus.tokenizer.size);
  await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
  index = openIndex(currentIndex(folder)!, { efSearch: 128 });
});
after(() => index?.close());

/** Questions of which a model with random weights answers some right: every third has the prediction as its answer. */
async function asked(): Promise<EncodedQuestion[]> {
  const some = world.train.slice(0, ASKED).map(({ question }) => ({ question, answers: ['the', 'zzz'] }));
  const predictions: Prediction[] = [];
  await evaluateAnswers({ model, corpus, index, config }, encodeQuestions(corpus, some), [1], {
    predicted: (prediction) => predictions.push(prediction),
  });
  return encodeQuestions(
    corpus,
    some.map(({ question, answers }, i) => ({
      question,
      answers: i % 3 === 0 ? [predictions[i].prediction.toUpperCase()] : i % 3 === 1 ? answers : ['zzz'],
    })),
  );
}

test('exact match by tokens and the span oracle equal the metrics of fine-tuning', async () => {
  const questions = await asked();
  const predictions: Prediction[] = [];
  const { scores, ...shares } = await evaluateAnswers(
    { model, corpus, index, config },
    questions,
    [1, 3, 12],
    {
      predicted: (prediction) => predictions.push(prediction),
    },
  );
  const stage = qaStep(model, corpus, index, questions, config);
  const { metrics, gradients } = await stage.step(0); // a batch of all questions
  tf.dispose(gradients);
  stage.dispose();
  assert.ok(metrics.exactMatch > 0 && metrics.exactMatch < metrics.read && metrics.read < 1);
  assert.ok(Math.abs(mean(scores.tokenExactMatch) - metrics.exactMatch) < 1e-6);
  assert.ok(Math.abs(mean(scores.spanOracle) - metrics.read) < 1e-6);

  assert.deepEqual(
    scores.exactMatch,
    predictions.map(({ prediction, answers }) => Number(exactMatch(prediction, answers, 'orqa'))),
  );
  assert.equal(shares.exactMatch, mean(scores.exactMatch));
  assert.ok(scores.readerOracle.every((oracle, i) => oracle >= scores.exactMatch[i]));
  for (const p of predictions) {
    assert.equal(p.passage.slice(p.start, p.end), p.prediction);
    assert.equal(p.answerKind, 'string');
  }
  assert.equal(shares.recall[12], scores.ranks.filter((rank) => rank < 12).length / ASKED);
});

test('positions of predictions count code points', async () => {
  const questions = await asked();
  const predict = async (texts: Corpus) => {
    const predictions: Prediction[] = [];
    const predicted = (prediction: Prediction) => predictions.push(prediction);
    await evaluateAnswers({ model, corpus: texts, index, config }, questions, [1], { predicted });
    return predictions;
  };
  const plain = await predict(corpus);
  // Two invisible characters beyond U+FFFF before each text, which the tokenizer drops: four UTF-16 units.
  const marked = await predict({ ...corpus, text: (b) => `\u{E0041}\u{E0042}${corpus.text(b)}` });
  assert.ok(plain.some(({ start }) => start > 0));
  for (const [i, { passage, start, end, prediction }] of marked.entries()) {
    assert.equal(Array.from(passage).slice(start, end).join(''), prediction);
    assert.deepEqual([prediction, start], [plain[i].prediction, plain[i].start + 2]);
  }
});

test('a retriever without an index finds the same as with its index', async () => {
  const questions = await asked();
  const rankings: number[][] = [];
  const ranks = await retrievalRanks({ model, corpus, index, config }, questions, 20, {
    each: ({ blocks, scores, number }) => {
      assert.equal(number, rankings.length + 1);
      assert.ok(scores.every((score, i) => i === 0 || score <= scores[i - 1]));
      rankings.push([...blocks]);
    },
  });
  assert.deepEqual(
    ranks,
    rankings.map((blocks, i) => {
      const at = blocks.findIndex((block) => hasAnswer(corpus.text(block), questions[i]));
      return at < 0 ? Infinity : at;
    }),
  );
  assert.deepEqual(await freshRanks(model, corpus, questions, config, 20), ranks);
});

test('perplexity and retrieval utility equal those of a step of pretraining', async () => {
  const examples = drawMasked(corpus, config, 0, 8, stepRandom(1, 1));
  const { candidates } = await retrieveCandidates(model, corpus, index, examples, config);
  const batch = makeRealmBatch(model, examples, candidates, corpus, config.text);
  const pieces = examples.reduce((n, { targets }) => n + targets.length, 0);
  const settings = { ...config.pretrain, batch: 8 };
  const { metrics, gradients } = await realmGradients(
    model,
    pretrainedShapes(model),
    batch,
    settings,
    pieces,
    undefined,
  );
  tf.dispose(gradients);
  const tensors = tf.memory().numTensors;
  const measured = maskedMetrics(await scoreMasked(model, corpus, index, examples, config), 1);
  assert.equal(tf.memory().numTensors, tensors);
  const value = (name: string) => (measured[name] as Interval).value;
  const near = (actual: number, expected: number) => assert.ok(Math.abs(actual / expected - 1) < 1e-4);
  near(Math.log(value('perplexity')), metrics.loss);
  near(value('retrievalUtility'), metrics.retrievalUtility);
  near(value('nullProbability'), metrics.nullProbability);
  near(Math.log(value('nullPerplexity')) - Math.log(value('perplexity')), metrics.retrievalUtility);
});

test('a model without the null document is measured without it, and trivial candidates are always dropped', async () => {
  const { examples } = untrainedSentences(corpus, config, 0);
  const some = examples.filter(({ source }) => source >= 0).slice(0, 8);
  const changed = (change: Partial<typeof config.pretrain>) => ({
    ...config,
    pretrain: { ...config.pretrain, ...change },
  });
  const score = (settings: typeof config) => scoreMasked(model, corpus, index, some, settings);
  const usual = await score(config);
  const found = await retrieveCandidates(model, corpus, index, some, changed({ dropTrivial: false }));
  assert.ok(
    found.candidates.some((blocks, i) => blocks.includes(some[i].source)),
    'the trivial candidate would be found',
  );
  assert.deepEqual(await score(changed({ dropTrivial: false })), usual);

  const without = await score(changed({ nullDocument: false }));
  const near = (a: number[], b: number[]) =>
    a.forEach((value, i) => {
      assert.ok(Math.abs(value - b[i]) < 1e-4, `${i}: ${value}, not ${b[i]}`);
    });
  near(
    without.nullProbability,
    some.map(() => 0),
  );
  near(without.nullLoss, usual.nullLoss);
  // p(y|x) without the null document: its share of p(z|x) is distributed over the others.
  near(
    without.loss,
    usual.loss.map((loss, i) => {
      const [p, share] = [Math.exp(-loss), usual.nullProbability[i]];
      return -Math.log((p - share * Math.exp(-usual.nullLoss[i])) / (1 - share));
    }),
  );
});

test('sentences that pretraining has not reached, with the same masks every time', () => {
  const { count } = corpus.sentences;
  const { examples, heldOut } = untrainedSentences(corpus, config, count - 5);
  assert.deepEqual([examples.length, heldOut], [5, true]);
  assert.deepEqual(untrainedSentences(corpus, config, count - 5).examples, examples);
  const trained = drawMasked(corpus, config, 0, count - 5, stepRandom(config.seed, 0));
  const seen = new Set(trained.map(({ sentence }) => sentence.join()));
  const orders = Array.from({ length: 5 }, (_, i) => exampleAt(config.seed + 1, count, count - 5 + i));
  assert.deepEqual(
    examples.map(({ sentence }) => sentence.join()),
    orders.map((at) => corpus.sentences.ids(at).join()),
  );
  assert.ok(examples.some(({ sentence }) => !seen.has(sentence.join())));
  const all = untrainedSentences(corpus, config, 3 * count);
  assert.deepEqual([all.examples.length, all.heldOut], [Math.min(count, 1000), false]);
});

test('sentences from a file: given spans or those found by rules, within the part of the sentence that is kept', async () => {
  const path = join(folder, 'held-out.jsonl');
  const long = `${'it was so and '.repeat(20)}Talvora Benik came.`;
  const lines = [
    { text: 'nothing here to mask', spans: [] },
    { text: 'nothing here to mask', spans: [[8, 12]] },
    { text: 'It stood in 1812.' },
    { text: long, spans: [[long.indexOf('Talvora'), long.length - 6]] }, // beyond the part that is kept
  ];
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const { examples, heldOut } = await sentencesOf(path, corpus, config);
  assert.equal(heldOut, true);
  assert.deepEqual(
    examples.map(({ targets }) => corpus.tokenizer.decode(Int32Array.from(targets))),
    ['here', '1812'],
  );
  assert.ok(examples.every(({ source }) => source === -1));
  writeFileSync(path, JSON.stringify(lines[0]));
  await assert.rejects(sentencesOf(path, corpus, config), /not one sentence holds a name or a date/);
});

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { bertShapes, encode, encoderInput, maskedLanguageModel, type Shape } from '../../src/model/bert.ts';
import type { Model } from '../../src/model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../../src/model/questions.ts';
import { closedBookAnswers, closedBookStep } from '../../src/train/closed-book.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep, descend } from '../support/gradients.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('closed-book');
const config = tinyConfig('closedBook.batch=4', 'text.questionTokens=20');
let corpus: Corpus;
let world: World;
let model: Model;
let shapes: Shape[];
before(async () => {
  await startTestEngine();
  ({ corpus, world } = await tinyCorpus(folder, config));
  model = tinyModel(config, corpus.tokenizer.size);
  shapes = bertShapes(model.readerTower, model.reader, true).filter(({ name }) => !name.includes('pooler.'));
});

const stageOf = (questions: EncodedQuestion[], settings = config) =>
  closedBookStep(model, shapes, corpus.tokenizer, questions, settings);

/** log p of every word piece at each of `n` masks after the question, which has at most 17 pieces. */
function logPieces({ ids }: EncodedQuestion, n: number): number[][] {
  const { cls, sep, mask } = corpus.tokenizer;
  const question = [...ids].slice(0, 17);
  const sequence = [cls, ...question, ...Array<number>(n).fill(mask), sep, sep];
  return tf.tidy(() => {
    const input = encoderInput([Int32Array.from(sequence)], [sequence.length - 1]);
    const outputs = encode(model.params, model.readerTower, model.reader, input);
    const all = outputs.reshape([sequence.length, model.reader.hidden]) as tf.Tensor2D;
    const logits = maskedLanguageModel(model.params, model.readerTower, model.reader, all).arraySync();
    return logits.slice(question.length + 1, question.length + 1 + n).map((row) => {
      const whole = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      return row.map((value) => value - whole);
    });
  });
}

test('the loss is the mean over the pieces of the answers, each question read separately with its masks', async () => {
  const questions = encodeQuestions(
    corpus,
    ['the', 'it is known for silver buttons and the river', 'her', 'town'].map((answer, i) => ({
      question: world.train[30 * i].question,
      answers: [answer],
    })),
  );
  assert.ok(questions.some((q) => q.ids.length > 17) && questions[1].answerIds[0].length > 6);
  let sum = 0;
  let pieces = 0;
  for (const question of questions) {
    const answer = question.answerIds[0].slice(0, 6); // at most `model.maxSpanWidth` pieces
    logPieces(question, answer.length).forEach((row, m) => {
      sum += row[answer[m]];
      pieces++;
    });
  }
  const stage = stageOf(questions);
  const { metrics, gradients } = await stage.step(0);
  tf.dispose(gradients);
  assert.ok(Math.abs(metrics.loss + sum / pieces) < 1e-5 * metrics.loss, `${metrics.loss}, ${-sum / pieces}`);
});

test('the answer consists of the likeliest pieces for the number of masks with the best mean', async () => {
  const questions = encodeQuestions(corpus, world.test.slice(0, 5));
  const before = tf.memory().numTensors;
  const answers = await closedBookAnswers(model, corpus.tokenizer, questions, config);
  assert.equal(tf.memory().numTensors, before);
  const lengths = new Set<number>();
  questions.forEach((question, i) => {
    let best = { mean: -Infinity, pieces: [0] };
    for (let n = 1; n <= 6; n++) {
      const rows = logPieces(question, n);
      const pieces = rows.map((row) => row.indexOf(Math.max(...row)));
      const mean = rows.reduce((sum, row) => sum + Math.max(...row), 0) / n;
      if (mean > best.mean) best = { mean, pieces };
    }
    lengths.add(best.pieces.length);
    assert.equal(answers[i], corpus.tokenizer.decode(best.pieces));
  });
  assert.ok(lengths.size > 1, 'of several lengths');
});

test('following the gradients lowers the loss', async () => {
  const stage = stageOf(encodeQuestions(corpus, world.train));
  const losses = await descend(model, () => stage.step(0), 6, 0.05);
  assert.ok(losses.at(-1)! < 0.9 * losses[0], losses.join());
});

test('a question is left out if its answers have no word piece', async () => {
  const questions = encodeQuestions(corpus, [
    { question: 'Who?', answers: [' '] },
    { question: 'Where?', answers: [' ', 'the'] },
  ]);
  const [both, one] = await Promise.all([questions, questions.slice(1)].map((list) => stageOf(list).step(0)));
  assertSameStep(both, one, 0);
  tf.dispose([both.gradients, one.gradients]);
});

test('fifty steps leak no tensor', async () => {
  const noisy = { ...config, model: { ...config.model, dropout: 0.1 } };
  const empty = tf.memory().numTensors;
  const stage = stageOf(encodeQuestions(corpus, world.train), noisy);
  tf.dispose((await stage.step(0)).gradients);
  const held = tf.memory().numTensors;
  for (let n = 1; n <= 50; n++) tf.dispose((await stage.step(n)).gradients);
  assert.equal(tf.memory().numTensors, held);
  stage.dispose();
  assert.equal(tf.memory().numTensors, empty);
});

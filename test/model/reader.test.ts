import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { encoderInput } from '../../src/model/bert.ts';
import { marginalLogLoss } from '../../src/model/marginal.ts';
import { blockTokens, type ReaderConfig, spanScores } from '../../src/model/reader.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose, assertGradients, loadFixture, rows, withoutLeak } from '../support/model-fixture.ts';

before(() => startTestEngine());

/** R = 3 of 5 retrieved blocks are read; spans are up to W = 4 wide. */
function load() {
  const { config: sizes, params, expected } = loadFixture('reader', 'reader.');
  const config: ReaderConfig = { ...sizes, spanHidden: 8, maxSpanWidth: 4, spanLayerNormEps: 1e-3 };
  const input = encoderInput(rows(expected), expected.firstSegment);
  const inside = expected.blockTokens as number[][];
  const offsets = Int32Array.from(inside, (row) => row.indexOf(1));
  const lengths = Int32Array.from(inside, (row) => row.lastIndexOf(1) - row.indexOf(1) + 1);
  const blocks = blockTokens(input, offsets, lengths);
  const T = blocks.longest;
  const relevance = tf.tensor1d(expected.relevance);
  const correct = new Float32Array(3 * 4 * T);
  for (let r = 0; r < 3; r++) {
    (expected.goldStarts[r] as number[]).forEach((start, i) => {
      if (start >= 0) correct[(r * 4 + expected.goldEnds[r][i] - start) * T + start - offsets[r]] = 1;
    });
  }
  const gold = tf.tensor2d(correct, [1, correct.length]);
  const scores = () => spanScores(params, 'reader.', config, input, blocks);
  /** Scores of all spans of the question, [1, R*W*T], the retrieval scores of their blocks added. */
  const joint = (s: tf.Tensor) =>
    scores()
      .add(s.slice([0], [3]).reshape([3, 1, 1]))
      .reshape([1, -1]) as tf.Tensor2D;
  const readerLoss = (s: tf.Tensor = relevance) => marginalLogLoss(joint(s), gold).sum() as tf.Scalar;
  const hasAnswers = tf.tensor2d([(expected.hasAnswers as number[]).map(Number)]);
  const retrieverLoss = (s: tf.Tensor = relevance) =>
    marginalLogLoss(s.reshape([1, 5]) as tf.Tensor2D, hasAnswers).sum() as tf.Scalar;
  return { config, params, expected, offsets, T, relevance, scores, joint, readerLoss, retrieverLoss };
}

test("scores of all spans within the blocks agree with transformers' RealmReader", () => {
  const { expected, offsets, T, scores } = load();
  const found = withoutLeak(scores);
  assert.deepEqual(found.shape, [3, 4, T]);
  const values = found.arraySync() as number[][][];
  const spans = expected.spans as [number, number, number, number][];
  assertClose(
    spans.map(([r, start, end]) => values[r][end - start][start - offsets[r]]),
    spans.map((span) => span[3]),
    'span scores',
  );
  const others = found.greater(-1e8).toInt().sum().dataSync()[0];
  assert.equal(others, spans.length, 'no span outside a block is a candidate');
});

test('losses of retriever and reader, and the best span', () => {
  const { expected, offsets, T, relevance, joint, readerLoss, retrieverLoss } = load();
  assertClose(retrieverLoss(), expected.retrieverLoss, 'retriever loss');
  assertClose(readerLoss(), expected.readerLoss, 'reader loss');
  const best = joint(relevance).argMax(1).dataSync()[0];
  const [width, block] = [Math.floor(best / T) % 4, Math.floor(best / (4 * T))];
  const start = offsets[block] + (best % T);
  assert.deepEqual([block, start, start + width], expected.predicted);
});

test('gradients of every parameter and of the retrieval scores', () => {
  const { config, params, expected, relevance, readerLoss, retrieverLoss } = load();
  const loss = (s: tf.Tensor) => readerLoss(s).add(retrieverLoss(s)) as tf.Scalar;
  assertGradients(params, 'reader.', config, 'reader/gradients.safetensors', () => loss(relevance));
  assertClose(tf.grad(loss)(relevance), expected.relevanceGradient, 'gradient of the retrieval scores');
});

test('a question without a correct span has no loss and no gradient; the others of its batch keep theirs', () => {
  const scores = tf.tensor2d([
    [1, 2, 3],
    [0, Math.log(3), -1e9],
  ]);
  const correct = tf.tensor2d([
    [0, 0, 0],
    [0, 1, 0],
  ]);
  assertClose(marginalLogLoss(scores, correct), [0, Math.log(4 / 3)], 'losses');
  const gradient = tf.grad((s) => marginalLogLoss(s as tf.Tensor2D, correct).sum())(scores);
  assertClose(gradient, [0, 0, 0, 0.25, -0.25, 0], 'gradient');
});

test('blocks shorter than the widest span are read too, and an empty one has no span', () => {
  const { config, params } = load();
  const input = encoderInput([Int32Array.of(7, 8, 9), Int32Array.of(7)], [1, 1]);
  const blocks = (...lengths: number[]) => blockTokens(input, Int32Array.of(1, 1), Int32Array.from(lengths));
  const found = (...lengths: number[]) => {
    const scores = spanScores(params, 'reader.', config, input, blocks(...lengths));
    return { shape: scores.shape, valid: [...scores.dataSync()].map((score) => score > -1e8) };
  };
  const [yes, no] = [true, false];
  assert.deepEqual(found(2, 0), { shape: [2, 2, 2], valid: [yes, yes, yes, no, no, no, no, no] });
  assert.deepEqual(found(0, 0), { shape: [2, 1, 1], valid: [no, no] });
});

import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { contrastiveLoss } from '../../src/model/contrastive.ts';
import { readerDivergence } from '../../src/model/distillation.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose } from '../support/model-fixture.ts';

before(() => startTestEngine());

const SCORES = [
  [1, 2, 0.5, -1],
  [0, 3, 1, 1],
  [2, 2.5, 0, 1],
];

test('the softmax leaves out what is no negative, and queries without a positive', () => {
  // The second query has its best document left out; the third takes no part.
  const targets = {
    positives: tf.tensor2d([
      [1, 0, 0, 0],
      [0, 0, 0, 1],
      [0, 0, 0, 0],
    ]),
    left: tf.tensor2d([
      [0, 0, 0, 0],
      [0, 1, 0, 0],
      [0, 0, 0, 0],
    ]),
    count: 2,
  };
  const { exp, log } = Math;
  const first = -log(exp(1) / (exp(1) + exp(2) + exp(0.5) + exp(-1)));
  const second = -log(exp(1) / (exp(0) + exp(1) + exp(1)));
  const { loss, correct } = contrastiveLoss(tf.tensor2d(SCORES), targets);
  assertClose(loss, [(first + second) / 2], 'loss');
  assertClose(correct, [0], 'the first has a better one, the second an equal one before it');
  // Gradient: (softmax - positive) / queries that take part; 0 where left out and for the third query.
  const [gradient] = tf.grads((s) => contrastiveLoss(s as tf.Tensor2D, targets).loss)([tf.tensor2d(SCORES)]);
  const sum = exp(1) + exp(2) + exp(0.5) + exp(-1);
  const wanted = [
    ...[exp(1) / sum - 1, exp(2) / sum, exp(0.5) / sum, exp(-1) / sum],
    ...[exp(0) / (1 + 2 * exp(1)), 0, exp(1) / (1 + 2 * exp(1)), exp(1) / (1 + 2 * exp(1)) - 1],
    ...[0, 0, 0, 0],
  ].map((x) => x / 2);
  assertClose(gradient, wanted, 'gradient');
  const right = contrastiveLoss(tf.tensor2d(SCORES), {
    ...targets,
    positives: tf.tensor2d([0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], [3, 4]),
  });
  assertClose(right.correct, [2], 'correct');
  const none = contrastiveLoss(tf.tensor2d(SCORES), {
    positives: tf.zeros([3, 4]),
    left: tf.zeros([3, 4]),
    count: 0,
  });
  assertClose(none.loss, [0], 'nobody takes part');
});

test("the retriever's divergence from the reader by hand", () => {
  const { exp, log } = Math;
  // Two questions, three blocks of two spans; the first question's third block is missing, the second has no answer.
  const spans = [
    [1, 2, 0.5, 3, -1e9, -1e9],
    [1, 1, 1, 1, 1, 1],
  ];
  const correct = [
    [1, 1, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
  ];
  const retrieval = [
    [0.3, -0.2, -1e9],
    [1, 2, 3],
  ];
  const mass = [exp(1) + exp(2), exp(3)];
  const posterior = mass.map((m) => m / (mass[0] + mass[1]));
  const soft = [exp(0.3), exp(-0.2)].map((m) => m / (exp(0.3) + exp(-0.2)));
  const kl = posterior[0] * log(posterior[0] / soft[0]) + posterior[1] * log(posterior[1] / soft[1]);
  const of = (s: tf.Tensor, r: tf.Tensor) =>
    readerDivergence(s as tf.Tensor2D, tf.tensor2d(correct), r as tf.Tensor2D);
  assertClose(of(tf.tensor2d(spans), tf.tensor2d(retrieval)), [kl, 0], 'divergence');
  // A block with a correct span and one without: the posterior of the second is 0.
  const one = readerDivergence(tf.tensor2d([[5, 7]]), tf.tensor2d([[1, 0]]), tf.tensor2d([[0.3, -0.2]]));
  assertClose(one, [-log(soft[0])], 'one block');
  const grads = tf.grads((s, r) => of(s, r).sum())([tf.tensor2d(spans), tf.tensor2d(retrieval)]);
  assertClose(grads[0], Array(12).fill(0), 'the reader gets no gradient');
  assertClose(grads[1], [soft[0] - posterior[0], soft[1] - posterior[1], 0, 0, 0, 0], 'gradient');
});

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { encoderInput, gatherRows } from '../../src/model/bert.ts';
import { marginalLogLikelihood, readMasks, retrievalUtility, retrieve } from '../../src/model/realm.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose, assertGradients, loadFixture, rows, withoutLeak } from '../support/model-fixture.ts';

before(() => startTestEngine());

/** B = 2 sentences with K = 3 candidates each; the first sentence has 2 masks, the second 1 and an empty slot. */
function load() {
  const { config, params, expected } = loadFixture('knowledge', 'reader.');
  const input = encoderInput(rows(expected), expected.firstSegment);
  const pairs = [0, 0, 0, 1, 1, 1];
  const positions = gatherRows(
    input,
    pairs.map((b) => expected.positions[b]),
  );
  const targets = tf.tensor1d(
    pairs.flatMap((b) => expected.targets[b]),
    'int32',
  );
  /** Where the 9 values are in [2, 3, 2]; 0 for an empty slot. */
  const order = tf.tensor1d([1, 2, 3, 4, 5, 6, 7, 0, 8, 0, 9, 0], 'int32');
  const masks = tf.tensor2d([
    [1, 1],
    [1, 0],
  ]);
  const queries = tf.tensor2d(expected.queries);
  const documents = tf.tensor2d(expected.documents);
  const candidates = tf.tensor2d(expected.candidates, [2, 3], 'int32');
  const present = tf.ones([2, 3]) as tf.Tensor2D;
  return {
    config,
    params,
    expected,
    masks,
    queries,
    documents,
    retrieved: (q: tf.Tensor2D, z: tf.Tensor2D) => retrieve(q, z, candidates, present),
    /** [B, K, M] */
    logTokens: () =>
      tf
        .gather(
          tf.concat1d([
            tf.zeros([1]),
            readMasks(params, 'reader.', config, { input, masks: positions, targets }),
          ]),
          order,
        )
        .reshape([2, 3, 2]) as tf.Tensor3D,
  };
}

test('scores are inner products, and log p(z|x) is their softmax over the candidates', () => {
  const { expected, queries, documents, retrieved } = load();
  const found = withoutLeak(() => retrieved(queries, documents));
  assertClose(found.scores, expected.scores, 'scores');
  assertClose(found.logPrior, expected.logPrior, 'log p(z|x)');
});

test('an absent candidate gets no probability and no gradient', () => {
  const queries = tf.tensor2d([[1, 2]]);
  const documents = tf.tensor2d([
    [0.5, 0],
    [0, 0.25],
    [9, 9],
  ]);
  const candidates = tf.tensor2d([[0, 1, 2]], [1, 3], 'int32');
  const present = tf.tensor2d([[1, 1, 0]]);
  const prior = (z: tf.Tensor) =>
    retrieve(queries, z as tf.Tensor2D, candidates, present).logPrior.slice([0, 0], [1, 2]);
  assertClose(prior(documents).exp(), [[0.5, 0.5]], 'p(z|x)');
  const gradient = tf.grad((z: tf.Tensor) => prior(z).sum())(documents);
  assert.deepEqual((gradient.arraySync() as number[][])[2], [0, 0]);
});

test('log p(y_j|z,x) of every masked word piece under every candidate', () => {
  const { expected, masks, logTokens } = load();
  const found = withoutLeak(() => tf.tidy(() => logTokens().mul(masks.reshape([2, 1, 2]))));
  const [first, second] = expected.logPieces as [number[][], number[][]];
  assertClose(found, [first, second.map(([value]) => [value, 0])], 'log p(y_j|z,x)');
});

// `token` is the loss of transformers' RealmKnowledgeAugEncoder, a mean over masked pieces;
// `span` is equation 1 of the paper, a mean over sentences.
for (const { kind, per } of [
  { kind: 'token', per: 3 },
  { kind: 'span', per: 2 },
] as const) {
  describe(`the ${kind} marginal`, () => {
    test('loss, and gradients through the encoder', () => {
      const { config, params, expected, masks, queries, documents, retrieved, logTokens } = load();
      const loss = () => {
        const prior = retrieved(queries, documents).logPrior;
        return marginalLogLikelihood(kind, prior, logTokens(), masks).sum().div(-per) as tf.Scalar;
      };
      assertClose(loss(), expected[kind].loss, 'loss');
      assertGradients(params, 'reader.', config, `knowledge/${kind}-gradients.safetensors`, loss);
    });

    test('gradients of scores, queries and documents', () => {
      const { expected, masks, queries, documents, retrieved, logTokens } = load();
      const tokens = logTokens();
      const loss = (prior: tf.Tensor) =>
        marginalLogLikelihood(kind, prior as tf.Tensor2D, tokens, masks)
          .sum()
          .div(-per) as tf.Scalar;
      const scores = tf.grad((s) => loss(tf.logSoftmax(s)))(tf.tensor2d(expected.scores));
      assertClose(scores, expected[kind].scores, 'gradient of the scores');
      const vectors = tf.grads((q, z) => loss(retrieved(q as tf.Tensor2D, z as tf.Tensor2D).logPrior));
      const [query, document] = vectors([queries, documents]);
      assertClose(query, expected[kind].queries, 'gradient of the queries');
      assertClose(document, expected[kind].documents, 'gradient of the documents');
    });
  });
}

test('log p(y|x) of whole spans', () => {
  const { expected, masks, queries, documents, retrieved, logTokens } = load();
  const prior = retrieved(queries, documents).logPrior;
  const tokens = logTokens();
  const marginal = withoutLeak(() => marginalLogLikelihood('span', prior, tokens, masks));
  assertClose(marginal, expected.logSpan, 'log p(y|x)');
});

test("the gradient of a document's score is [p(y|z,x) / p(y|x) − 1] p(z|x), as derived in the paper's section 3.3", () => {
  const scores = tf.tensor2d([[0.3, -1.2, 2]]);
  const pieces = [
    [-0.5, -2],
    [-3, -0.1],
    [-1, -1],
  ];
  const masks = tf.tensor2d([[1, 1]]);
  const gradient = tf.grad((s) =>
    marginalLogLikelihood('span', tf.logSoftmax(s) as tf.Tensor2D, tf.tensor3d([pieces]), masks).sum(),
  )(scores);
  const prior = [...tf.softmax(scores).dataSync()];
  const likelihood = pieces.map((list) => Math.exp(list[0] + list[1]));
  const marginal = prior.reduce((sum, p, z) => sum + p * likelihood[z], 0);
  const wanted = prior.map((p, z) => (likelihood[z] / marginal - 1) * p);
  assertClose(gradient, wanted, 'gradient of the scores');
});

test('both marginals agree for spans of one word piece', () => {
  const prior = tf.logSoftmax(tf.tensor2d([[1, 0, -1]])) as tf.Tensor2D;
  const tokens = tf.tensor3d([[[-1], [-2], [-0.5]]]);
  const [span, token] = (['span', 'token'] as const).map((kind) =>
    marginalLogLikelihood(kind, prior, tokens, tf.ones([1, 1])).dataSync(),
  );
  assertClose(span, [...token], 'the two marginals');
});

test('retrieval utility is the mean gain over the null document for each masked word piece', () => {
  const logTokens = Float32Array.of(-2, -3, -1, -1, /* second sentence */ -4, -99, -2, -99);
  const utility = retrievalUtility(Float32Array.of(-3, -2.5), logTokens, Float32Array.of(1, 1, 1, 0), 2);
  // (−3 − (−2 − 3)) + (−2.5 − (−4)) over 3 pieces
  assert.ok(Math.abs(utility - 3.5 / 3) < 1e-6, `${utility}`);
});

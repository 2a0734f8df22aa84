import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { ictGradients, ictLoss } from '../../src/model/ict.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose, readFixture, withoutLeak } from '../support/model-fixture.ts';

before(() => startTestEngine());

test("the in-batch loss, its hits and its gradients agree with PyTorch's cross-entropy", () => {
  const expected = readFixture('ict.json');
  const queries = tf.tensor2d(expected.queries);
  const blocks = tf.tensor2d(expected.blocks);
  const { loss, correct } = withoutLeak(() => ictLoss(queries, blocks));
  assertClose(loss, expected.loss, 'loss');
  assert.equal(correct.dataSync()[0], expected.correct);

  const found = withoutLeak(() => ictGradients(queries, blocks));
  assertClose(found.loss, expected.loss, 'loss with gradients');
  assert.equal(found.correct.dataSync()[0], expected.correct);
  assertClose(found.queries, expected.queryGradients, 'gradient of the queries');
  assertClose(found.blocks, expected.blockGradients, 'gradient of the blocks');
});

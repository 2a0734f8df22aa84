import assert from 'node:assert/strict';
import { test } from 'node:test';
import { resultLines } from '../../src/commands/training.ts';

test('the metrics at the end of a stage are labelled as of training examples', () => {
  const done = { seconds: 2.5, step: 150, stopped: false };
  assert.deepEqual(resultLines({ ...done, metrics: { loss: 1.5, exactMatch: 0.6125 } }), [
    'measured on training examples, means over the last steps:',
    'loss                 1.5000',
    'exact match          0.6125',
    'seconds              2.5000',
  ]);
  assert.deepEqual(resultLines({ ...done, metrics: {} }), ['seconds              2.5000'], 'nothing trained');
});

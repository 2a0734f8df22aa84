import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { tensor } from '@tensorflow/tfjs';
import { encoderInput } from '../../src/model/bert.ts';
import {
  blockSequences,
  type EmbedderConfig,
  embedAll,
  embedSequences,
  lengthBatches,
  pairIds,
  queryIds,
} from '../../src/model/embedder.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose, assertGradients, loadFixture, rows, withoutLeak } from '../support/model-fixture.ts';

before(() => startTestEngine());

function load() {
  const { config: sizes, params, expected } = loadFixture('embedder', 'embedder.');
  const config: EmbedderConfig = { ...sizes, projection: 6, projectionLayerNormEps: 1e-12 };
  return {
    config,
    params,
    expected,
    sequences: { ids: rows(expected), firstSegment: expected.firstSegment },
  };
}

test("vectors and gradients agree with transformers' RealmEmbedder", () => {
  const { config, params, expected, sequences } = load();
  const input = encoderInput(sequences.ids, sequences.firstSegment);
  const embed = () => embedSequences(params, 'embedder.', config, input);
  assertClose(withoutLeak(embed), expected.vectors, 'vectors');
  const weights = tensor(expected.weights);
  assertGradients(params, 'embedder.', config, 'embedder/gradients.safetensors', () => {
    return embed().mul(weights).sum() as tf.Scalar;
  });
});

test('embedAll gives the vectors in the order of the sequences, however they are batched', async () => {
  const { config, params, expected, sequences } = load();
  // From one row per batch to all rows in one; the rows are not sorted by length.
  const order = [2, 0, 1];
  const shuffled = {
    ids: order.map((r) => sequences.ids[r]),
    firstSegment: order.map((r) => sequences.firstSegment[r]),
  };
  for (const tokens of [1, 20, 1000]) {
    const before = tf.memory().numTensors;
    const vectors = await embedAll(params, 'embedder.', config, shuffled, tokens);
    assert.equal(tf.memory().numTensors, before);
    assertClose(
      vectors,
      order.map((r) => expected.vectors[r]),
      `vectors in batches of ${tokens} tokens`,
    );
  }
});

test('lengthBatches covers every row once within the token budget', () => {
  const lengths = [3, 9, 1, 4, 9, 0, 2, 30].map((length) => ({ length }));
  const batches = lengthBatches(lengths, 18);
  assert.deepEqual(batches.flat().sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(batches[0], [7], 'a row over the budget is a batch of its own');
  for (const batch of batches.slice(1)) {
    assert.ok(batch.length * Math.max(...batch.map((r) => lengths[r].length)) <= 18);
  }
});

test('sequences are built as in the paper and truncated to the limit', () => {
  const special = { cls: 101, sep: 102, mask: 103 };
  const ids = (...values: number[]) => Int32Array.from(values);
  assert.deepEqual(queryIds(special, ids(1, 2, 3), 10), ids(101, 1, 2, 3, 102));
  assert.deepEqual(queryIds(special, ids(1, 2, 3), 4), ids(101, 1, 2, 102));
  assert.deepEqual(pairIds(special, ids(1, 2), ids(3, 4, 5), 10), {
    ids: ids(101, 1, 2, 102, 3, 4, 5, 102),
    firstSegment: 4,
  });
  assert.deepEqual(pairIds(special, ids(1, 2), ids(3, 4, 5), 7).ids, ids(101, 1, 2, 102, 3, 4, 102));
  assert.deepEqual(pairIds(special, ids(1, 2, 3), ids(4), 5).ids, ids(101, 1, 2, 102, 102));
});

test('the null document is [CLS] [SEP] [SEP] with segments 0 0 1', () => {
  const special = { cls: 101, sep: 102, mask: 103 };
  const empty = { title: new Int32Array(0), body: new Int32Array(0) };
  const { ids, firstSegment } = blockSequences(special, [empty], 288);
  const input = encoderInput(ids, firstSegment);
  assert.deepEqual([...input.ids.dataSync()], [101, 102, 102]);
  assert.deepEqual([...input.segments.dataSync()], [0, 0, 1]);
});

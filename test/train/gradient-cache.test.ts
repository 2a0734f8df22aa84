import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { dropoutRng, encoderInput } from '../../src/model/bert.ts';
import { embedSequences } from '../../src/model/embedder.ts';
import { disposeModel, lossGradients, retrieverShapes } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { cachedGradients } from '../../src/train/gradient-cache.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep } from '../support/gradients.ts';
import { tinyConfig, tinyModel } from '../support/tiny.ts';

before(() => startTestEngine());

for (const dropout of [0, 0.3]) {
  test(`the gradients are those of one pass, with dropout ${dropout}`, async () => {
    const model = tinyModel(tinyConfig('model.sharedTowers=false', `model.dropout=${dropout}`), 50);
    const shapes = retrieverShapes(model);
    const source = random(3);
    const side = (tower: string, lengths: number[]) => ({
      tower,
      ids: lengths.map((n) => Int32Array.from({ length: n }, () => 5 + source.int(45))),
      firstSegment: lengths,
    });
    const sides = [side(model.queryTower, [4, 9, 1]), side(model.documentTower, [20, 8, 31, 5, 14])];
    const rng = dropoutRng(dropout, random(5));
    const loss = ([q, z]: tf.Tensor[]) =>
      tf.matMul(q, z, false, true).logSumExp(1).square().mean() as tf.Scalar;

    if (rng) rng.random = random(11);
    const cached = await cachedGradients(model, shapes, sides, { microBatch: 2, rng }, async (vectors) => {
      const { value, grads } = tf.valueAndGrads((...v) => loss(v))(vectors);
      return { vectors: grads as tf.Tensor2D[], metrics: { loss: value.dataSync()[0] } };
    });

    // The same micro-batches with the same masks, in one graph.
    const parts = [
      [0, 0, 2],
      [0, 2, 3],
      [1, 0, 2],
      [1, 2, 4],
      [1, 4, 5],
    ];
    const step = random(11);
    const sources = parts.map(() => step.fork());
    const inputs = parts.map(([s, from, to]) =>
      encoderInput(sides[s].ids.slice(from, to), sides[s].firstSegment.slice(from, to)),
    );
    const one = lossGradients(model, shapes, () => {
      const embedded = parts.map(([s], i) => {
        if (rng) rng.random = sources[i];
        return embedSequences(model.params, sides[s].tower, model.embedder, inputs[i], rng);
      });
      return loss([tf.concat(embedded.slice(0, 2)), tf.concat(embedded.slice(2))]);
    });
    assert.equal(Object.keys(one.gradients).length, shapes.length);
    const wanted = { gradients: one.gradients, metrics: { loss: one.value.dataSync()[0] } };
    assertSameStep(cached, wanted, 1e-5);
    rng?.dispose();
    disposeModel(model);
  });
}

test('vectors that are known are not computed again, only differentiated', async () => {
  const model = tinyModel(tinyConfig(), 50);
  const shapes = retrieverShapes(model);
  const side = {
    tower: model.queryTower,
    ids: [Int32Array.of(5, 6, 7), Int32Array.of(8)],
    firstSegment: [3, 1],
  };
  const known = Float32Array.from({ length: 16 }, (_, i) => i / 16);
  const seen: number[][] = [];
  const { gradients } = await cachedGradients(
    model,
    shapes,
    [{ ...side, known }],
    { microBatch: 1 },
    async ([v]) => {
      seen.push([...v.dataSync()]);
      return { vectors: [tf.ones([2, 8])], metrics: { loss: 0 } };
    },
  );
  assert.deepEqual(seen, [[...known]]);
  const input = encoderInput(side.ids, side.firstSegment);
  const one = lossGradients(
    model,
    shapes,
    () => embedSequences(model.params, side.tower, model.embedder, input).sum() as tf.Scalar,
  );
  assertSameStep(
    { gradients, metrics: { loss: 0 } },
    { gradients: one.gradients, metrics: { loss: 0 } },
    1e-5,
  );
  disposeModel(model);
});

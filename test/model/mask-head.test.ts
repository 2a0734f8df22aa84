import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { maskedLanguageModel } from '../../src/model/bert.ts';
import { fetchValues } from '../../src/model/host-values.ts';
import { startMaskHead } from '../../src/model/mask-head.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { startTestEngine } from '../support/engine.ts';
import { tinyConfig, tinyModel } from '../support/tiny.ts';

const V = 12;
const MASK = 4;
const counts = Float32Array.from({ length: V }, (_, piece) => (piece % 3 === 0 ? 0 : piece));
let model: Model;
let embeddingsBefore: Float32Array;
before(async () => {
  await startTestEngine();
  model = tinyModel(tinyConfig(), V);
  [embeddingsBefore] = await fetchValues(word());
  startMaskHead(model.params, model.readerTower, MASK, counts);
});
after(() => disposeModel(model));

const word = () => model.params.get(`${model.readerTower}embeddings.word`)!;

test('the score of a word piece is its embedding times the normalised output, plus the logarithm of its frequency', async () => {
  const { reader, params, readerTower } = model;
  const H = reader.hidden;
  const rng = random(3);
  const outputs = Array.from({ length: 5 }, () => Array.from({ length: H }, () => 4 * rng.float() - 2));
  const scores = tf.tidy(() => maskedLanguageModel(params, readerTower, reader, tf.tensor2d(outputs)));
  const [got] = await fetchValues(scores as tf.Tensor);
  const [embeddings] = await fetchValues(word());
  scores.dispose();
  const total = counts.reduce((sum, n) => sum + n, 0) + V / 2;
  outputs.forEach((output, r) => {
    const mean = output.reduce((a, b) => a + b) / H;
    const deviation = Math.sqrt(output.reduce((sum, x) => sum + (x - mean) ** 2, 0) / H);
    for (let piece = 0; piece < V; piece++) {
      let wanted = Math.log((counts[piece] + 0.5) / total);
      for (let h = 0; h < H; h++) wanted += (embeddings[piece * H + h] * (output[h] - mean)) / deviation;
      // GELU of a number above 4 differs from it by 1e-4 at most.
      assert.ok(
        Math.abs(got[r * V + piece] - wanted) < 5e-3,
        `piece ${piece}: ${got[r * V + piece]}, ${wanted}`,
      );
    }
  });
});

test('[MASK] becomes the mean of the word pieces that occur; all others stay as they are', async () => {
  const H = model.reader.hidden;
  const [embeddings] = await fetchValues(word());
  const occurring = [...counts.keys()].filter((piece) => counts[piece] > 0);
  for (let h = 0; h < H; h++) {
    const mean =
      occurring.reduce((sum, piece) => sum + embeddingsBefore[piece * H + h], 0) / occurring.length;
    assert.ok(Math.abs(embeddings[MASK * H + h] - mean) < 1e-5);
    for (let piece = 0; piece < V; piece++)
      if (piece !== MASK) assert.equal(embeddings[piece * H + h], embeddingsBefore[piece * H + h]);
  }
});

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { dropoutRng, encoderInput } from '../../src/model/bert.ts';
import { blockSequences, embedSequences, querySequences, type Sequences } from '../../src/model/embedder.ts';
import { type Model, retrieverShapes } from '../../src/model/model.ts';
import { type Random, random } from '../../src/random.ts';
import { batchGradients, type IctExamples, ictStep, inverseCloze } from '../../src/train/ict.ts';
import { exampleAt } from '../../src/train/sampler.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep, assertSlope, descend } from '../support/gradients.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

describe('one example', () => {
  const body = Int32Array.of(10, 11, 12, 20, 21, 30, 31, 32, 33);
  const starts = Int32Array.of(0, 3, 5);
  /** Draws sentence `s`, then `float`. */
  const drawing = (s: number, float: number) => ({ int: () => s, float: () => float }) as unknown as Random;
  const cloze = (s: number, float: number, keep = 0.1) => {
    const { query, body: left } = inverseCloze(body, starts, keep, drawing(s, float));
    return { query: [...query], left: [...left] };
  };

  test('a sentence becomes the query and is removed from its block: first, middle, last', () => {
    assert.deepEqual(cloze(0, 0.5), { query: [10, 11, 12], left: [20, 21, 30, 31, 32, 33] });
    assert.deepEqual(cloze(1, 0.5), { query: [20, 21], left: [10, 11, 12, 30, 31, 32, 33] });
    assert.deepEqual(cloze(2, 0.5), { query: [30, 31, 32, 33], left: [10, 11, 12, 20, 21] });
  });

  test('it is kept with the given probability', () => {
    assert.deepEqual(cloze(1, 0.09), { query: [20, 21], left: [...body] });
    assert.deepEqual(cloze(1, 0.11).left.length, 7);
    assert.deepEqual(cloze(1, 0.999, 1).left, [...body]);
    assert.deepEqual(cloze(1, 0, 0).left.length, 7);
  });

  test('the only sentence of a block is always kept', () => {
    const found = inverseCloze(body, Int32Array.of(0), 0, drawing(0, 0.5));
    assert.deepEqual([...found.query], [...body]);
    assert.deepEqual([...found.body], [...body]);
  });

  test('sentences are drawn uniformly, and kept as often as requested', () => {
    const source = random(1);
    const counts = [0, 0, 0];
    let stayed = 0;
    for (let i = 0; i < 3000; i++) {
      const { query, body: left } = inverseCloze(body, starts, 0.3, source);
      counts[query[0] / 10 - 1]++;
      if (left.length === body.length) stayed++;
    }
    // Five standard deviations: 129 of 1000 and 125 of 900.
    for (const count of counts) assert.ok(Math.abs(count - 1000) < 129, String(counts));
    assert.ok(Math.abs(stayed - 900) < 125, String(stayed));
    assert.deepEqual([...body], [10, 11, 12, 20, 21, 30, 31, 32, 33], 'the block itself is not changed');
  });
});

describe('the gradients of a batch', () => {
  before(() => startTestEngine());

  /** Seven queries and blocks of different lengths. */
  function examples(): IctExamples {
    const source = random(3);
    const special = { cls: 2, sep: 3, mask: 4 };
    const ids = (n: number) => Int32Array.from({ length: n }, () => 5 + source.int(45));
    const queries = [4, 9, 1, 7, 3, 12, 5].map(ids);
    const blocks = [20, 8, 31, 5, 14, 9, 26].map((n) => ({ title: ids(2), body: ids(n) }));
    return { queries: querySequences(special, queries, 40), blocks: blockSequences(special, blocks, 64) };
  }

  const vectors = (model: Model, tower: string, { ids, firstSegment }: Sequences) =>
    embedSequences(model.params, tower, model.embedder, encoderInput(ids, firstSegment)).arraySync();

  test('the loss is computed from the softmax over all blocks of the batch', async () => {
    const model = tinyModel(tinyConfig('model.temperature=2'), 50);
    const batch = examples();
    const q = vectors(model, model.queryTower, batch.queries);
    const z = vectors(model, model.documentTower, batch.blocks);
    let loss = 0;
    let right = 0;
    q.forEach((query, i) => {
      const scores = z.map((block) => block.reduce((sum, value, d) => sum + value * query[d], 0) / 2);
      loss -= Math.log(Math.exp(scores[i]) / scores.reduce((sum, s) => sum + Math.exp(s), 0)) / q.length;
      if (scores[i] === Math.max(...scores)) right++;
    });
    for (const size of [64, 3]) {
      const { metrics, gradients } = await batchGradients(model, retrieverShapes(model), batch, {
        microBatch: size,
      });
      tf.dispose(gradients);
      assert.ok(Math.abs(metrics.loss - loss) < 1e-5 * loss, `${metrics.loss} ${loss}`);
      assert.ok(Math.abs(metrics.accuracy - right / 7) < 1e-6);
    }
  });

  for (const shared of [true, false]) {
    test(`in micro-batches they equal those of one pass, ${shared ? 'one tower' : 'two towers'}`, async () => {
      const model = tinyModel(tinyConfig(`model.sharedTowers=${shared}`), 50);
      const shapes = retrieverShapes(model);
      const whole = await batchGradients(model, shapes, examples(), { microBatch: 7 });
      assert.equal(Object.keys(whole.gradients).length, shapes.length);
      for (const size of [1, 3, 6]) {
        const parts = await batchGradients(model, shapes, examples(), { microBatch: size });
        assertSameStep(parts, whole, 1e-5);
        tf.dispose(parts.gradients);
      }
    });
  }

  test('with dropout, micro-batches are embedded twice with the same masks', async () => {
    const model = tinyModel(tinyConfig('model.dropout=0.3'), 50);
    const shapes = retrieverShapes(model);
    const rng = dropoutRng(0.3, random(5))!;
    const batch = examples();
    const pass = () => {
      rng.random = random(11);
      return batchGradients(model, shapes, batch, { microBatch: 3, rng });
    };
    const one = await pass();
    assertSameStep(await pass(), one, 0);
    rng.random = random(12);
    const other = await batchGradients(model, shapes, batch, { microBatch: 3, rng });
    assert.ok(Math.abs(other.metrics.loss - one.metrics.loss) > 1e-4, 'other masks give another loss');

    // If the two embeddings had different masks, the gradient would not match the slope of the loss.
    await assertSlope(model, one.gradients, async () => {
      const { metrics, gradients } = await pass();
      tf.dispose(gradients);
      return metrics.loss;
    });
    rng.dispose();
  });
});

describe('steps on a corpus', () => {
  before(() => startTestEngine());
  const folder = temporaryFolder('ict');
  const config = tinyConfig('ict.batch=3', 'ict.microBatch=2', 'model.dropout=0.1');
  let corpus: Corpus;
  before(async () => {
    ({ corpus } = await tinyCorpus(folder, config));
  });

  test('fifty steps leak no tensor', async () => {
    const model = tinyModel(config, corpus.tokenizer.size);
    const empty = tf.memory().numTensors;
    const stage = ictStep(model, corpus, config);
    tf.dispose((await stage.step(0)).gradients);
    const held = tf.memory().numTensors;
    for (let step = 1; step <= 50; step++) tf.dispose((await stage.step(step)).gradients);
    assert.equal(tf.memory().numTensors, held);
    stage.dispose();
    assert.equal(tf.memory().numTensors, empty);
  });

  test('repeating a step gives the same result; other steps and seeds differ', async () => {
    const model = tinyModel(config, corpus.tokenizer.size);
    const loss = async (seed: number, step: number, before = 0) => {
      const stage = ictStep(model, corpus, { ...config, seed });
      for (let s = 0; s < before; s++) tf.dispose((await stage.step(s)).gradients);
      const { metrics, gradients } = await stage.step(step);
      tf.dispose(gradients);
      stage.dispose();
      return metrics.loss;
    };
    assert.equal(await loss(1, 2, 2), await loss(1, 2));
    assert.equal(new Set([await loss(1, 2), await loss(1, 3), await loss(2, 2)]).size, 3);
  });

  test('a batch consists of the next blocks of the epoch, each with one of its sentences', async () => {
    const plain = tinyConfig('ict.batch=5', 'ict.keepSentence=1');
    const model = tinyModel(plain, corpus.tokenizer.size);
    const read: number[] = [];
    const watched: Corpus = {
      ...corpus,
      bodyIds(block) {
        read.push(block);
        return corpus.bodyIds(block);
      },
    };
    const stage = ictStep(model, watched, plain);
    assert.notEqual(corpus.blocks % 5, 0);
    const perEpoch = Math.floor(corpus.blocks / 5);
    for (let step = 0; step <= perEpoch; step++) tf.dispose((await stage.step(step)).gradients);
    stage.dispose();
    assert.deepEqual(
      read.slice(0, perEpoch * 5),
      Array.from({ length: perEpoch * 5 }, (_, i) => exampleAt(plain.seed, corpus.blocks, i)),
    );
    // The next batch starts the next epoch: a batch from two epochs might contain a block twice.
    assert.deepEqual(
      read.slice(perEpoch * 5),
      Array.from({ length: 5 }, (_, i) => exampleAt(plain.seed, corpus.blocks, corpus.blocks + i)),
    );
  });

  test('a few steps of descent on one batch lower its loss', async () => {
    const plain = tinyConfig('ict.batch=6');
    const model = tinyModel(plain, corpus.tokenizer.size);
    const stage = ictStep(model, corpus, plain);
    const losses = await descend(model, () => stage.step(0), 10, 0.02);
    assert.ok(losses.at(-1)! < 0.8 * losses[0], losses.join());
  });
});

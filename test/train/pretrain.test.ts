import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Config } from '../../src/config.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { encoderInput, gatherRows } from '../../src/model/bert.ts';
import { embedSequences } from '../../src/model/embedder.ts';
import type { Model } from '../../src/model/model.ts';
import { readMasks } from '../../src/model/realm.ts';
import { disposeRealmBatch, type MaskedSentence, makeRealmBatch } from '../../src/model/realm-batch.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { drawMasked, pretrainStep, queryVectors, retrieveCandidates } from '../../src/train/pretrain.ts';
import { exampleAt, stepRandom } from '../../src/train/sampler.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep, assertSlope, descend } from '../support/gradients.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

describe('steps on a corpus', () => {
  before(() => startTestEngine());
  const folder = temporaryFolder('pretrain');
  const config = tinyConfig('pretrain.batch=4', 'pretrain.microBatch=4', 'pretrain.candidates=4');
  const vary = (changes: Partial<Config['pretrain']>): Config => ({
    ...config,
    pretrain: { ...config.pretrain, ...changes },
  });
  let corpus: Corpus;
  let model: Model;
  let index: SearchIndex;
  before(async () => {
    ({ corpus } = await tinyCorpus(folder, config));
    model = tinyModel(config, corpus.tokenizer.size);
    await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
    index = openIndex(currentIndex(folder)!, { efSearch: 128 });
  });
  after(() => index?.close());

  const step = async (settings: Config, n = 0) => {
    const stage = pretrainStep(model, corpus, index, settings);
    const result = await stage.step(n);
    stage.dispose();
    return result;
  };
  /** The examples of `step(config, n)`, and their candidates. */
  const drawn = async (n = 0) => {
    const examples = drawMasked(corpus, config, 4 * n, 4, stepRandom(config.seed, n));
    return { examples, ...(await retrieveCandidates(model, corpus, index, examples, config)) };
  };

  const vector = (ids: number[], firstSegment: number) =>
    tf.tidy(() => {
      const input = encoderInput([Int32Array.from(ids)], [firstSegment]);
      return [...embedSequences(model.params, model.queryTower, model.embedder, input).dataSync()];
    });
  const dot = (a: number[], b: number[]) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const queryVector = ({ masked }: MaskedSentence) => {
    const { cls, sep } = corpus.tokenizer;
    return vector([cls, ...masked, sep], masked.length + 2);
  };
  const blockVector = (block: number | undefined) => {
    const { cls, sep } = corpus.tokenizer;
    if (block === undefined) return vector([cls, sep, sep], 2);
    const title = [...corpus.titleIds(block)];
    return vector([cls, ...title, sep, ...corpus.bodyIds(block), sep], title.length + 2);
  };
  /** log p(y_j | z, x) of each masked piece, for a single pair; the null document has no body. */
  const logPieces = ({ masked, positions, targets }: MaskedSentence, block: number | undefined) => {
    const { cls, sep } = corpus.tokenizer;
    const body = block === undefined ? [] : [...corpus.bodyIds(block)];
    const ids = [cls, ...masked, sep, ...body, sep];
    return tf.tidy(() => {
      const input = encoderInput([Int32Array.from(ids)], [masked.length + 2]);
      return [
        ...readMasks(model.params, model.readerTower, model.reader, {
          input,
          masks: gatherRows(input, [positions]),
          targets: tf.tensor1d(targets, 'int32'),
        }).dataSync(),
      ];
    });
  };

  test('examples are the next sentences of the epoch, one span of each masked', async () => {
    const { examples } = await drawn(2);
    examples.forEach((example, i) => {
      const at = exampleAt(config.seed + 1, corpus.sentences.count, 8 + i);
      assert.deepEqual(example.sentence, corpus.sentences.ids(at));
      assert.equal(example.source, corpus.sentences.source(at));
      const spans = corpus.sentences.spans(at);
      const masks = [...example.masked.keys()].filter((t) => example.masked[t] === corpus.tokenizer.mask);
      const pairs = Array.from({ length: spans.length / 2 }, (_, s) =>
        [spans[2 * s], spans[2 * s + 1]].join(),
      );
      assert.ok(pairs.includes([masks[0], masks.at(-1)! + 1].join()), `${masks} of ${pairs}`);
    });
  });

  test('candidates are the best blocks by inner product, never the source of the sentence', async () => {
    const vectors = Array.from({ length: corpus.blocks }, (_, block) => blockVector(block));
    let droppedInAll = 0;
    for (let n = 0; n < 12; n++) {
      const { examples, candidates, dropped } = await drawn(n);
      droppedInAll += dropped;
      examples.forEach((example, i) => {
        assert.ok(example.source >= 0);
        assert.equal(candidates[i].length, 3);
        assert.ok(!candidates[i].includes(example.source));
      });
      if (n > 2) continue;
      examples.forEach((example, i) => {
        const q = queryVector(example);
        const scores = vectors.map((z) => dot(q, z));
        const best = scores.map((_, b) => b).sort((a, b) => scores[b] - scores[a]);
        assert.deepEqual(candidates[i], best.filter((b) => b !== example.source).slice(0, 3));
      });
    }
    assert.ok(droppedInAll > 0, 'some source was retrieved');
  });

  test('trivial candidates are kept if requested, and the number of blocks stays the same', async () => {
    const kept = vary({ dropTrivial: false });
    let sources = 0;
    for (let n = 0; n < 12; n++) {
      const { examples } = await drawn(n);
      const { candidates, dropped } = await retrieveCandidates(model, corpus, index, examples, kept);
      assert.equal(dropped, 0);
      const vectors = await queryVectors(model, corpus, examples, kept);
      const best = index.search(vectors, 3).blocks;
      examples.forEach(({ source }, i) => {
        assert.deepEqual(candidates[i], [...best.subarray(3 * i, 3 * i + 3)]);
        if (candidates[i].includes(source)) sources++;
      });
    }
    assert.ok(sources > 0, 'some source is among them');
  });

  test('candidates by both retrievers: BM25 is asked for the words that are not masked', async () => {
    const both = { ...vary({ hybrid: true, dropTrivial: false }), hybrid: { weight: 0.01 } }; // nearly BM25 alone
    const { examples } = await drawn();
    const asked: string[] = [];
    const order = [9, 4, 7];
    const bm25 = {
      search(question: string) {
        asked.push(question);
        return { blocks: Int32Array.from(order), scores: Float64Array.of(3, 2, 1) };
      },
      scores: (_: string, blocks: ArrayLike<number>) =>
        Float64Array.from(blocks, (block) => Math.max(0, 3 - ((order.indexOf(block) + 4) % 4))),
    };
    const { candidates } = await retrieveCandidates(model, corpus, index, examples, both, bm25);
    for (const found of candidates) assert.deepEqual(found, order);
    examples.forEach(({ masked }, i) => {
      const { mask, encode } = corpus.tokenizer;
      assert.ok(masked.includes(mask));
      assert.deepEqual(
        [...encode(asked[i]).ids],
        [...masked].filter((id) => id !== mask),
      );
    });
  });

  test('if only the null document is left it is read, even if it is switched off', async () => {
    const single = vary({ candidates: 1, nullDocument: false });
    const { metrics, gradients } = await step(single);
    tf.dispose(gradients);
    const wanted = await step(vary({ candidates: 1 }));
    tf.dispose(wanted.gradients);
    assert.deepEqual(metrics, wanted.metrics);
  });

  test('random masks are drawn in the same sentences, as single pieces or spans', () => {
    const masked = (masking: Config['pretrain']['masking']) =>
      drawMasked(corpus, vary({ masking }), 0, 40, stepRandom(config.seed, 0));
    const pieces = (examples: MaskedSentence[]) => examples.map((e) => e.positions.length);
    const [salient, tokens, spans] = [masked('salient'), masked('tokens'), masked('spans')];
    assert.deepEqual(
      tokens.map((e) => e.sentence),
      salient.map((e) => e.sentence),
    );
    assert.deepEqual(
      spans.map((e) => [e.sentence, e.source]),
      salient.map((e) => [e.sentence, e.source]),
    );
    assert.deepEqual(pieces(spans), pieces(tokens));
    const apart = (examples: MaskedSentence[]) =>
      examples.filter(({ positions: p }) => p.at(-1)! - p[0] >= p.length).length;
    assert.equal(apart(salient), 0);
    assert.ok(apart(spans) < apart(tokens), `${apart(spans)}, ${apart(tokens)}`);
  });

  test('the null document is the first candidate of every example', async () => {
    const { examples, candidates } = await drawn();
    const input = makeRealmBatch(model, examples, candidates, corpus, config.text);
    const rows = input.candidates.arraySync();
    assert.deepEqual(
      rows.map((row) => row[0]),
      [0, 0, 0, 0],
    );
    assert.ok(rows.every((row) => row.slice(1).every((r) => r > 0)));
    const { cls, sep } = corpus.tokenizer;
    // The documents come last, in a separate batch or after the queries.
    const batch = input.retriever.batches.at(-1)!;
    const ids = [...batch.ids.dataSync()];
    const [first, second] = batch.starts.slice(input.retriever.batches.length === 1 ? 4 : 0);
    assert.deepEqual([ids.slice(first, first + 3), ids[second]], [[cls, sep, sep], cls]);
    disposeRealmBatch(input);
  });

  for (const { marginalize, nullDocument } of [
    { marginalize: 'span', nullDocument: true },
    { marginalize: 'token', nullDocument: true },
    { marginalize: 'span', nullDocument: false },
    { marginalize: 'token', nullDocument: false },
  ] as const) {
    const how = `${marginalize} marginal, with${nullDocument ? '' : 'out'} the null document`;
    test(`loss and metrics equal those computed pair by pair, ${how}`, async () => {
      const { examples, candidates, dropped, looked } = await drawn();
      let pieces = 0;
      let marginal = 0;
      let nullAlone = 0;
      let nullProbability = 0;
      examples.forEach((example, i) => {
        const documents = [undefined, ...candidates[i]];
        const q = queryVector(example);
        const weights = documents.map((z) =>
          z === undefined && !nullDocument ? 0 : Math.exp(dot(q, blockVector(z)) / model.temperature),
        );
        const prior = weights.map((w) => w / weights.reduce((a, b) => a + b));
        const logs = documents.map((z) => logPieces(example, z));
        const sumOf = (list: number[]) => list.reduce((a, b) => a + b, 0);
        marginal +=
          marginalize === 'span'
            ? Math.log(sumOf(prior.map((p, z) => p * Math.exp(sumOf(logs[z])))))
            : sumOf(
                example.targets.map((_, j) => Math.log(sumOf(prior.map((p, z) => p * Math.exp(logs[z][j]))))),
              );
        nullAlone += sumOf(logs[0]);
        nullProbability += prior[0] / 4;
        pieces += example.targets.length;
      });
      assert.ok(pieces > 6, 'some spans have several pieces');
      const { metrics, gradients, rates } = await step(vary({ marginalize, nullDocument, microBatch: 2 }));
      tf.dispose(gradients);
      const close = (name: string, wanted: number) =>
        assert.ok(
          Math.abs(metrics[name] - wanted) <= 1e-5 * Math.max(1, Math.abs(wanted)),
          `${name}: ${metrics[name]}, ${wanted}`,
        );
      close('loss', -marginal / pieces);
      close('retrievalUtility', (marginal - nullAlone) / pieces);
      close('nullProbability', nullProbability);
      close('masks', pieces / 4);
      assert.deepEqual(rates?.trivialDropped, [dropped, looked]);
    });
  }

  test('loss and gradients in several passes equal those of one pass', async () => {
    const whole = await step(config);
    for (const microBatch of [1, 2, 3, 64]) {
      const parts = await step(vary({ microBatch }));
      assertSameStep(parts, whole, 1e-5);
      tf.dispose(parts.gradients);
    }
    tf.dispose(whole.gradients);
  });

  test('the gradients match the slope of the loss, and following them lowers it', async () => {
    const { gradients } = await step(config);
    for (const tower of ['embedder.layer', 'embedder.projection', 'reader.layer', 'reader.mlm'])
      assert.ok(
        Object.keys(gradients).some((name) => name.startsWith(tower)),
        tower,
      );
    const loss = async () => {
      const { metrics, gradients } = await step(config);
      tf.dispose(gradients);
      return metrics.loss;
    };
    await assertSlope(model, gradients, loss);
    tf.dispose(gradients);
    const own = tinyModel(config, corpus.tokenizer.size);
    const stage = pretrainStep(own, corpus, index, config);
    const losses = await descend(own, () => stage.step(0), 8, 0.05);
    assert.ok(losses.at(-1)! < 0.9 * losses[0], losses.join());
  });

  test('with dropout, repeating a step gives the same result', async () => {
    const noisy = { ...config, model: { ...config.model, dropout: 0.2 } };
    const stage = pretrainStep(model, corpus, index, noisy);
    tf.dispose((await stage.step(0)).gradients);
    const later = await stage.step(1);
    stage.dispose();
    const first = await step(noisy, 1);
    assertSameStep(first, later, 0);
    const plain = await step(config, 1);
    assert.notEqual(plain.metrics.loss, first.metrics.loss);
    tf.dispose([later.gradients, first.gradients, plain.gradients]);
  });

  test('fifty steps leak no tensor', async () => {
    const small = {
      ...vary({ batch: 2, microBatch: 1, candidates: 3 }),
      model: { ...config.model, dropout: 0.1 },
    };
    const empty = tf.memory().numTensors;
    const stage = pretrainStep(model, corpus, index, small);
    tf.dispose((await stage.step(0)).gradients);
    const held = tf.memory().numTensors;
    for (let n = 1; n <= 50; n++) tf.dispose((await stage.step(n)).gradients);
    assert.equal(tf.memory().numTensors, held);
    stage.dispose();
    assert.equal(tf.memory().numTensors, empty);
  });

  test('with one candidate there is only the null document, and retrieval utility is zero', async () => {
    const { metrics, gradients } = await step(vary({ candidates: 1 }));
    tf.dispose(gradients);
    assert.ok(Math.abs(metrics.nullProbability - 1) < 1e-6);
    assert.ok(Math.abs(metrics.retrievalUtility) < 1e-5);
  });
});

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { devSample, sampleRecall } from '../../src/eval/dev-sample.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { type EncodedQuestion, encodeQuestions, questionVectors } from '../../src/model/questions.ts';
import { ensureBm25 } from '../../src/retrieval/bm25.ts';
import { encodeBlocks } from '../../src/retrieval/encode-blocks.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('dev-sample');
const config = tinyConfig();
let corpus: Corpus;
let world: World;
let model: Model;
let questions: EncodedQuestion[];
before(async () => {
  await startTestEngine();
  ({ corpus, world } = await tinyCorpus(folder, config));
  model = tinyModel(config, corpus.tokenizer.size);
  questions = encodeQuestions(corpus, world.test);
});
after(() => {
  disposeModel(model);
  corpus.close();
});

const words = () => ensureBm25(join(folder, 'bm25'), corpus);
/** BM25 is not opened where it is not needed. */
const noWords = () => assert.fail('BM25 is opened');

test('a sample has evenly spread blocks and a block with the answer of each question', async () => {
  const spread = 4;
  const { blocks } = await devSample(corpus, questions, words, spread);
  assert.ok(blocks.length < corpus.blocks, `${blocks.length} of ${corpus.blocks}`);
  assert.deepEqual(
    blocks,
    [...new Set(blocks)].sort((a, b) => a - b),
  );
  for (let i = 0; i < spread; i++) assert.ok(blocks.includes(Math.floor((i * corpus.blocks) / spread)));
  // These questions name no documents, so the block is one that BM25 finds.
  const answered = questions.filter((q) => blocks.some((block) => hasAnswer(corpus.text(block), q)));
  assert.ok(answered.length > 0.9 * questions.length, `${answered.length} of ${questions.length}`);
  assert.deepEqual((await devSample(corpus, questions, words, spread)).blocks, blocks);
  assert.equal((await devSample(corpus, questions, noWords, corpus.blocks)).blocks.length, corpus.blocks);
});

test('the blocks of a named document that hold the answer are in the sample, and no others of it', async () => {
  const last = corpus.blocks - 1;
  const word = corpus.text(last).match(/[A-Za-z]{5,}/)![0];
  const passageId = corpus.documentId(last);
  const ask = (answer: string) =>
    encodeQuestions(corpus, [{ question: 'zzz', answers: [answer], passageId }]);
  assert.deepEqual((await devSample(corpus, ask(word), noWords, 1)).blocks, [0, last]);
  assert.deepEqual((await devSample(corpus, ask('qqqqq'), words, 1)).blocks, [0]);
});

test('recall in a sample is that of inner products by hand, with current or with frozen vectors', async () => {
  const sample = await devSample(corpus, questions, words, 4);
  const P = vectorLength(config.model);
  const pieces = encodeBlocks(model, corpus, { blockTokens: config.text.blockTokens, tokensPerBatch: 8192 });
  const vectors: Float32Array = (await pieces.next()).value!;
  const q = await questionVectors(model, corpus, questions, config);
  const byHand = (of: Float32Array) => {
    const score = (i: number, block: number) => {
      let sum = 0;
      for (let d = 0; d < P; d++) sum += q[i * P + d] * of[block * P + d];
      return sum;
    };
    const ranks = questions.map((question, i) =>
      sample.blocks
        .toSorted((a, b) => score(i, b) - score(i, a))
        .findIndex((block) => hasAnswer(corpus.text(block), question)),
    );
    return Object.fromEntries(
      [1, 5, 20].map((k) => [k, ranks.filter((r) => r >= 0 && r < k).length / ranks.length]),
    );
  };
  const current = await sampleRecall(model, corpus, sample, config);
  assert.deepEqual(current, byHand(vectors));
  const opposite = vectors.map((v) => -v);
  const frozen = {
    vectors: (blocks: Int32Array) =>
      Float32Array.from([...blocks].flatMap((b) => [...opposite.subarray(b * P, (b + 1) * P)])),
  };
  const other = await sampleRecall(model, corpus, sample, config, frozen);
  assert.deepEqual(other, byHand(opposite));
  assert.notDeepEqual(other, current);
});

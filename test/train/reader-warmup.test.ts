import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { answerSpans } from '../../src/answers/has-answer.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { fetchValues } from '../../src/model/host-values.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { readMasks, realmForward } from '../../src/model/realm.ts';
import { makeRealmBatch } from '../../src/model/realm-batch.ts';
import { drawMasked } from '../../src/train/pretrain.ts';
import { type CopyExample, copyBatches, withDocument } from '../../src/train/reader-warmup.ts';
import { stepRandom } from '../../src/train/sampler.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const config = tinyConfig();
let corpus: Corpus;
let foreign: Corpus;
let model: Model;
const folders = [temporaryFolder('reader-warmup'), temporaryFolder('reader-warmup-foreign')];
before(async () => {
  await startTestEngine();
  ({ corpus } = await tinyCorpus(folders[0], config));
  ({ corpus: foreign } = await tinyCorpus(folders[1], config, { foreign: true }));
  model = tinyModel(config, corpus.tokenizer.size);
});
after(() => {
  disposeModel(model);
  corpus.close();
  foreign.close();
});

/** `n` examples at this share of the steps. */
function drawn(of: Corpus, progress: number, n = 600): CopyExample[] {
  const random = stepRandom(1, 0);
  return drawMasked(of, config, 0, n, random, 'salient').map((masked) =>
    withDocument(of, masked, progress, config.text, random),
  );
}

const share = (examples: readonly CopyExample[], kind: string) =>
  examples.filter((example) => example.kind === kind).length / examples.length;
const holds = (text: Int32Array, pieces: ArrayLike<number>) =>
  answerSpans(text, [Int32Array.from(pieces)]).length > 0;

test('the curriculum: first the sentence itself, then more and more whole blocks, and at the end more other documents', () => {
  assert.equal(share(drawn(corpus, 0.05), 'sentence'), 1);
  const middle = drawn(corpus, 0.175); // half way from 0.1 to 0.25
  assert.ok(Math.abs(share(middle, 'sentence') - 0.5) < 0.07, `${share(middle, 'sentence')}`);
  for (const [progress, other] of [
    [0.3, 0.06],
    [0.9, 0.28],
  ]) {
    const examples = drawn(corpus, progress);
    assert.equal(share(examples, 'sentence'), 0);
    assert.ok(Math.abs(share(examples, 'null') - 0.06) < 0.03, `${share(examples, 'null')}`);
    assert.ok(Math.abs(share(examples, 'other') - other) < 0.06, `${share(examples, 'other')}`);
    assert.ok(share(examples, 'block') > 0.3);
    assert.ok(share(examples, 'rest') > 0);
  }
});

test('only the documents that are meant to hold the hidden span do', () => {
  for (const example of drawn(corpus, 0.9)) {
    const { kind, document, sentence, masked, targets, source } = example;
    assert.ok(masked.includes(corpus.tokenizer.mask));
    assert.equal(holds(document, targets), kind === 'block' || kind === 'rest', kind);
    if (kind === 'block') assert.deepEqual(document, corpus.bodyIds(source));
    if (kind === 'rest') {
      assert.equal(holds(document, sentence), false);
      assert.equal(document.length, corpus.bodyIds(source).length - sentence.length);
    }
    if (kind === 'null') assert.equal(document.length, 0);
  }
});

test('a sentence that is in no block is put into one', () => {
  const examples = drawn(foreign, 0.9, 200);
  const blocks = examples.filter(({ kind }) => kind === 'block');
  assert.ok(blocks.length > 50);
  for (const { source, document, sentence } of blocks) {
    assert.equal(source, -1);
    assert.ok(document.length > sentence.length);
  }
  assert.ok(
    blocks.filter(({ document, sentence }) => holds(document, sentence)).length > 0.8 * blocks.length,
  );
});

test('masks are read as in pretraining: with the own block, and with the null document', async () => {
  const all = drawn(corpus, 0.9);
  const examples = (['block', 'null'] as const).flatMap((wanted) =>
    all.filter(({ kind }) => kind === wanted).slice(0, 4),
  );
  assert.equal(examples.length, 8);
  const groups = copyBatches(corpus.tokenizer, examples, config.text);
  const read = groups.map(({ batch }) => readMasks(model.params, model.readerTower, model.reader, batch));
  const values = (await fetchValues(...read)).flatMap((list) => [...list]);
  let at = 0;
  for (const example of groups.flatMap((group) => group.examples)) {
    const candidates = example.kind === 'block' ? [example.source] : [];
    const batch = makeRealmBatch(model, [example], [candidates], corpus, config.text);
    const [expected] = await fetchValues(tf.tidy(() => realmForward(model, batch, 'span').logTokens));
    const M = example.targets.length;
    const k = candidates.length; // the null document comes first
    for (let m = 0; m < M; m++) {
      assert.ok(Math.abs(values[at] - expected[k * M + m]) < 1e-4, `${values[at]} ${expected[k * M + m]}`);
      at++;
    }
  }
  assert.equal(at, values.length);
});

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Config } from '../../src/config.ts';
import { prepare } from '../../src/corpus/prepare.ts';
import { type Corpus, openCorpus } from '../../src/corpus/store/reader.ts';
import { hasBf16 } from '../../src/engine/fused.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { encodeBlocks } from '../../src/retrieval/encode-blocks.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { EMBEDDINGS, readManifest } from '../../src/retrieval/manifest.ts';
import { blockPrecision, LEAST_BLOCKS, LEAST_RECALL, recallInBf16 } from '../../src/retrieval/precision.ts';
import { wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyModel } from '../support/tiny.ts';

const NO_BF16 = 'needs the native engine and a processor with AVX-512 BF16';

const folder = temporaryFolder('precision');
const config = tinyConfig('model.pooling=mean', 'model.hidden=64', 'index.kind=exact');
const onlyF32 = tinyConfig(
  'model.pooling=mean',
  'model.hidden=64',
  'index.kind=exact',
  'index.precision=f32',
);
let corpus: Corpus;
/** Of near neighbours that change places in BF16, and of those that do not. */
let unstable: Model;
let model: Model;
before(async () => {
  await startTestEngine();
  const letters = [...'abcdefghijklmnopqrstuvwxyz'];
  const vocab = wordPiece(
    ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', ...letters.flatMap((a) => letters.map((b) => a + b))],
    true,
  );
  const { int } = random(1);
  const word = () => letters[int(26)] + letters[int(26)];
  const documents = join(folder, 'documents.jsonl');
  const lines = Array.from({ length: LEAST_BLOCKS }, (_, id) => {
    const text = `${Array.from({ length: 8 }, word).join(' ')}.`;
    return `${JSON.stringify({ id, title: word(), text })}\n`;
  });
  writeFileSync(documents, lines.join(''));
  const dir = join(folder, 'corpus');
  const { blockTokens, sentenceTokens } = config.text;
  await prepare({ documents, vocab, blockTokens, queryTokens: sentenceTokens, dir });
  corpus = openCorpus(dir);
  assert.equal(corpus.blocks, LEAST_BLOCKS);
  model = tinyModel(config, vocab.size, 1, 2);
  unstable = tinyModel(config, vocab.size, 1, 8);
});
after(() => {
  disposeModel(model);
  disposeModel(unstable);
  corpus.close();
});

test('BF16 is chosen where it is there, keeps the neighbours, is worth it, and is allowed', async (t) => {
  if (!hasBf16()) {
    assert.equal(await blockPrecision(model, corpus, config), 'f32');
    return t.skip(NO_BF16);
  }
  const recall = await recallInBf16(model, corpus, config);
  assert.ok(recall >= LEAST_RECALL && recall < 1, `${recall}`);
  assert.equal(await blockPrecision(model, corpus, config), 'bf16');
  const low = await recallInBf16(unstable, corpus, config);
  assert.ok(low < LEAST_RECALL, `${low}`);
  assert.equal(await blockPrecision(unstable, corpus, config), 'f32');
  assert.equal(await blockPrecision(model, corpus, config, {}, corpus.blocks + 1), 'f32');
  assert.equal(await blockPrecision(model, corpus, onlyF32), 'f32');
});

test('the manifest says the precision; an index in BF16 is not used where f32 is wanted', async (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  const root = join(folder, 'index');
  const made = async (name: string, settings: Config) => {
    const index = await makeIndex(root, name, { model, corpus, config: settings, step: 0 });
    assert.equal(readManifest(join(root, index.name)).precision, index.manifest.precision);
    return { ...index, vectors: readFileSync(join(root, index.name, EMBEDDINGS)) };
  };
  const bf16 = await made('one', config);
  assert.equal(bf16.manifest.precision, 'bf16');
  assert.equal((await made('two', config)).name, 'one');
  const f32 = await made('three', onlyF32);
  assert.deepEqual([f32.name, f32.manifest.precision, f32.manifest.reused], ['three', 'f32', 0]);
  assert.notDeepEqual(f32.vectors, bf16.vectors);
  const [a, b] = [f32.vectors, bf16.vectors].map((bytes) => new Float32Array(new Uint8Array(bytes).buffer));
  for (let i = 0; i < a.length; i++) assert.ok(Math.abs(a[i] - b[i]) < 0.1, `${a[i]} ${b[i]}`);
});

test('vectors that other processes made are in f32', async (t) => {
  if (!hasBf16()) return t.skip(NO_BF16);
  const { text, index } = config;
  const sizes = { blockTokens: text.blockTokens, tokensPerBatch: index.tokensPerBatch };
  const queued = (first: number) => encodeBlocks(model, corpus, { ...sizes, first });
  const { manifest } = await makeIndex(join(folder, 'queued'), 'one', {
    model,
    corpus,
    config,
    step: 0,
    queued,
  });
  assert.equal(manifest.precision, 'f32');
});

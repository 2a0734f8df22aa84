import assert from 'node:assert/strict';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { loadConfig } from '../../src/config.ts';
import { encoderInput } from '../../src/model/bert.ts';
import {
  blockSequences,
  embedAll,
  embedderShapes,
  embedSequences,
  querySequences,
  textFormat,
} from '../../src/model/embedder.ts';
import { isWholeWithoutTraining, vectorLength } from '../../src/model/head.ts';
import { describeModel, disposeModel, initialise, type Model, setParam } from '../../src/model/model.ts';
import { headSettings } from '../../src/pipeline/encoder-head.ts';
import { checkInitial } from '../../src/pipeline/initial-weights.ts';
import { namedWordPiece } from '../../src/pipeline/prepare.ts';
import { random } from '../../src/random.ts';
import { UserError } from '../../src/system/errors.ts';
import { lowercaseIn, vocabularyIn } from '../../src/tokenizer/tokenizer-json.ts';
import { loadWordPiece, type WordPiece } from '../../src/tokenizer/wordpiece.ts';
import { importBert, readHubConfig } from '../../src/weights/import-bert.ts';
import { bertFolder, readSentenceHead } from '../../src/weights/sentence-encoder.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder } from '../support/tiny.ts';

// The folders and what they give are from scripts/parity/sentence_transformers.py.

const fixtures = join(import.meta.dirname, '../fixtures/sentence-transformers');
const names = readdirSync(fixtures).sort();

before(() => startTestEngine());

type Expected = ({ query: string } | { document: string }) & { ids: number[]; vector: number[] };

/** A folder as `model.initial`, with the settings that `realm prepare` would make of it. */
function load(folder: string): { model: Model; tokenizer: WordPiece; expected: Expected[] } {
  const { layers, hidden, heads, intermediate, positions, gelu } = readHubConfig(bertFolder(folder));
  const sizes = { layers, hidden, heads, intermediate, positions, gelu };
  const lowercase = lowercaseIn(bertFolder(folder)) ?? true;
  const set = [
    ...Object.entries(sizes).map(([name, value]) => `model.${name}=${value}`),
    `model.initial=${folder}`,
    `text.lowercase=${lowercase}`,
    // No longer than the encoder's positions.
    ...['text.blockTokens=24', 'text.sentenceTokens=16', 'text.questionTokens=24', 'qa.readerTokens=40'],
  ];
  const config = loadConfig(undefined, [...set, ...headSettings(loadConfig(undefined, set))]);
  checkInitial(config);
  const tokenizer = loadWordPiece(vocabularyIn(bertFolder(folder)), lowercase);
  const model = describeModel(config.model, tokenizer.size);
  const { params } = importBert(folder, model.embedder);
  const shapes = embedderShapes('embedder.', model.embedder);
  assert.deepEqual(
    initialise(model, shapes, random(1), () => params),
    [],
    'nothing is drawn at random',
  );
  const path = join(folder, 'expected.json');
  return { model, tokenizer, expected: existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : [] };
}

/** Vectors of texts, as questions and blocks are embedded, a row for each. */
async function vectorsOf(
  { model, tokenizer }: ReturnType<typeof load>,
  texts: Expected[],
): Promise<number[][]> {
  const format = textFormat(tokenizer, model.embedder);
  const P = vectorLength(model.embedder);
  const limit = 1000; // only the encoder's own limit holds
  const sequences = texts.map((text) =>
    'query' in text
      ? querySequences(format, [tokenizer.encode(text.query).ids], limit)
      : blockSequences(
          format,
          [{ title: new Int32Array(0), body: tokenizer.encode(text.document).ids }],
          limit,
        ),
  );
  const all = {
    ids: sequences.flatMap(({ ids }) => ids),
    firstSegment: sequences.flatMap(({ firstSegment }) => firstSegment),
  };
  const flat = await embedAll(model.params, 'embedder.', model.embedder, all, 1000);
  return texts.map((_, i) => [...flat.subarray(i * P, (i + 1) * P)]);
}

function assertVectors(actual: number[][], expected: Expected[]): void {
  assert.equal(actual.length, expected.length);
  for (const [i, { vector }] of expected.entries()) {
    assert.equal(actual[i].length, vector.length);
    const error = Math.max(...vector.map((value, p) => Math.abs(value - actual[i][p])));
    assert.ok(error < 1e-5, `text ${i} differs by ${error}`);
  }
}

for (const name of names) {
  test(`${name}: word pieces and vectors are those of sentence-transformers`, async () => {
    const loaded = load(join(fixtures, name));
    const { model, tokenizer, expected } = loaded;
    assert.equal(isWholeWithoutTraining(model.embedder), true);
    for (const text of expected) {
      const value = 'query' in text ? text.query : text.document;
      assert.deepEqual([...tokenizer.encode(value).ids], text.ids, value);
    }
    const tensors = tf.memory().numTensors;
    assertVectors(await vectorsOf(loaded, expected), expected);
    assert.equal(tf.memory().numTensors, tensors);
    disposeModel(model);
  });
}

test('the head of each layout', () => {
  const heads = Object.fromEntries(names.map((name) => [name, readSentenceHead(join(fixtures, name))]));
  const none = { dense: [], projection: 'none', queryPrefix: '', documentPrefix: '' };
  assert.deepEqual(heads, {
    'cls-dense-prompts': {
      ...none,
      pooling: 'cls',
      dense: [
        { size: 20, activation: 'tanh' },
        { size: 12, activation: 'none' },
      ],
      normalize: true,
      queryPrefix: 'query: ',
      documentPrefix: 'passage: ',
      sequenceTokens: 40,
    },
    'mean-dot-cased': { ...none, pooling: 'mean', normalize: false, sequenceTokens: 40 },
    'mean-normalize': { ...none, pooling: 'mean', normalize: true, sequenceTokens: 24 },
    'version-0': {
      ...none,
      pooling: 'mean',
      dense: [{ size: 10, activation: 'tanh' }],
      normalize: true,
      sequenceTokens: 40,
    },
    'version-2': { ...none, pooling: 'cls', normalize: true, sequenceTokens: 40 },
  });
  assert.equal(readSentenceHead(join(fixtures, '../realm/embedder')), undefined);
});

test('settings of the head win over the folder, and model.pooling leaves its head out', () => {
  const folder = join(fixtures, 'cls-dense-prompts');
  const set = (...more: string[]) =>
    headSettings(loadConfig(undefined, [`model.initial=${folder}`, ...more]));
  const changed = set('model.queryPrefix="ask: "', 'model.normalize=false');
  assert.ok(!changed.some((line) => /queryPrefix|normalize/.test(line)), changed.join(' '));
  assert.ok(changed.includes('model.documentPrefix="passage: "'));
  assert.deepEqual(set('model.pooling=mean'), []);
});

test('gradients of every head agree with differences of its loss', () => {
  for (const name of names) {
    const { model, tokenizer, expected } = load(join(fixtures, name));
    const { embedder, params } = model;
    const format = textFormat(tokenizer, embedder);
    const texts = expected.map((text) => ('query' in text ? text.query : text.document));
    const { ids, firstSegment } = querySequences(
      format,
      texts.map((text) => tokenizer.encode(text).ids),
      1000,
    );
    const input = encoderInput(ids, firstSegment);
    const weights = tf.randomNormal(
      [texts.length, vectorLength(embedder)],
      0,
      1,
      'float32',
      7,
    ) as tf.Tensor2D;
    const loss = () =>
      tf.tidy(() => embedSequences(params, 'embedder.', embedder, input).mul(weights).sum() as tf.Scalar);
    const shapes = embedderShapes('embedder.', embedder);
    const variables = shapes.map(({ name }) => params.get(name)!);
    const { grads, value } = tf.variableGrads(loss, variables);
    value.dispose();
    for (const [i, { name: parameter, shape }] of shapes.entries()) {
      const gradient = grads[variables[i].name].dataSync<'float32'>();
      const square = gradient.reduce((sum, g) => sum + g * g, 0);
      if (square < 1e-8) continue; // the keys' bias and pieces that no text has
      const start = Float32Array.from(variables[i].dataSync());
      const step = 1e-2 / Math.sqrt(square);
      const at = (factor: number) => {
        setParam(
          params,
          parameter,
          shape,
          start.map((w, j) => w + factor * gradient[j]),
        );
        return loss().dataSync()[0];
      };
      const slope = (at(step) - at(-step)) / (2 * step);
      setParam(params, parameter, shape, start);
      assert.ok(Math.abs(slope / square - 1) < 0.03, `${name}, ${parameter}: ${slope} for ${square}`);
    }
    tf.dispose(grads);
    disposeModel(model);
  }
});

// biome-ignore lint/suspicious/noExplicitAny: parts of files, which each test knows
type Json = any;

/** A copy of a folder in which one JSON file is changed. */
function changed(name: string, file: string, change: (json: Json) => unknown): string {
  const folder = join(temporaryFolder('sentence-encoder'), name);
  cpSync(join(fixtures, name), folder, { recursive: true });
  const path = join(folder, file);
  const json = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  writeFileSync(path, JSON.stringify(change(json)));
  return folder;
}

const refuses = (work: () => unknown, pattern: RegExp) =>
  assert.throws(work, (error) => error instanceof UserError && pattern.test(error.message));

test('a head that realm does not have is refused by its name', () => {
  const pooling = (value: object) => changed('mean-normalize', '1_Pooling/config.json', () => value);
  for (const mode of ['max', 'mean_sqrt_len_tokens', 'weightedmean', 'lasttoken'])
    refuses(
      () => readSentenceHead(pooling({ pooling_mode: mode })),
      new RegExp(`its pooling is ${mode}, and`),
    );
  refuses(() => readSentenceHead(pooling({ pooling_mode: ['cls', 'mean'] })), /pooling is cls and mean/);
  refuses(
    () => readSentenceHead(pooling({ pooling_mode_max_tokens: true, pooling_mode_mean_tokens: true })),
    /pooling is max and mean/,
  );
  refuses(() => readSentenceHead(pooling({ pooling_mode: 'mean', include_prompt: false })), /include_prompt/);
  const modules = (change: (list: Json[]) => unknown) => changed('mean-normalize', 'modules.json', change);
  const lstm = modules((list) => [...list, { path: '3_LSTM', type: 'sentence_transformers.models.LSTM' }]);
  refuses(() => readSentenceHead(lstm), /a part of the kind LSTM/);
  refuses(
    () => readSentenceHead(modules(([a, b, c]) => [a, c, b])),
    /parts are Transformer, Normalize, Pooling/,
  );
  refuses(
    () => readSentenceHead(modules(([a, b]) => [a, { ...b, path: '../other' }])),
    /not a plain file name/,
  );
  const dense = (change: object) =>
    changed('cls-dense-prompts', '2_Dense/config.json', (config) => ({ ...config, ...change }));
  refuses(
    () => readSentenceHead(dense({ activation_function: 'torch.nn.modules.activation.ReLU' })),
    /activation_function is "torch.nn.modules.activation.ReLU"/,
  );
  refuses(() => readSentenceHead(dense({ use_residual: true })), /use_residual/);
  refuses(() => readSentenceHead(dense({ module_input_name: 'token_embeddings' })), /token_embeddings/);
  const model = (config: object) =>
    changed('mean-normalize', 'config_sentence_transformers.json', () => config);
  refuses(
    () => readSentenceHead(model({ similarity_fn_name: 'euclidean' })),
    /similarity_fn_name is "euclidean"/,
  );
});

test('prompts are found as encode_query and encode_document find them', () => {
  const prefixes = (config: object) => {
    const folder = changed('mean-normalize', 'config_sentence_transformers.json', () => config);
    const { queryPrefix, documentPrefix } = readSentenceHead(folder)!;
    return [queryPrefix, documentPrefix];
  };
  assert.deepEqual(prefixes({ prompts: { query: 'q: ', passage: 'p: ', corpus: 'c: ' } }), ['q: ', 'p: ']);
  assert.deepEqual(prefixes({ prompts: { any: 'x: ', query: '' }, default_prompt_name: 'any' }), ['', 'x: ']);
  assert.deepEqual(prefixes({ prompts: { query: null, document: null } }), ['', '']);
});

test('a tokenizer.json that is not one of BERT is refused by its kind', () => {
  const tokenizer = (change: (json: Json) => unknown) =>
    join(changed('mean-normalize', 'tokenizer.json', change), 'tokenizer.json');
  const read = (path: string) => () => loadWordPiece(path, true);
  for (const [type, words] of [
    ['BPE', 'a byte-level BPE tokenizer'],
    ['Unigram', 'a SentencePiece tokenizer \\(Unigram\\)'],
    ['WordLevel', 'a tokenizer of whole words \\(WordLevel\\)'],
    ['Other', 'a tokenizer of the kind "Other"'],
  ])
    refuses(
      read(tokenizer((json) => ({ ...json, model: { ...json.model, type } }))),
      new RegExp(`is ${words}, and realm reads only WordPiece, the kind of BERT; choose a model with`),
    );
  refuses(
    read(tokenizer((json) => ({ ...json, normalizer: { type: 'NFC' } }))),
    /normalizer is of the kind "NFC"/,
  );
  refuses(
    read(tokenizer((json) => ({ ...json, normalizer: { ...json.normalizer, clean_text: false } }))),
    /clean_text is false/,
  );
  refuses(
    read(
      tokenizer((json) => ({ ...json, model: { ...json.model, vocab: { ...json.model.vocab, gap: 1000 } } })),
    ),
    /gives "gap" the id 1000/,
  );
  const added = tokenizer((json) => ({
    ...json,
    added_tokens: [...json.added_tokens, { id: Object.keys(json.model.vocab).length, content: '<extra>' }],
  }));
  assert.equal(read(added)().vocabulary.at(-1), '<extra>');
});

test('a cased encoder is not lower-cased', () => {
  const cased = (folder: string, ...more: string[]) =>
    loadConfig(undefined, [
      `model.initial=${folder}`,
      'model.layers=2',
      'model.hidden=16',
      'model.heads=2',
      'model.intermediate=32',
      'model.positions=40',
      'model.gelu=exact',
      ...['text.blockTokens=24', 'text.sentenceTokens=16', 'text.questionTokens=24', 'qa.readerTokens=40'],
      ...more,
    ]);
  const folder = join(fixtures, 'mean-dot-cased');
  checkInitial(cased(folder));
  assert.equal(namedWordPiece(cased(folder))!.lowercase, false);
  refuses(
    () => checkInitial(cased(folder, 'text.lowercase=true')),
    /text.lowercase is true, do_lower_case is false: set it to false/,
  );
  // Of a folder with neither description, the word pieces are looked at.
  const bare = changed('mean-dot-cased', 'tokenizer_config.json', () => ({}));
  const pieces = loadWordPiece(join(bare, 'tokenizer.json'), false).vocabulary;
  writeFileSync(join(bare, 'vocab.txt'), `${pieces.join('\n')}\n`);
  rmSync(join(bare, 'tokenizer.json'));
  assert.equal(namedWordPiece(cased(bare))!.lowercase, false);
  refuses(() => checkInitial(cased(bare, 'text.lowercase=true')), /have capital letters: set it to false/);
  // A vocabulary elsewhere is read as the encoder's own.
  const path = join(temporaryFolder('vocabulary'), 'vocab.txt');
  writeFileSync(
    path,
    `${pieces
      .map((piece) => piece.toLowerCase().replace(/^\[.*\]$/, (token) => token.toUpperCase()))
      .filter((piece, i, all) => all.indexOf(piece) === i)
      .join('\n')}\n`,
  );
  assert.equal(namedWordPiece(cased(folder, `text.vocabulary=${path}`))!.lowercase, false);
  assert.equal(loadWordPiece(path, null).lowercase, true);
});

const real = process.env.REALM_TEST_SENTENCE_ENCODER;
const noReal = real ? false : 'set REALM_TEST_SENTENCE_ENCODER to the folder of all-MiniLM-L6-v2';

test('all-MiniLM-L6-v2 gives its published similarities', { skip: noReal }, async () => {
  const loaded = load(real!);
  // From its model card's sentences, by sentence-transformers 6.2.0.
  const texts = [
    'That is a happy person',
    'That is a happy dog',
    'That is a very happy person',
    'Today is a sunny day',
  ];
  const expected = JSON.parse(
    readFileSync(join(import.meta.dirname, '../fixtures/minilm-similarities.json'), 'utf8'),
  );
  const vectors = await vectorsOf(
    loaded,
    texts.map((document) => ({ document, ids: [], vector: [] })),
  );
  const similarities = vectors.map((a) =>
    vectors.map((b) => a.reduce((sum, value, i) => sum + value * b[i], 0)),
  );
  similarities.forEach((row, i) => {
    row.forEach((value, j) => {
      assert.ok(Math.abs(value - expected[i][j]) < 1e-5, `${i}, ${j}: ${value}`);
    });
  });
  disposeModel(loaded.model);
});

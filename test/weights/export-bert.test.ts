import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type BertConfig, bertShapes, initialValues, type Params } from '../../src/model/bert.ts';
import { setParam } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { exportBert } from '../../src/weights/export-bert.ts';
import { importBert, readHubConfig } from '../../src/weights/import-bert.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { startTestEngine } from '../support/engine.ts';
import { fixturePath } from '../support/model-fixture.ts';

before(() => startTestEngine());

const root = mkdtempSync(join(tmpdir(), 'realm-export-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** Every size another, so that no two shapes are alike by chance. */
const CONFIG: BertConfig = {
  vocabulary: 23,
  layers: 2,
  hidden: 6,
  heads: 3,
  intermediate: 10,
  positions: 17,
  gelu: 'tanh',
  dropout: 0.2,
  layerNormEps: 1e-7,
};

/** A tower under `p` with random values everywhere, biases and gains too. */
function randomTower(p: string, config: BertConfig): Params {
  const params: Params = new Map();
  const source = random(1);
  for (const { name, shape } of bertShapes(p, config, true))
    setParam(params, name, shape, initialValues({ name, shape, init: 'normal' }, source));
  return params;
}

function stored(folder: string): Map<string, { shape: readonly number[]; data: Float32Array }> {
  const { tensors, close } = readSafetensors(join(folder, 'model.safetensors'));
  const all = new Map([...tensors].map(([name, t]) => [name, { shape: t.shape, data: t.read() }]));
  close();
  return all;
}

/** Tensors of embeddings, layers, pooler and masked-LM head. */
const tensorsOf = (layers: number) => 5 + 16 * layers + 2 + 5;

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

test('importing an exported model gives the same values, bit for bit', async () => {
  const folder = join(root, 'random');
  const params = randomTower('reader.', CONFIG);
  await exportBert(folder, params, 'reader.', CONFIG);
  assert.deepEqual(readdirSync(folder).sort(), ['config.json', 'model.safetensors']);
  const back = importBert(folder, CONFIG);
  assert.deepEqual(back.unused, []);
  assert.deepEqual([...back.params.keys()].map((name) => `reader.${name}`).sort(), [...params.keys()].sort());
  for (const [name, { shape, data }] of back.params) {
    const sent = params.get(`reader.${name}`)!;
    assert.deepEqual(shape, sent.shape, name);
    assert.deepEqual(bits(data), bits(sent.dataSync() as Float32Array), name);
  }
});

test("names and shapes are those of transformers' BertForMaskedLM", async () => {
  const folder = join(root, 'names');
  await exportBert(folder, randomTower('', CONFIG), '', CONFIG);
  const tensors = stored(folder);
  const wanted: Record<string, number[]> = {
    'bert.embeddings.word_embeddings.weight': [23, 6],
    'bert.embeddings.position_embeddings.weight': [17, 6],
    'bert.embeddings.token_type_embeddings.weight': [2, 6],
    'bert.embeddings.LayerNorm.weight': [6],
    'bert.encoder.layer.1.attention.self.query.weight': [6, 6],
    'bert.encoder.layer.1.attention.self.key.bias': [6],
    'bert.encoder.layer.0.attention.output.LayerNorm.bias': [6],
    'bert.encoder.layer.0.intermediate.dense.weight': [10, 6], // [out, in]
    'bert.encoder.layer.0.output.dense.weight': [6, 10],
    'bert.pooler.dense.weight': [6, 6],
    'cls.predictions.transform.dense.weight': [6, 6],
    'cls.predictions.transform.LayerNorm.weight': [6],
    'cls.predictions.bias': [23],
  };
  for (const [name, shape] of Object.entries(wanted)) assert.deepEqual(tensors.get(name)?.shape, shape, name);
  assert.ok(![...tensors.keys()].some((name) => name.includes('qkv')), 'queries, keys and values apart');
  assert.equal(tensors.size, tensorsOf(CONFIG.layers));
});

test('a model that transformers saved is exported unchanged, to the bits of each tensor', async () => {
  const source = fixturePath('masked-lm');
  const config = readHubConfig(source);
  const params: Params = new Map();
  for (const [name, { shape, data }] of importBert(source, config).params)
    setParam(params, `reader.${name}`, shape, data);
  const folder = join(root, 'masked-lm');
  await exportBert(folder, params, 'reader.', config);
  const theirs = new Map(
    [...stored(source)].map(([name, tensor]) => [
      name.replace(/gamma$/, 'weight').replace(/beta$/, 'bias'), // the fixture has the norms' older names
      tensor,
    ]),
  );
  const ours = stored(folder);
  assert.equal(ours.size, tensorsOf(2));
  for (const [name, { shape, data }] of ours) {
    assert.deepEqual(shape, theirs.get(name)?.shape, name);
    assert.deepEqual(bits(data), bits(theirs.get(name)!.data), name);
  }
});

test('the description reads back as the configuration that it was made from', async () => {
  for (const gelu of ['tanh', 'exact'] as const) {
    const config = { ...CONFIG, gelu };
    const folder = join(root, gelu);
    await exportBert(folder, randomTower('', config), '', config);
    const { projection, projectionLayerNormEps, spanHidden, spanLayerNormEps, ...bert } =
      readHubConfig(folder);
    assert.deepEqual(bert, config);
    assert.deepEqual(
      [projection, projectionLayerNormEps, spanHidden, spanLayerNormEps],
      Array(4).fill(undefined),
    );
    const json = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
    assert.deepEqual(
      [json.model_type, json.architectures, json.hidden_act, json.type_vocab_size],
      ['bert', ['BertForMaskedLM'], gelu === 'exact' ? 'gelu' : 'gelu_new', 2],
    );
  }
});

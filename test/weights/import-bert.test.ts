import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { bertShapes } from '../../src/model/bert.ts';
import { UserError } from '../../src/system/errors.ts';
import { hasMaskHead, type ImportConfig, importBert, readHubConfig } from '../../src/weights/import-bert.ts';
import { readSafetensors, type TensorToWrite, writeSafetensors } from '../../src/weights/safetensors.ts';
import { fixturePath } from '../support/model-fixture.ts';

// That the numbers land in the right places is what the comparisons with PyTorch in this folder show.

const MODELS = ['bert-gelu', 'masked-lm', 'embedder', 'knowledge', 'reader'];

test('every shape is ours, and tensors that we do not use are reported', () => {
  for (const name of MODELS) {
    const config = readHubConfig(fixturePath(name));
    const { params, unused } = importBert(fixturePath(name), config);
    const head = ['masked-lm', 'knowledge'].includes(name);
    for (const shape of bertShapes('', config, head)) {
      const found = params.get(shape.name);
      assert.deepEqual(found?.shape, shape.shape, `${name}: ${shape.name}`);
      assert.equal(
        found.data.length,
        shape.shape.reduce((a, b) => a * b, 1),
      );
    }
    assert.equal(params.has('mlm.bias'), head, name);
    assert.equal(hasMaskHead(fixturePath(name)), head, name);
    assert.equal(params.has('projection.kernel'), name === 'embedder');
    assert.equal(params.has('span.output.kernel'), name === 'reader');
    const extra = {
      'masked-lm': [
        'bert.embeddings.position_ids',
        'cls.seq_relationship.bias',
        'cls.seq_relationship.weight',
      ],
    };
    // The embedder's and the reader's masked-LM heads are not trained and not tied to the word embeddings.
    const untied = ['embedder', 'reader'].includes(name);
    if (untied) assert.ok(unused.length === 7 && unused.every((key) => key.startsWith('cls.predictions.')));
    else assert.deepEqual(unused.sort(), extra[name as keyof typeof extra] ?? []);
  }
});

test('linear weights are transposed, and queries, keys and values are concatenated', () => {
  const folder = fixturePath('embedder');
  const { params } = importBert(folder, readHubConfig(folder));
  const file = readSafetensors(join(folder, 'model.safetensors'));
  const [query, key, value] = ['query', 'key', 'value'].map((part) => ({
    weight: file.tensors.get(`realm.encoder.layer.0.attention.self.${part}.weight`)!.read(),
    bias: file.tensors.get(`realm.encoder.layer.0.attention.self.${part}.bias`)!.read(),
  }));
  file.close();
  const kernel = params.get('layer.0.attention.qkv.kernel')!; // [16, 48]
  const at = (row: number, column: number) => kernel.data[row * 48 + column];
  assert.deepEqual(
    [at(3, 5), at(3, 16 + 5), at(0, 32), at(15, 47)],
    [query.weight[5 * 16 + 3], key.weight[5 * 16 + 3], value.weight[0], value.weight[255]],
  );
  const bias = params.get('layer.0.attention.qkv.bias')!;
  assert.deepEqual([...bias.data], [...query.bias, ...key.bias, ...value.bias]);
});

describe('a folder that does not fit is refused with the reason', () => {
  let folder: string;
  let config: ImportConfig;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'import-bert-'));
    cpSync(fixturePath('knowledge'), folder, { recursive: true });
    config = readHubConfig(folder);
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function refused(message: RegExp): void {
    assert.throws(
      () => importBert(folder, config),
      (error) => {
        assert.ok(error instanceof UserError, String(error));
        assert.match(error.message, message);
        return true;
      },
    );
  }

  function editConfig(changes: Record<string, unknown>): void {
    const file = join(folder, 'config.json');
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...changes }));
  }

  /** Rewrites the weights; `edit` gives what a tensor becomes, null to leave it out. */
  async function editTensors(
    edit: (name: string, shape: number[]) => { name?: string; shape?: number[] } | null,
  ): Promise<void> {
    const path = join(folder, 'model.safetensors');
    const { tensors, close } = readSafetensors(path);
    const out: TensorToWrite[] = [];
    for (const [name, { shape, read }] of tensors) {
      const change = edit(name, shape);
      const data = read();
      if (change) out.push({ name: change.name ?? name, shape: change.shape ?? shape, data });
    }
    close();
    await writeSafetensors(path, out);
  }

  test('other sizes', () => {
    config = { ...config, hidden: 32, layers: 2 };
    refused(
      /config\.json: num_hidden_layers is 1, your configuration has model\.layers 2; set model\.layers to 1/,
    );
    config = { ...config, layers: 1 };
    refused(/hidden_size is 16, .*model\.hidden 32/);
  });

  test('heads, which no shape would show', () => {
    config = { ...config, heads: 4 };
    refused(/num_attention_heads is 2, .*set model\.heads to 2/);
  });

  test('choices that no shape would show', () => {
    config = { ...config, gelu: config.gelu === 'tanh' ? 'exact' : 'tanh' };
    refused(/trained with model\.gelu (tanh|exact) \(hidden_act\), .*set model\.gelu to/);
    config = { ...readHubConfig(folder), layerNormEps: 1e-3 };
    refused(/trained with model\.layerNormEps 1e-12 \(layer_norm_eps\), your configuration has 0\.001/);
    // A folder without span scorer says nothing about the scorer's.
    config = { ...readHubConfig(folder), spanLayerNormEps: 1e-5 };
    importBert(folder, config);
  });

  test('another vocabulary', () => {
    config = { ...config, vocabulary: 51 };
    refused(/vocab_size is 50, but your vocabulary has 51 word pieces; use the vocab\.txt/);
  });

  test('another projection', () => {
    rmSync(folder, { recursive: true });
    cpSync(fixturePath('embedder'), folder, { recursive: true });
    config = { ...readHubConfig(folder), projection: 7 };
    refused(/cls\.dense\.weight has the shape \[6,16\], but the configuration needs \[7,16\]/);
  });

  test('weights of another model than config.json', async () => {
    await editTensors((name, shape) =>
      name.endsWith('intermediate.dense.bias') ? { shape: [...shape, 1] } : {},
    );
    refused(/intermediate\.dense\.bias has the shape \[32,1\], but the configuration needs \[32\]/);
  });

  test('a layer missing', async () => {
    await editTensors((name) => (name.includes('layer.0.output') ? null : {}));
    refused(/its encoder lacks 4 tensors, the first realm\.encoder\.layer\.0\.output\.dense\.weight/);
  });

  test('half a head', async () => {
    await editTensors((name) => (name.startsWith('cls.predictions.transform.dense') ? null : {}));
    refused(/its masked-LM head lacks 2 tensors, the first cls\.predictions\.transform\.dense\.weight/);
  });

  test('no BERT', async () => {
    await editTensors((name) => ({ name: `gpt.${name}` }));
    refused(/has no BERT embeddings under Hugging Face's names \(its first names: gpt\./);
  });

  test('weights that are not finite, or not floats', () => {
    const path = join(folder, 'model.safetensors');
    const whole = readFileSync(path);
    const last = whole.length - 4;
    for (const value of [Number.NaN, Infinity]) {
      // The word embeddings fill the whole of their place, and are not the last.
      const bytes = Buffer.from(whole);
      for (let at = last; at > last - 4 * 60; at -= 4) bytes.writeFloatLE(value, at);
      writeFileSync(path, bytes);
      refused(/model\.safetensors: \S+ holds values that are not finite/);
    }
    writeFileSync(path, Buffer.from(whole.toString('latin1').replaceAll('"F32"', '"I32"'), 'latin1'));
    refused(/model\.safetensors: \S+ is of I32, but weights must be floats/);
  });

  test('fields of any depth', () => {
    const deep = `${'['.repeat(50_000)}${']'.repeat(50_000)}`;
    for (const field of ['hidden_size', 'hidden_act', 'position_embedding_type']) {
      editConfig({ [field]: 'HERE' });
      const file = join(folder, 'config.json');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"HERE"', deep));
      refused(new RegExp(`${field} is something nested too deep to show`));
      editConfig({ [field]: undefined });
    }
  });

  test('another activation, segments, positions', () => {
    editConfig({ hidden_act: 'relu' });
    refused(/hidden_act is "relu"/);
    editConfig({ hidden_act: 'gelu', type_vocab_size: 1 });
    refused(/type_vocab_size is 1/);
    editConfig({ type_vocab_size: 2, position_embedding_type: 'relative_key' });
    refused(/position_embedding_type is "relative_key"/);
  });

  test('config.json of another kind, broken or absent', () => {
    editConfig({ hidden_size: 'wide' });
    refused(/hidden_size is "wide", not a size/);
    editConfig({ hidden_size: undefined });
    refused(/has no hidden_size, so it does not describe a BERT/);
    writeFileSync(join(folder, 'config.json'), 'null');
    refused(/is not a JSON object/);
    rmSync(join(folder, 'config.json'));
    refused(/config\.json: no such model description; name the folder/);
  });

  test('weights in another format', () => {
    rmSync(join(folder, 'model.safetensors'));
    refused(/model\.safetensors: no such file; download/);
    writeFileSync(join(folder, 'pytorch_model.bin'), '');
    refused(/pytorch_model\.bin: is not a file of torch\.save/);
  });

  test('without pooler and head only the encoder is imported', async () => {
    await editTensors((name) => (/pooler|cls\./.test(name) ? null : {}));
    const { params } = importBert(folder, config);
    assert.ok(params.has('layer.0.output.kernel'));
    assert.ok(!params.has('pooler.kernel') && !params.has('mlm.bias'));
  });
});

test('rows beyond the vocabulary are left out, and the parts of a DPR encoder are found', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'realm-rows-'));
  try {
    cpSync(fixturePath('masked-lm'), folder, { recursive: true });
    const whole = readHubConfig(folder);
    const smaller = { ...whole, vocabulary: whole.vocabulary - 7 };
    const [all, some] = [whole, smaller].map((config) => importBert(folder, config).params);
    for (const [name, width] of [
      ['embeddings.word', whole.hidden],
      ['mlm.bias', 1],
    ] as const) {
      const { shape, data } = some.get(name)!;
      assert.equal(shape[0], smaller.vocabulary);
      assert.deepEqual([...data], [...all.get(name)!.data.subarray(0, smaller.vocabulary * width)]);
    }

    const { tensors, close } = readSafetensors(join(folder, 'model.safetensors'));
    const renamed = [...tensors]
      .filter(([name]) => name.startsWith('bert.') && !name.includes('position_ids'))
      .map(([name, tensor]): TensorToWrite => {
        const data = tensor.read();
        return { name: name.replace(/^bert/, 'question_encoder.bert_model'), shape: tensor.shape, data };
      });
    close();
    rmSync(join(folder, 'model.safetensors'));
    await writeSafetensors(join(folder, 'model.safetensors'), renamed);
    const { params } = importBert(folder, whole);
    assert.deepEqual(params.get('embeddings.word')!.data, all.get('embeddings.word')!.data);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

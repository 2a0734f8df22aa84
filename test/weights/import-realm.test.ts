import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { readBlockRecords } from '../../src/datasets/formats/block-records.ts';
import { importBert, readHubConfig } from '../../src/weights/import-bert.ts';
import { openWeights } from '../../src/weights/weight-folder.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertClose } from '../support/model-fixture.ts';
import { bothOutputs, configFor, exportKind, type Kind, startedModel } from '../support/realm-parity.ts';
import { userError } from '../support/weights.ts';

// The fixtures of scripts/parity/realm.py and realm_tensorflow.py.

before(() => startTestEngine());

const root = mkdtempSync(join(tmpdir(), 'realm-import-'));
after(() => rmSync(root, { recursive: true, force: true }));

const fixture = (name: string) => join(import.meta.dirname, '../fixtures/realm', name);

/** A model of a kind that starts from a folder, by the settings that name it. */
function started(kind: Kind, initial: string, ...more: string[]) {
  const like = fixture(kind);
  return startedModel(configFor(like, kind, initial, ...more), readHubConfig(like).vocabulary);
}

describe("outputs are those of transformers' classes", () => {
  const forms: [string, Kind][] = [
    ['embedder', 'embedder'],
    ['scorer', 'scorer'],
    ['shared-scorer', 'shared-scorer'],
    ['encoder', 'encoder'],
    ['encoder-parts', 'encoder'],
    ['reader', 'reader'],
    ['openqa-parts', 'openqa'],
    ['tensorflow-embedder', 'embedder'],
    ['tensorflow-encoder', 'encoder'],
    ['tensorflow-openqa', 'openqa'],
  ];
  for (const [form, kind] of forms) {
    test(form, () => {
      const outputs = bothOutputs(kind, started(kind, fixture(form)), fixture(kind));
      assert.ok(outputs.length > 0);
      for (const [name, ours, theirs] of outputs) assertClose(ours, theirs, name);
    });
  }

  test('the retriever of one folder, the reader of another', () => {
    // Sizes are the same in all fixtures; the reader's folder gives its encoder and span scorer.
    const model = started('embedder', fixture('embedder'), `model.initialReader=${fixture('reader')}`);
    for (const kind of ['embedder', 'reader'] as const) {
      for (const [name, ours, theirs] of bothOutputs(kind, model, fixture(kind)))
        assertClose(ours, theirs, name);
    }
  });
});

test('everything in a folder of both is used, except for heads that no class uses', () => {
  const config = readHubConfig(fixture('openqa'));
  const of = (tower: 'both' | 'reader') => importBert(fixture('openqa-parts'), config, tower);
  const left = of('both').unused.filter((name) => of('reader').unused.includes(name));
  assert.deepEqual(
    left.filter((name) => !/^(embedder|reader)\.cls\.predictions\./.test(name)),
    ['block_emb'],
  );
  assert.ok(of('reader').params.has('span.output.kernel') && !of('reader').params.has('projection.kernel'));
});

test('the blocks of a folder for questions, a part at a time', () => {
  const { tensors, close } = openWeights(fixture('openqa-parts'));
  const blocks = tensors.get('block_emb')!;
  const { blockVectors } = JSON.parse(readFileSync(join(fixture('openqa'), 'expected.json'), 'utf8'));
  assert.deepEqual(blocks.shape, [7, 6]);
  assertClose(blocks.read(2 * 6, 5 * 6), blockVectors.slice(12, 30), 'rows 2 to 4');
  close();
});

describe('refused with the reason', () => {
  test('two different towers for one of ours', () => {
    const one = () => started('scorer', fixture('scorer'), 'model.sharedTowers=true');
    assert.throws(
      one,
      userError(/two different towers for queries and documents; set model\.sharedTowers to false/),
    );
    started('shared-scorer', fixture('shared-scorer'), 'model.sharedTowers=false');
  });

  test("other epsilons than the folder's, if the part that has them is read", () => {
    const other = ['model.projectionLayerNormEps=1e-3', 'model.spanLayerNormEps=1e-12'];
    const embedder = () => started('embedder', fixture('embedder'), other[0]);
    assert.throws(embedder, userError(/trained with model\.projectionLayerNormEps 1e-12/));
    const reader = () => started('reader', fixture('reader'), other[1]);
    assert.throws(reader, userError(/trained with model\.spanLayerNormEps 0\.001 \(reader_layer_norm_eps\)/));
    started('encoder', fixture('encoder'), ...other);
  });

  test('a part missing, a list that names no weights, two checkpoints', () => {
    const folder = join(root, 'parts');
    cpSync(fixture('encoder-parts'), folder, { recursive: true });
    const config = readHubConfig(folder);
    const read = () => importBert(folder, config);
    read();
    const index = join(folder, 'model.safetensors.index.json');
    const json = JSON.parse(readFileSync(index, 'utf8'));
    const [name, part] = Object.entries<string>(json.weight_map)[0];
    rmSync(join(folder, part));
    assert.throws(read, userError(/model-0000\d-of-0000\d\.safetensors: no such file/));
    const list = (file: unknown) =>
      writeFileSync(index, JSON.stringify({ weight_map: { ...json.weight_map, [name]: file } }));
    list('../secret.safetensors');
    assert.throws(read, userError(/names "\.\.\/secret\.safetensors", which is not a plain file name/));
    list(7);
    assert.throws(read, userError(/names 7 for .*, which is not a file of weights/));
    writeFileSync(index, '{}');
    assert.throws(read, userError(/has no weight_map/));

    const two = join(root, 'two');
    mkdirSync(two);
    for (const name of ['a.index', 'b.index']) {
      copyFileSync(join(fixture('tensorflow-encoder'), 'bert_model.ckpt.index'), join(two, name));
    }
    assert.throws(
      () => importBert(two, config),
      userError(/holds 2 checkpoints of TensorFlow \(a\.index, b\.index\)/),
    );
  });
});

test("Google's description of a BERT is read, its gelu being the tanh form", () => {
  const folder = join(root, 'google');
  cpSync(fixture('tensorflow-encoder'), folder, { recursive: true });
  const { layer_norm_eps: _, ...fields } = JSON.parse(
    readFileSync(join(fixture('encoder'), 'config.json'), 'utf8'),
  );
  writeFileSync(join(folder, 'bert_config.json'), JSON.stringify({ ...fields, hidden_act: 'gelu' }));
  const config = readHubConfig(folder);
  assert.deepEqual([config.gelu, config.layerNormEps], ['tanh', 1e-12]);
  assert.throws(
    () => importBert(folder, { ...config, hidden: 17 }),
    userError(/bert_config\.json: hidden_size is 16/),
  );
  assert.ok(importBert(folder, config).params.has('mlm.bias'));
});

describe('what is exported comes back by import, to the same outputs', () => {
  for (const kind of ['embedder', 'scorer', 'shared-scorer', 'encoder', 'reader', 'openqa'] as const) {
    test(kind, async () => {
      const from = fixture(kind === 'openqa' ? 'openqa-parts' : kind);
      const folder = join(root, `ours-${kind}`);
      await exportKind(kind, started(kind, from), folder, fixture(kind));
      const outputs = bothOutputs(kind, started(kind, folder), fixture(kind));
      for (const [name, ours, theirs] of outputs) assertClose(ours, theirs, name);
      const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
      assert.equal(config.model_type, 'realm');
      if (kind !== 'openqa') return;
      const records = [...readBlockRecords(join(folder, 'block_records.npy'))].map(({ text }) => text);
      assert.deepEqual(
        records,
        Array.from({ length: 7 }, (_, i) => `word${i} word${i + 1}`),
      );
      const { tensors, close } = openWeights(folder);
      // Blocks; two encoders of a layer, with masked-LM heads; projection; span scorer.
      assert.equal(tensors.size, 1 + 2 * (7 + 16 + 7) + 4 + 6);
      close();
    });
  }

  test('a temperature goes into the vectors: their products are divided by it', async () => {
    const folder = join(root, 'warm');
    await exportKind(
      'shared-scorer',
      started('shared-scorer', fixture('shared-scorer'), 'model.temperature=4'),
      folder,
      fixture('shared-scorer'),
    );
    const outputs = bothOutputs('shared-scorer', started('shared-scorer', folder), fixture('shared-scorer'));
    const [, scores, theirs] = outputs.find(([name]) => name === 'scores')!;
    assertClose(
      scores,
      theirs.map((score) => score / 4),
      'scores',
    );
  });
});

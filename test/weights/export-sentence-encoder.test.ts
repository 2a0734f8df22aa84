import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { embedAll, embedderShapes, pairIds, querySequences, textFormat } from '../../src/model/embedder.ts';
import { describeModel, disposeModel, initialise, type Model, setParam } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { vocabularyIn } from '../../src/tokenizer/tokenizer-json.ts';
import { loadWordPiece, type WordPiece } from '../../src/tokenizer/wordpiece.ts';
import {
  exportSentenceEncoder,
  isExportedSentenceEncoder,
} from '../../src/weights/export-sentence-encoder.ts';
import { importBert, readHubConfig } from '../../src/weights/import-bert.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { bertFolder, readSentenceHead } from '../../src/weights/sentence-encoder.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder } from '../support/tiny.ts';

// That sentence-transformers computes the same from such folders: scripts/parity/sentence_transformers.py check.

const root = temporaryFolder('export-sentence-encoder');
const fixtures = join(import.meta.dirname, '../fixtures/sentence-transformers');
const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));
const TEXTS = ['Who built the old bridge?', 'the rivers of the north, old towns and bridges. '.repeat(3)];

before(() => startTestEngine());

/** A folder of sentence-transformers as an embedder with a tower `embedder.`, with settings of the head on top. */
function load(folder: string, ...head: string[]): { model: Model; tokenizer: WordPiece } {
  const { layers, hidden, heads, intermediate, positions, gelu } = readHubConfig(bertFolder(folder));
  const sizes = { layers, hidden, heads, intermediate, positions, gelu, ...readSentenceHead(folder) };
  const config = loadConfig(undefined, [
    ...Object.entries(sizes).map(([name, value]) => `model.${name}=${JSON.stringify(value)}`),
    ...head,
    ...['text.blockTokens=24', 'text.sentenceTokens=16', 'text.questionTokens=24', 'qa.readerTokens=40'],
  ]);
  const tokenizer = loadWordPiece(vocabularyIn(bertFolder(folder)), !folder.includes('cased'));
  const model = describeModel(config.model, tokenizer.size);
  const { params } = importBert(folder, model.embedder);
  initialise(model, embedderShapes('embedder.', model.embedder), random(1), () => params);
  return { model, tokenizer };
}

async function vectors({ model, tokenizer }: ReturnType<typeof load>): Promise<Float32Array> {
  const format = textFormat(tokenizer, model.embedder);
  const queries = TEXTS.map((text) => tokenizer.encode(text).ids);
  return embedAll(model.params, 'embedder.', model.embedder, querySequences(format, queries, 40), 1000);
}

for (const name of readdirSync(fixtures))
  test(`${name}: what is exported is read back as it was`, async () => {
    const from = join(fixtures, name);
    const loaded = load(from);
    const to = join(root, name);
    await exportSentenceEncoder(to, loaded.model, 'embedder.', loaded.tokenizer);
    assert.deepEqual(readSentenceHead(to), readSentenceHead(from));
    assert.equal(isExportedSentenceEncoder(to), true);
    assert.equal(isExportedSentenceEncoder(from), false);
    const again = load(to);
    assert.deepEqual(again.tokenizer.vocabulary, loaded.tokenizer.vocabulary);
    assert.deepEqual(again.model.embedder, loaded.model.embedder);
    assert.deepEqual(await vectors(again), await vectors(loaded));
    // The tokenizer as transformers itself saved it.
    if (existsSync(join(from, 'tokenizer.json')))
      assert.deepEqual(json(to, 'tokenizer.json'), json(from, 'tokenizer.json'));
    for (const { model } of [loaded, again]) disposeModel(model);
  });

test("REALM's head becomes Dense and LayerNorm parts with the same result", async () => {
  for (const eps of [1e-3, 1e-12]) {
    const loaded = load(
      join(fixtures, 'mean-normalize'),
      'model.pooling=pooler',
      'model.projection=6',
      'model.normalize=false',
      `model.projectionLayerNormEps=${eps}`,
    );
    const { model, tokenizer } = loaded;
    const source = random(2);
    for (const [name, size] of [
      ['gain', 1],
      ['bias', 0],
    ] as const)
      setParam(
        model.params,
        `embedder.projection.norm.${name}`,
        [6],
        Float32Array.from({ length: 6 }, () => size + source.float()),
      );
    const to = join(root, `realm-${eps}`);
    await exportSentenceEncoder(to, model, 'embedder.', tokenizer);
    assert.deepEqual(
      json(to, 'modules.json').map(({ path, type }: { path: string; type: string }) => [path, type]),
      [
        ['', 'sentence_transformers.models.Transformer'],
        ['1_Pooling', 'sentence_transformers.models.Pooling'],
        ['2_Dense', 'sentence_transformers.models.Dense'],
        ['3_Dense', 'sentence_transformers.models.Dense'],
        ['4_LayerNorm', 'sentence_transformers.models.LayerNorm'],
      ],
    );
    assert.equal(json(to, '1_Pooling', 'config.json').pooling_mode_cls_token, true);
    assert.deepEqual(json(to, '4_LayerNorm', 'config.json'), { dimension: 6 });
    assert.equal(json(to, 'config_sentence_transformers.json').similarity_fn_name, 'dot');

    // The parts by plain arithmetic, as torch computes them, from the first token's output.
    const first = { ...model.embedder, pooling: 'cls', projection: 'none' } as const;
    const { ids, firstSegment } = {
      ids: TEXTS.map((text) => pairIds(tokenizer, new Int32Array(0), tokenizer.encode(text).ids, 40).ids),
      firstSegment: TEXTS.map(() => 2),
    };
    const outputs = await embedAll(model.params, 'embedder.', first, { ids, firstSegment }, 1000);
    const expected = await embedAll(model.params, 'embedder.', model.embedder, { ids, firstSegment }, 1000);
    const rows = TEXTS.map((_, i) => [...outputs.subarray(16 * i, 16 * (i + 1))]);
    const actual = rows.flatMap((x) =>
      layerNorm(to, '4_LayerNorm', dense(to, '3_Dense', dense(to, '2_Dense', x).map(Math.tanh))),
    );
    assert.equal(actual.length, expected.length);
    actual.forEach((value, i) => {
      assert.ok(Math.abs(value - expected[i]) < 1e-5, `${i}: ${value}, ${expected[i]}`);
    });
    disposeModel(model);
  }
});

function tensorsOf(...path: string[]): (name: string) => Float32Array {
  const { tensors, close } = readSafetensors(join(...path, 'model.safetensors'));
  const all = new Map([...tensors].map(([name, tensor]) => [name, tensor.read()]));
  close();
  return (name) => all.get(name)!;
}

/** torch.nn.Linear: x Wᵀ + b. */
function dense(folder: string, part: string, x: number[]): number[] {
  const tensor = tensorsOf(folder, part);
  const [weight, bias] = [tensor('linear.weight'), tensor('linear.bias')];
  return Array.from(bias, (b, o) => x.reduce((sum, value, i) => sum + value * weight[o * x.length + i], b));
}

/** torch.nn.LayerNorm with its own epsilon. */
function layerNorm(folder: string, part: string, x: number[]): number[] {
  const tensor = tensorsOf(folder, part);
  const [gain, bias] = [tensor('norm.weight'), tensor('norm.bias')];
  const mean = x.reduce((a, b) => a + b) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  return x.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[i] + bias[i]);
}

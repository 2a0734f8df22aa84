/**
 * Our side of scripts/parity/sentence_transformers.py: `npx tsx scripts/parity/sentence_transformers.ts DIR` writes an
 * encoder with random weights for each head, as `realm export --format sentence-transformers` does, and what we compute
 * with it in expected.json, for its `check`.
 */
import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { startEngine } from '../../src/engine.ts';
import { initialValues } from '../../src/model/bert.ts';
import {
  blockSequences,
  embedAll,
  embedderShapes,
  querySequences,
  textFormat,
} from '../../src/model/embedder.ts';
import { isPooler } from '../../src/model/head.ts';
import { describeModel, disposeModel, setParam } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { writeFileAtomic } from '../../src/system/files.ts';
import { SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { exportSentenceEncoder } from '../../src/weights/export-sentence-encoder.ts';

const HEADS: Record<string, string[]> = {
  'mean-normalize': ['pooling=mean', 'normalize=true', 'queryPrefix="query: "', 'documentPrefix="passage: "'],
  'cls-dense-tanh-gelu': [
    'pooling=cls',
    'dense=[{size: 20, activation: tanh}, {size: 12, activation: none}]',
    'gelu=tanh',
    'sequenceTokens=24',
  ],
  'mean-projection': ['pooling=mean', 'projection=10', 'normalize=true'],
  realm: ['pooling=pooler', 'projection=10'],
  'realm-small-epsilon': ['pooling=pooler', 'projection=10', 'projectionLayerNormEps=1e-12'],
};

const WORDS =
  'the a an of river town built in was who when where which old bridge stone north 19 ##th ##s , . ? :';
const letters = [...'abcdefghijklmnopqrstuvwxyz'];
const vocabulary = [
  ...new Set([...SPECIAL_TOKENS, ...WORDS.split(' '), ...letters, ...letters.map((c) => `##${c}`), '人']),
];

const TEXTS = [
  { query: 'Who built the old bridge?' },
  { query: 'When was the town built in the north of which river, and where?' },
  { title: 'The town', body: 'The bridge was built of stone in the 19th century.' },
  { title: 'River', body: 'River' },
  { title: '', body: 'Old stone.' },
  { title: 'Étienne', body: 'built [MASK] bridges, 人' },
];

const root = process.argv[2];
await startEngine('auto');
for (const [name, head] of Object.entries(HEADS)) {
  const sizes = [
    'layers=2',
    'hidden=16',
    'heads=2',
    'intermediate=32',
    'positions=40',
    'gelu=exact',
    'dropout=0',
  ];
  const config = loadConfig(undefined, [
    ...[...sizes, ...head].map((setting) => `model.${setting}`),
    ...['text.blockTokens=24', 'text.sentenceTokens=16', 'text.questionTokens=24', 'qa.readerTokens=40'],
  ]);
  const tokenizer = wordPiece(vocabulary, true);
  const model = describeModel(config.model, tokenizer.size);
  const source = random(1);
  for (const shape of embedderShapes('embedder.', model.embedder)) {
    // Gains and biases as initialised hide errors.
    const noise = initialValues({ ...shape, init: 'normal' }, source);
    const start = initialValues(shape, source);
    setParam(
      model.params,
      shape.name,
      shape.shape,
      start.map((value, i) => value + 15 * noise[i]),
    );
  }
  const folder = join(root, name);
  await exportSentenceEncoder(folder, model, 'embedder.', tokenizer);

  const format = textFormat(tokenizer, model.embedder);
  const ids = (text: string) => tokenizer.encode(text).ids;
  const expected = [];
  for (const text of TEXTS) {
    const sequences =
      'query' in text
        ? querySequences(format, [ids(text.query!)], 40)
        : blockSequences(format, [{ title: ids(text.title), body: ids(text.body) }], 40);
    const vector = await embedAll(model.params, 'embedder.', model.embedder, sequences, 1000);
    const given =
      'query' in text
        ? { query: text.query }
        : {
            document: isPooler(model.embedder.pooling)
              ? [text.title, text.body]
              : `${text.title} ${text.body}`,
          };
    expected.push({ ...given, vector: [...vector] });
  }
  writeFileAtomic(join(folder, 'expected.json'), `${JSON.stringify(expected)}\n`);
  disposeModel(model);
}

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { type Config, loadConfig } from '../../src/config.ts';
import { prepare } from '../../src/corpus/prepare.ts';
import { type Corpus, openCorpus } from '../../src/corpus/store/reader.ts';
import { readDocuments } from '../../src/datasets/documents.ts';
import { describeModel, initialise, type Model, modelShapes, setParam } from '../../src/model/model.ts';
import { random } from '../../src/random.ts';
import { trainVocabulary } from '../../src/tokenizer/train-vocabulary.ts';
import { wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { generateWorld, type World, writeWorld } from '../../src/world/world.ts';

/** Settings of a model and of texts so small that a step takes milliseconds. */
export const TINY = [
  'text.vocabularySize=300',
  'text.blockTokens=64',
  'text.sentenceTokens=40',
  'text.questionTokens=40',
  'model.layers=1',
  'model.hidden=16',
  'model.heads=2',
  'model.intermediate=32',
  'model.positions=112',
  'model.dropout=0',
  'model.projection=8',
  'model.spanHidden=8',
  'model.maxSpanWidth=6',
  'index.dtype=f32',
  'qa.readerTokens=104',
];

export function tinyConfig(...overrides: string[]): Config {
  return loadConfig(undefined, [...TINY, ...overrides]);
}

/** A folder that is removed when the tests of the file are over. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `realm-${name}-`));
  after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A generated world of `documents` documents, written and prepared in `folder`. */
export async function tinyCorpus(
  folder: string,
  { text }: Config,
  { documents = 40, foreign = false } = {},
): Promise<{ corpus: Corpus; world: World }> {
  const world = generateWorld({ seed: 1, documents, heldOut: 0.2 });
  writeWorld(world, folder);
  const path = join(folder, 'documents.jsonl');
  async function* texts() {
    for await (const { title, text } of readDocuments(path)) yield `${title} ${text}`;
  }
  const vocab = wordPiece(
    await trainVocabulary(texts(), text.vocabularySize, text.lowercase ?? true),
    text.lowercase ?? true,
  );
  const dir = join(folder, 'corpus');
  await prepare({
    documents: path,
    sentences: foreign ? join(folder, 'sentences.jsonl') : undefined,
    vocab,
    blockTokens: text.blockTokens,
    queryTokens: text.sentenceTokens,
    dir,
  });
  return { corpus: openCorpus(dir), world };
}

/** A model with random weights, larger than at the start of training so that its outputs differ from input to input. */
export function tinyModel(config: Config, vocabulary: number, seed = 1, scale = 20): Model {
  const model = describeModel(config.model, vocabulary);
  initialise(model, modelShapes(model), random(seed));
  for (const { name, shape, init } of modelShapes(model)) {
    if (init !== 'normal') continue;
    const values = model.params.get(name)!.dataSync() as Float32Array;
    setParam(
      model.params,
      name,
      shape,
      values.map((v) => v * scale),
    );
  }
  return model;
}

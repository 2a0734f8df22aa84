import { join } from 'node:path';
import type { Config } from '../config.ts';
import { writeBlockRecords } from '../datasets/formats/block-records.ts';
import { bertShapes, type Params, type Shape } from '../model/bert.ts';
import { embedderShapes } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import type { Model } from '../model/model.ts';
import { readerShapes } from '../model/reader.ts';
import { makeFolder, writeFileAtomic } from '../system/files.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { normalizerFields } from '../tokenizer/write-tokenizer.ts';
import { hubSizes, hubTensors } from './export-bert.ts';
import { type LargeTensor, type TensorToWrite, writeSafetensors } from './safetensors.ts';

// Folders that the REALM classes of Hugging Face load (transformers 4.57, realm/modeling_realm.py): config.json,
// model.safetensors and the vocabulary. Tensors that a class has and we do not (masked-LM heads that it never uses) are
// written as zeros; otherwise transformers would initialise them randomly and warn.

/** What a model was trained with: its vocabulary, and the settings that transformers stores in addition to the sizes. */
export interface ExportedRun {
  vocab: WordPiece;
  config: Config;
}

/** The blocks that a model answers from: their texts, and their vectors [to - from, P]. */
export interface Blocks {
  count: number;
  text(row: number): string;
  vectors(from: number, to: number): Float32Array;
}

/** Number of blocks whose vectors are in memory at a time while they are written. */
const PIECE = 4096;

/** `RealmEmbedder`: one tower of the retriever. */
export function exportEmbedder(folder: string, model: Model, tower: string, run: ExportedRun): Promise<void> {
  return write(folder, 'RealmEmbedder', model, run, embedderTensors(model, tower));
}

/**
 * `RealmScorer`: both towers. A shared tower is written once, as transformers itself saves it. Two towers are loaded by
 * `RealmScorer.from_pretrained(folder, query_embedder=RealmEmbedder(config))`.
 */
export function exportScorer(folder: string, model: Model, run: ExportedRun): Promise<void> {
  const { queryTower, documentTower } = model;
  const towers = [under('embedder.', embedderTensors(model, documentTower))];
  if (queryTower !== documentTower) towers.push(under('query_embedder.', embedderTensors(model, queryTower)));
  return write(folder, 'RealmScorer', model, run, towers.flat());
}

/** `RealmKnowledgeAugEncoder`: the reader with its masked-LM head; transformers ties its decoder to the word embeddings. */
export function exportEncoder(folder: string, model: Model, run: ExportedRun): Promise<void> {
  const shapes = bertShapes('', model.reader, true);
  const tensors = hubTensors(shapes, 'realm.', valuesOf(model.params, model.readerTower));
  return write(folder, 'RealmKnowledgeAugEncoder', model, run, tensors);
}

/** `RealmReader`: the reader with its span scorer. */
export function exportReader(folder: string, model: Model, run: ExportedRun): Promise<void> {
  return write(folder, 'RealmReader', model, run, readerTensors(model));
}

/**
 * `RealmForOpenQA` with the query tower, the reader and the blocks: their vectors are the tensor `block_emb`, their texts
 * are in block_records.npy, which `RealmRetriever` loads.
 */
export async function exportOpenQa(
  folder: string,
  model: Model,
  run: ExportedRun,
  blocks: Blocks,
): Promise<void> {
  const { count, vectors } = blocks;
  const scale = Math.sqrt(model.temperature);
  async function* pieces() {
    for (let at = 0; at < count; at += PIECE) {
      yield vectors(at, Math.min(count, at + PIECE)).map((value) => value / scale);
    }
  }
  const tensors = [
    ...under('embedder.', embedderTensors(model, model.queryTower)),
    ...under('reader.', readerTensors(model)),
    { name: 'block_emb', shape: [count, vectorLength(model.embedder)], pieces: pieces() },
  ];
  await write(folder, 'RealmForOpenQA', model, run, tensors, { num_block_records: count });
  await writeBlockRecords(join(folder, 'block_records.npy'), count, blocks.text);
}

/** In transformers the retriever's scores are inner products without our temperature: each vector is divided by its root. */
function embedderTensors(model: Model, tower: string): TensorToWrite[] {
  const stored = valuesOf(model.params, tower);
  const scale = Math.sqrt(model.temperature);
  const tensors = hubTensors(embedderShapes('', model.embedder), 'realm.', async (shape) => {
    const values = await stored(shape);
    return shape.name.startsWith('projection.norm.') ? values.map((value) => value / scale) : values;
  });
  return [...tensors, ...unusedHead(model)];
}

function readerTensors(model: Model): TensorToWrite[] {
  const encoder = hubTensors(
    bertShapes('', model.reader, false),
    'realm.',
    valuesOf(model.params, model.readerTower),
  );
  const scorer = hubTensors(readerShapes(model.reader), '', valuesOf(model.params, ''));
  return [...encoder, ...scorer, ...unusedHead(model)];
}

/** A masked-LM head of zeros. */
function unusedHead({ reader }: Model): TensorToWrite[] {
  const { vocabulary, hidden } = reader;
  const head = bertShapes('', reader, true).filter(({ name }) => name.startsWith('mlm.'));
  const decoder = { name: 'cls.predictions.decoder.weight', shape: [vocabulary, hidden] };
  return [
    ...hubTensors(head, '', async ({ shape }) => new Float32Array(shape.reduce((a, b) => a * b, 1))),
    { ...decoder, data: async () => new Float32Array(vocabulary * hidden) },
    {
      name: 'cls.predictions.decoder.bias',
      shape: [vocabulary],
      data: async () => new Float32Array(vocabulary),
    },
  ];
}

/** Values of our parameters. A pooler, which fine-tuning does not save and the reader never uses, may be missing: zeros. */
function valuesOf(params: Params, tower: string): (shape: Shape) => Promise<Float32Array> {
  return async ({ name, shape }) => {
    const tensor = params.get(tower + name);
    if (tensor) return (await fetchValues(tensor))[0];
    if (!name.startsWith('pooler.')) throw new Error(`no parameter named ${tower}${name}`);
    return new Float32Array(shape.reduce((a, b) => a * b, 1));
  };
}

function under(prefix: string, tensors: TensorToWrite[]): TensorToWrite[] {
  return tensors.map((tensor) => ({ ...tensor, name: prefix + tensor.name }));
}

async function write(
  folder: string,
  architecture: string,
  { embedder, reader }: Model,
  { vocab, config }: ExportedRun,
  tensors: (TensorToWrite | LargeTensor)[],
  more: Record<string, number> = {},
): Promise<void> {
  makeFolder(folder);
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  const description = {
    architectures: [architecture],
    model_type: 'realm',
    ...hubSizes(reader),
    retriever_proj_size: embedder.projection,
    span_hidden_size: reader.spanHidden,
    max_span_width: reader.maxSpanWidth,
    reader_layer_norm_eps: reader.spanLayerNormEps,
    num_candidates: config.pretrain.candidates,
    reader_beam_size: config.qa.readerBlocks,
    reader_seq_len: config.qa.readerTokens,
    searcher_beam_size: config.qa.retrieverBlocks,
    ...more,
  };
  const json = (name: string, value: object) =>
    writeFileAtomic(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  json('tokenizer_config.json', { tokenizer_class: 'RealmTokenizer', ...normalizerFields(vocab.settings) });
  writeFileAtomic(join(folder, 'vocab.txt'), vocab.vocabulary.map((piece) => `${piece}\n`).join(''));
  json('config.json', description);
}

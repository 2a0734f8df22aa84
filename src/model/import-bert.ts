import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { readJson } from '../files.ts';
import type { StoredTensor } from '../formats/tensors.ts';
import { type BertConfig, bertShapes, type Shape } from './bert.ts';
import { type EmbedderConfig, embedderShapes } from './embedder.ts';
import { type ReaderConfig, readerShapes } from './reader.ts';
import { readSafetensors } from './safetensors.ts';

/** Sizes of a model to import; the heads of retriever and reader are looked for where their size is given. */
export type ImportConfig = BertConfig &
  Partial<Pick<EmbedderConfig, 'projection'> & Pick<ReaderConfig, 'spanHidden'>>;

export interface ImportedBert {
  /** By our names without prefix (`layer.0.output.kernel`); dense kernels [in, out], row-major. */
  params: Map<string, { shape: number[]; data: Float32Array }>;
  /** Tensors of the file that our model has no place for, such as BERT's next-sentence head. */
  unused: string[];
}

/**
 * Reads a model folder as Hugging Face publishes it, config.json and model.safetensors: a BERT, or the embedder,
 * encoder or reader of its REALM (`BertForPreTraining`, `RealmEmbedder`, `RealmKnowledgeAugEncoder`, `RealmReader`).
 * The encoder must be whole; pooler, masked-LM head, projection and span scorer come along where the file has them.
 * `UserError` when the sizes differ from `config` or a part is incomplete.
 */
export function importBert(folder: string, config: ImportConfig): ImportedBert {
  const file = join(folder, 'model.safetensors');
  const theirs = readHubConfig(folder);
  const describe = (field: string) => `${join(folder, 'config.json')}: ${field} is`;
  if (config.vocabulary !== theirs.vocabulary) {
    throw new UserError(
      `${describe('vocab_size')} ${theirs.vocabulary}, your vocabulary has ${config.vocabulary} word pieces; ` +
        'use the vocab.txt that belongs to this model',
    );
  }
  for (const [key, field] of SIZES) {
    if (config[key] === theirs[key]) continue;
    throw new UserError(
      `${describe(field)} ${theirs[key]}, your configuration has model.${key} ${config[key]}; ` +
        `set model.${key} to ${theirs[key]} or import another model`,
    );
  }
  if (!existsSync(file)) throw new UserError(`${file}: no such file; ${otherFormat(folder)}`);
  return importTensors(file, config);
}

/** Sizes that must agree, ours and the fields of config.json; what else differs shows in the tensors' shapes. */
const SIZES = [
  ['layers', 'num_hidden_layers'],
  ['hidden', 'hidden_size'],
  ['heads', 'num_attention_heads'],
  ['intermediate', 'intermediate_size'],
  ['positions', 'max_position_embeddings'],
] as const;

/** The sizes and choices in a model folder's config.json. */
export function readHubConfig(folder: string): ImportConfig {
  const file = join(folder, 'config.json');
  const json = readJson(
    file,
    'model description',
    'name the folder that holds config.json and model.safetensors',
  );
  if (typeof json !== 'object' || json === null) {
    throw new UserError(`${file}: is not a JSON object; download it again`);
  }
  const fields = json as Record<string, unknown>;
  const size = (field: string): number | undefined => {
    const value = fields[field];
    if (value === undefined) return undefined;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw new UserError(`${file}: ${field} is ${JSON.stringify(value)}, not a size; download it again`);
  };
  const needed = (field: string): number => {
    const value = size(field);
    if (value !== undefined) return value;
    throw new UserError(`${file}: has no ${field}, so it does not describe a BERT; choose a BERT model`);
  };
  const number = (field: string, otherwise: number) =>
    typeof fields[field] === 'number' ? fields[field] : otherwise;

  const activation = fields.hidden_act ?? 'gelu';
  const gelu =
    activation === 'gelu' ? 'exact' : GELU_TANH.includes(activation as string) ? 'tanh' : undefined;
  if (!gelu) {
    throw new UserError(
      `${file}: hidden_act is ${JSON.stringify(activation)}, only gelu and gelu_new can be imported`,
    );
  }
  const segments = size('type_vocab_size') ?? 2;
  if (segments !== 2) {
    throw new UserError(
      `${file}: type_vocab_size is ${segments}, a BERT with 2 segments is needed; choose another model`,
    );
  }
  const positionKind = fields.position_embedding_type ?? 'absolute';
  if (positionKind !== 'absolute') {
    throw new UserError(
      `${file}: position_embedding_type is ${JSON.stringify(positionKind)}, only absolute positions can be imported`,
    );
  }
  return {
    vocabulary: needed('vocab_size'),
    layers: needed('num_hidden_layers'),
    hidden: needed('hidden_size'),
    heads: needed('num_attention_heads'),
    intermediate: needed('intermediate_size'),
    positions: needed('max_position_embeddings'),
    projection: size('retriever_proj_size'),
    spanHidden: size('span_hidden_size'),
    gelu,
    dropout: number('hidden_dropout_prob', 0.1),
    layerNormEps: number('layer_norm_eps', 1e-12),
  };
}

const GELU_TANH = ['gelu_new', 'gelu_pytorch_tanh'];

/** The tensors of one safetensors file with Hugging Face names, as `importBert` gives them. */
export function importTensors(file: string, config: ImportConfig): ImportedBert {
  const { tensors, close } = readSafetensors(file);
  try {
    const prefix = PREFIXES.find((p) => tensors.has(`${p}embeddings.word_embeddings.weight`));
    if (prefix === undefined) {
      const first = [...tensors.keys()].slice(0, 3).join(', ');
      throw new UserError(
        `${file}: has no BERT embeddings under Hugging Face's names (it begins with ${first || 'nothing'}); choose a BERT model`,
      );
    }
    const unused = new Set(tensors.keys());
    const params: ImportedBert['params'] = new Map();
    for (const part of partsOf(config)) {
      if (part.name === 'masked-LM head' && !decoderIsTied(tensors, prefix)) continue;
      const sources = part.shapes.map((shape) => sourcesOf(tensors, prefix, shape.name));
      const missing = sources.flat().filter((name) => !tensors.has(name));
      if (missing.length === sources.flat().length && !part.needed) continue;
      if (missing.length > 0) {
        throw new UserError(
          `${file}: its ${part.name} lacks ${missing.length} tensors, the first ${missing[0]}; download it again or choose a whole model`,
        );
      }
      part.shapes.forEach((shape, i) => {
        params.set(shape.name, { shape: shape.shape, data: convert(file, tensors, sources[i], shape) });
        for (const name of sources[i]) unused.delete(name);
      });
      if (part.name === 'masked-LM head') for (const name of DECODER) unused.delete(name);
    }
    return { params, unused: [...unused] };
  } finally {
    close();
  }
}

/** What stands before the encoder's names: nothing in a bare BertModel. */
const PREFIXES = ['bert.', 'realm.', ''];

/** The masked-LM decoder; in BERT the same tensor as the word embeddings, and its bias that of the head. */
const DECODER = ['cls.predictions.decoder.weight', 'cls.predictions.decoder.bias'];

interface Part {
  name: string;
  shapes: Shape[];
  needed: boolean;
}

function partsOf(config: ImportConfig): Part[] {
  const { projection, spanHidden } = config;
  const among = (shapes: Shape[], pattern: RegExp) => shapes.filter((shape) => pattern.test(shape.name));
  const bert = bertShapes('', config, true);
  const parts: Part[] = [
    { name: 'encoder', shapes: among(bert, /^(embeddings|layer)\./), needed: true },
    { name: 'pooler', shapes: among(bert, /^pooler\./), needed: false },
    { name: 'masked-LM head', shapes: among(bert, /^mlm\./), needed: false },
  ];
  if (projection !== undefined) {
    const shapes = embedderShapes('', { ...config, projection, projectionLayerNormEps: 0 });
    parts.push({ name: 'projection', shapes: among(shapes, /^projection\./), needed: false });
  }
  if (spanHidden !== undefined) {
    const shapes = readerShapes({ ...config, spanHidden, maxSpanWidth: 1, spanLayerNormEps: 0 });
    parts.push({ name: 'span scorer', shapes, needed: false });
  }
  return parts;
}

/** Our module names and theirs; those of the encoder stand behind its prefix. */
const ENCODER_MODULES: Record<string, string[]> = {
  'embeddings.norm': ['embeddings.LayerNorm'],
  'attention.qkv': ['attention.self.query', 'attention.self.key', 'attention.self.value'],
  'attention.output': ['attention.output.dense'],
  'attention.norm': ['attention.output.LayerNorm'],
  intermediate: ['intermediate.dense'],
  output: ['output.dense'],
  'output.norm': ['output.LayerNorm'],
  pooler: ['pooler.dense'],
};
const HEAD_MODULES: Record<string, string> = {
  'mlm.transform': 'cls.predictions.transform.dense',
  'mlm.norm': 'cls.predictions.transform.LayerNorm',
  mlm: 'cls.predictions',
  projection: 'cls.dense',
  'projection.norm': 'cls.LayerNorm',
  'span.hidden': 'qa_outputs.dense_intermediate',
  'span.norm': 'qa_outputs.layer_normalization',
  'span.output': 'qa_outputs.dense_output',
};

/** Hugging Face's names for one of our parameters: three for the fused queries, keys and values, else one. */
export function hubNames(ours: string, prefix = 'bert.'): string[] {
  const table = /^embeddings\.(word|position|segment)$/.exec(ours);
  if (table) {
    const kind = table[1] === 'segment' ? 'token_type' : table[1];
    return [`${prefix}embeddings.${kind}_embeddings.weight`];
  }
  const [, layer, module, leaf] = /^(layer\.\d+\.)?(.+)\.(kernel|gain|bias)$/.exec(ours)!;
  const theirs = HEAD_MODULES[module]
    ? [HEAD_MODULES[module]]
    : ENCODER_MODULES[module].map((name) => `${prefix}${layer ? `encoder.${layer}` : ''}${name}`);
  return theirs.map((m) => `${m}.${leaf === 'bias' ? 'bias' : 'weight'}`);
}

/** The names that this file has; those made from the TensorFlow checkpoints call a norm's gain and bias gamma and beta. */
function sourcesOf(tensors: Map<string, StoredTensor>, prefix: string, ours: string): string[] {
  return hubNames(ours, prefix).map((name) => {
    const old = name.replace(/weight$/, 'gamma').replace(/bias$/, 'beta');
    return tensors.has(old) ? old : name;
  });
}

/**
 * Whether the decoder is the word embeddings. In REALM's embedder and reader it is another tensor, left from
 * initialisation and used by nothing; a masked-LM head of that kind is not imported.
 */
function decoderIsTied(tensors: Map<string, StoredTensor>, prefix: string): boolean {
  const decoder = tensors.get(DECODER[0]);
  if (!decoder) return true;
  const words = tensors.get(`${prefix}embeddings.word_embeddings.weight`)!;
  if (decoder.shape.join() !== words.shape.join()) return false;
  const a = decoder.read();
  return words.read().every((value, i) => value === a[i]);
}

/** One parameter of ours from its sources: linear weights [out, in] are transposed, several laid side by side. */
function convert(
  file: string,
  tensors: Map<string, StoredTensor>,
  sources: string[],
  ours: Shape,
): Float32Array {
  const dense = ours.name.endsWith('.kernel');
  const width = ours.shape[ours.shape.length - 1] / sources.length;
  const expected = dense ? [width, ours.shape[0]] : [...ours.shape.slice(0, -1), width];
  const read = (name: string): Float32Array => {
    const tensor = tensors.get(name)!;
    if (tensor.shape.join() === expected.join()) return tensor.read();
    throw new UserError(
      `${file}: ${name} has the shape [${tensor.shape}], the configuration needs [${expected}]; ` +
        'take config.json and model.safetensors of one and the same model, and its sizes',
    );
  };
  if (!dense && sources.length === 1) return read(sources[0]);
  const rows = dense ? ours.shape[0] : 1;
  const out = new Float32Array(rows * width * sources.length);
  sources.forEach((name, part) => {
    const from = read(name); // [width, rows]
    for (let r = 0; r < rows; r++) {
      const to = (r * sources.length + part) * width;
      for (let c = 0; c < width; c++) out[to + c] = from[c * rows + r];
    }
  });
  return out;
}

function otherFormat(folder: string): string {
  const has = (name: string) => existsSync(join(folder, name));
  if (has('model.safetensors.index.json')) {
    return 'the model lies in several files (model.safetensors.index.json); save it again as one';
  }
  if (has('pytorch_model.bin')) {
    return (
      'pytorch_model.bin is not read, since it may run code; load the model with transformers and ' +
      'save_pretrained(..., safe_serialization=True), or download model.safetensors'
    );
  }
  return 'download model.safetensors beside config.json';
}

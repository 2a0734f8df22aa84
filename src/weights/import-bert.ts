import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { modelFolder } from '../hub/cache.ts';
import { type BertConfig, bertShapes, type Shape } from '../model/bert.ts';
import { type EmbedderConfig, embedderShapes } from '../model/embedder.ts';
import type { ImportedBert, Tower } from '../model/model.ts';
import { type ReaderConfig, readerShapes } from '../model/reader.ts';
import { shown, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';
import { readSafetensors } from './safetensors.ts';
import { bertFolder, denseFolders } from './sentence-encoder.ts';
import type { StoredTensor } from './tensors.ts';
import { checkpointOf, openWeights, type Weights } from './weight-folder.ts';

/** Sizes of a model to import. The heads of retriever and reader are imported only if their size is given. */
export type ImportConfig = BertConfig &
  Partial<
    Pick<EmbedderConfig, 'projection' | 'projectionLayerNormEps' | 'dense'> &
      Pick<ReaderConfig, 'spanHidden' | 'spanLayerNormEps'>
  >;

/**
 * Reads one tower from a model of Hugging Face or Google: a folder, or a name on the Hub (hf:…) that is in the cache. It may
 * be a BERT, or a REALM (`RealmEmbedder`, `RealmScorer`, `RealmKnowledgeAugEncoder`, `RealmReader`, `RealmForOpenQA`).
 * If the folder has both retriever and reader, each of our towers gets its own; else the only encoder is used for any.
 * The encoder must be complete; pooler, masked-LM head, projection and span scorer are imported if the file has them.
 * `UserError` if sizes or choices differ from `config`, or a part is incomplete.
 */
export function importBert(model: string, config: ImportConfig, tower: Tower = 'both'): ImportedBert {
  const whole = modelFolder(model);
  const folder = bertFolder(whole);
  const theirs = describeFolder(folder);
  if (theirs) checkSizes(theirs, config);
  const weights = openWeights(folder);
  try {
    const imported = importTower(weights, baseOf(weights, tower), config);
    if (theirs) checkChoices(theirs, config, imported);
    if (config.dense && tower !== 'reader') importDense(denseFolders(whole), config, imported.params);
    return imported;
  } finally {
    weights.close();
  }
}

/** Whether the reader would get a trained masked-language-model head from this model, as `importBert` reads it. */
export function hasMaskHead(model: string): boolean {
  const weights = openWeights(bertFolder(modelFolder(model)));
  try {
    const { tensors } = weights;
    const base = baseOf(weights, 'reader');
    const prefix = prefixOf(tensors, base);
    if (prefix === undefined) return false;
    const names = sourcesOf(tensors, base, prefix, 'mlm.transform.kernel');
    return names.every((name) => tensors.has(name)) && decoderIsTied(tensors, base, prefix);
  } finally {
    weights.close();
  }
}

/**
 * Reads the dense layers of a sentence encoder's head. A layer without a bias gets one of zeros. Where the folder has other
 * layers than the settings, none is read, and all start at random.
 */
function importDense(folders: readonly string[], config: ImportConfig, params: ImportedBert['params']): void {
  if (folders.length !== config.dense?.length) return;
  let from = config.hidden;
  for (const [i, { size }] of config.dense.entries()) {
    const { path, tensors, close } = openWeights(folders[i]);
    try {
      for (const [name, source, shape] of [
        [`dense.${i}.kernel`, 'linear.weight', [from, size]],
        [`dense.${i}.bias`, 'linear.bias', [size]],
      ] as const) {
        const absent = !tensors.has(source);
        if (absent && source === 'linear.weight')
          throw new UserError(`${path}: has no tensor ${source}; download it again`);
        const ours: Shape = { name, shape: [...shape], init: 'zeros' };
        const data = absent ? new Float32Array(size) : convert(path, tensors, [source], ours);
        params.set(name, { shape: ours.shape, data });
      }
    } finally {
      close();
    }
    from = size;
  }
}

/** The prefix of a tower's names in a file of several towers; empty if there is only one. */
function baseOf({ path, tensors }: Weights, tower: Tower): string {
  const has = (base: string) => prefixOf(tensors, base) !== undefined;
  if (tower === 'reader') return ['reader.', '', 'embedder.'].find(has) ?? '';
  if (tower === 'query' && has('query_embedder.')) return 'query_embedder.';
  if (tower === 'both' && has('query_embedder.') && !sameTensors(tensors, 'query_embedder.', 'embedder.')) {
    throw new UserError(
      `${path}: has two different towers for queries and documents; set model.sharedTowers to false`,
    );
  }
  return ['embedder.', '', 'reader.'].find(has) ?? '';
}

function sameTensors(tensors: Map<string, StoredTensor>, a: string, b: string): boolean {
  return [...tensors].every(([name, tensor]) => {
    if (!name.startsWith(a)) return true;
    const other = tensors.get(b + name.slice(a.length))?.read();
    return other !== undefined && tensor.read().every((value, i) => value === other[i]);
  });
}

/** A model's description, and its file. */
interface Description {
  file: string;
  config: ImportConfig;
}

/** The folder's description. A module of TensorFlow Hub has none: its shapes show everything but the number of heads. */
export function describeFolder(model: string): Description | undefined {
  const folder = bertFolder(model);
  const names = ['config.json', 'bert_config.json'].map((name) => join(folder, name));
  const file = names.find((name) => existsSync(name));
  if (file === undefined && checkpointOf(folder) !== undefined) return undefined;
  return { file: file ?? names[0], config: readHubConfig(folder) };
}

/** Sizes that must agree: our names and the fields of config.json. Other differences show in the tensors' shapes. */
const SIZES = [
  ['layers', 'num_hidden_layers'],
  ['hidden', 'hidden_size'],
  ['heads', 'num_attention_heads'],
  ['intermediate', 'intermediate_size'],
  ['positions', 'max_position_embeddings'],
] as const;

function checkSizes({ file, config: theirs }: Description, config: ImportConfig): void {
  // More rows than word pieces are common: the number of rows was rounded up.
  if (config.vocabulary > theirs.vocabulary) {
    throw new UserError(
      `${file}: vocab_size is ${theirs.vocabulary}, but your vocabulary has ${config.vocabulary} word pieces; ` +
        'use the vocab.txt that belongs to this model',
    );
  }
  const found = sizeMisfits(theirs, config);
  if (found.length > 0) throw new UserError(`${file}: ${found.join('; ')}; or import another model`);
}

type Sizes = Record<(typeof SIZES)[number][0], number>;

function sizeMisfits(theirs: Sizes, ours: Sizes): string[] {
  return SIZES.filter(([key]) => ours[key] !== theirs[key]).map(
    ([key, field]) =>
      `${field} is ${theirs[key]}, your configuration has model.${key} ${ours[key]}; set model.${key} to ${theirs[key]}`,
  );
}

/** The differences between an encoder's description and the settings under model, each with the value to set. */
export function misfits(
  theirs: ImportConfig,
  ours: Sizes & Pick<BertConfig, 'gelu' | 'layerNormEps'>,
): string[] {
  return [
    ...sizeMisfits(theirs, ours),
    ...CHOICES.filter(([, , part]) => part === '').flatMap(([key, field]) => {
      const [theirValue, ourValue] = [theirs[key], ours[key as 'gelu']];
      if (theirValue === ourValue) return [];
      return [
        `${field} means model.${key} ${theirValue}, your configuration has ${ourValue}; set it to ${theirValue}`,
      ];
    }),
  ];
}

/** Choices that no shape shows, and the part that depends on each. */
const CHOICES = [
  ['gelu', 'hidden_act', ''],
  ['layerNormEps', 'layer_norm_eps', ''],
  ['projectionLayerNormEps', 'layer_norm_eps', 'projection.kernel'],
  ['spanLayerNormEps', 'reader_layer_norm_eps', 'span.output.kernel'],
] as const;

function checkChoices(
  { file, config: theirs }: Description,
  config: ImportConfig,
  { params }: ImportedBert,
): void {
  for (const [key, field, part] of CHOICES) {
    if (part !== '' && !params.has(part)) continue;
    if (config[key] === undefined || config[key] === theirs[key]) continue;
    throw new UserError(
      `${file}: its weights were trained with model.${key} ${theirs[key]} (${field}), your configuration has ${config[key]}; ` +
        `set model.${key} to ${theirs[key]}`,
    );
  }
}

/** The sizes and choices in a model folder's config.json. */
export function readHubConfig(folder: string): ImportConfig {
  const google = join(folder, 'bert_config.json');
  const published = !existsSync(join(folder, 'config.json')) && existsSync(google);
  const file = published ? google : join(folder, 'config.json');
  const json = readJson(file, 'model description', 'name the folder that holds config.json and the weights');
  if (typeof json !== 'object' || json === null) {
    throw new UserError(`${file}: is not a JSON object; download it again`);
  }
  const fields = json as Record<string, unknown>;
  const size = (field: string): number | undefined => {
    const value = fields[field];
    if (value === undefined) return undefined;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw new UserError(`${file}: ${field} is ${shown(value)}, not a size; download it again`);
  };
  const needed = (field: string): number => {
    const value = size(field);
    if (value !== undefined) return value;
    throw new UserError(`${file}: has no ${field}, so it does not describe a BERT; choose a BERT model`);
  };
  const number = (field: string, otherwise: number) =>
    typeof fields[field] === 'number' ? fields[field] : otherwise;

  const activation = fields.hidden_act ?? 'gelu';
  // What Google's own description calls gelu is the tanh form (google-research/bert, modeling.py).
  const tanh = GELU_TANH.includes(activation as string) || (published && activation === 'gelu');
  const gelu = tanh ? 'tanh' : activation === 'gelu' ? 'exact' : undefined;
  if (!gelu) {
    throw new UserError(
      `${file}: hidden_act is ${shown(activation)}, only gelu and gelu_new can be imported`,
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
      `${file}: position_embedding_type is ${shown(positionKind)}, only absolute positions can be imported`,
    );
  }
  const [projection, spanHidden] = [size('retriever_proj_size'), size('span_hidden_size')];
  const layerNormEps = number('layer_norm_eps', 1e-12);
  return {
    vocabulary: needed('vocab_size'),
    layers: needed('num_hidden_layers'),
    hidden: needed('hidden_size'),
    heads: needed('num_attention_heads'),
    intermediate: needed('intermediate_size'),
    positions: needed('max_position_embeddings'),
    projection,
    projectionLayerNormEps: projection === undefined ? undefined : layerNormEps,
    spanHidden,
    spanLayerNormEps: spanHidden === undefined ? undefined : number('reader_layer_norm_eps', 1e-3),
    gelu,
    dropout: number('hidden_dropout_prob', 0.1),
    layerNormEps,
  };
}

const GELU_TANH = ['gelu_new', 'gelu_pytorch_tanh'];

/** The tensors of one safetensors file with Hugging Face names, as `importBert` gives them. */
export function importTensors(file: string, config: ImportConfig): ImportedBert {
  const { tensors, close } = readSafetensors(file);
  try {
    return importTower({ path: file, tensors, close }, '', config);
  } finally {
    close();
  }
}

/** @param base prefix of all names of the tower */
function importTower({ path: file, tensors }: Weights, base: string, config: ImportConfig): ImportedBert {
  const prefix = prefixOf(tensors, base);
  if (prefix === undefined) {
    const first = [...tensors.keys()].slice(0, 3).join(', ');
    throw new UserError(
      `${file}: has no BERT embeddings under Hugging Face's names (its first names: ${first || 'none'}); choose a BERT model`,
    );
  }
  const unused = new Set(tensors.keys());
  const params: ImportedBert['params'] = new Map();
  for (const part of partsOf(config)) {
    if (part.name === 'masked-LM head' && !decoderIsTied(tensors, base, prefix)) continue;
    const sources = part.shapes.map((shape) => sourcesOf(tensors, base, prefix, shape.name));
    const missing = sources.flat().filter((name) => !tensors.has(name));
    if (missing.length === sources.flat().length && !part.needed) continue;
    if (missing.length > 0) {
      throw new UserError(
        `${file}: its ${part.name} lacks ${missing.length} tensors, the first ${missing[0]}; download it again or choose a complete model`,
      );
    }
    part.shapes.forEach((shape, i) => {
      params.set(shape.name, { shape: shape.shape, data: convert(file, tensors, sources[i], shape) });
      for (const name of sources[i]) unused.delete(name);
    });
    if (part.name === 'masked-LM head') for (const name of DECODER) unused.delete(base + name);
  }
  return { params, unused: [...unused] };
}

/** Possible prefixes of the encoder's names; a bare BertModel has none. */
const PREFIXES = [
  'bert.',
  'realm.',
  '',
  // DPR (transformers, dpr/modeling_dpr.py).
  'question_encoder.bert_model.',
  'ctx_encoder.bert_model.',
  'span_predictor.encoder.bert_model.',
];

function prefixOf(tensors: Map<string, StoredTensor>, base: string): string | undefined {
  return PREFIXES.find((prefix) => tensors.has(`${base}${prefix}embeddings.word_embeddings.weight`));
}

/** The masked-LM decoder. In BERT it is the same tensor as the word embeddings, and its bias is that of the head. */
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
  if (projection !== undefined && projection !== 'none') {
    const shapes = embedderShapes('', { ...config, dense: null, projection, projectionLayerNormEps: 0 });
    parts.push({ name: 'projection', shapes: among(shapes, /^projection\./), needed: false });
  }
  if (spanHidden !== undefined) {
    const shapes = readerShapes({ ...config, spanHidden, maxSpanWidth: 1, spanLayerNormEps: 0 });
    parts.push({ name: 'span scorer', shapes, needed: false });
  }
  return parts;
}

/** Our module names and theirs; those of the encoder follow its prefix. */
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

/** The names in this file. Files converted from TensorFlow checkpoints call a norm's gain and bias gamma and beta. */
function sourcesOf(tensors: Map<string, StoredTensor>, base: string, prefix: string, ours: string): string[] {
  return hubNames(ours, prefix).map((plain) => {
    const name = base + plain;
    const old = name.replace(/weight$/, 'gamma').replace(/bias$/, 'beta');
    return tensors.has(old) ? old : name;
  });
}

/**
 * Whether the decoder is the word embeddings. In REALM's embedder and reader it is another tensor, which nothing uses and
 * which still has its initial values; such a masked-LM head is not imported.
 */
function decoderIsTied(tensors: Map<string, StoredTensor>, base: string, prefix: string): boolean {
  const decoder = tensors.get(base + DECODER[0]);
  if (!decoder) return true;
  const words = tensors.get(`${base}${prefix}embeddings.word_embeddings.weight`)!;
  if (decoder.shape.join() !== words.shape.join()) return false;
  const a = decoder.read();
  return words.read().every((value, i) => value === a[i]);
}

/** The values of a tensor, which must be finite floats: any other value would spread through every step of training. */
/** @param size how many of its first values; all where it is not given */
function readWeights(file: string, name: string, tensor: StoredTensor, size?: number): Float32Array {
  if (!/^(F64|F32|F16|BF16)$/.test(tensor.dtype)) {
    throw new UserError(
      `${file}: ${name} is of ${tensor.dtype}, but weights must be floats; download the model again or choose another`,
    );
  }
  const values = size === undefined ? tensor.read() : tensor.read(0, size);
  if (values.every(Number.isFinite)) return values;
  throw new UserError(
    `${file}: ${name} holds values that are not finite; download the model again or choose another`,
  );
}

/** One of our parameters from its sources: linear weights [out, in] are transposed, and several are concatenated. */
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
    if (tensor.shape.join() === expected.join()) return readWeights(file, name, tensor);
    // Rows beyond the vocabulary stand for no word piece.
    const [rows, ...row] = tensor.shape;
    if (
      /^(.*embeddings\.word|.*mlm\.bias)$/.test(ours.name) &&
      rows > expected[0] &&
      row.join() === expected.slice(1).join()
    )
      return readWeights(
        file,
        name,
        tensor,
        expected.reduce((a, b) => a * b),
      );
    throw new UserError(
      `${file}: ${name} has the shape [${tensor.shape}], but the configuration needs [${expected}]; ` +
        'use config.json and weights of the same model, and its sizes in the settings',
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

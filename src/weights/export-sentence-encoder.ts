import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { bertShapes, param } from '../model/bert.ts';
import { isPooler, vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import type { Model } from '../model/model.ts';
import { makeFolder, readJson, writeFileAtomic } from '../system/files.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { writeTokenizer } from '../tokenizer/write-tokenizer.ts';
import { hubSizes, hubTensors } from './export-bert.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';

/** Epsilon of the library's LayerNorm (torch.nn.LayerNorm), which no field of its config.json can change. */
const LAYER_NORM_EPS = 1e-5;

const DESCRIPTION = 'config_sentence_transformers.json';
/** Written where sentence-transformers has its own versions, so that a folder of ours is known. */
const FORMAT = 1;

/** Whether a folder was written by `exportSentenceEncoder`. */
export function isExportedSentenceEncoder(folder: string): boolean {
  const path = join(folder, DESCRIPTION);
  if (!existsSync(path)) return false;
  const json = readJson(path, 'description of a sentence encoder', 'choose another folder') as {
    __version__?: { realm?: unknown };
  } | null;
  return json?.__version__?.realm !== undefined;
}

/** A part of a sentence encoder after its BERT. */
interface Part {
  kind: 'Pooling' | 'Dense' | 'LayerNorm' | 'Normalize';
  /** Its config.json; undefined: it has none. */
  config?: object;
  tensors?: TensorToWrite[];
}

/**
 * Writes one tower of the retriever as a folder that sentence-transformers loads, with the names of versions 2 to 5, which 6
 * reads too. It gives the index's vectors: scores there are not divided by model.temperature.
 *
 * REALM's own head becomes the first token, a Dense with tanh (BERT's pooler), a Dense (the projection) and a LayerNorm. A
 * title and a body are then a pair of texts there; with other poolings they are one text, `title body`.
 */
export async function exportSentenceEncoder(
  folder: string,
  model: Model,
  tower: string,
  tokenizer: WordPiece,
): Promise<void> {
  const { embedder } = model;
  const { pooling, positions, normalize, queryPrefix, documentPrefix } = embedder;
  const pooler = isPooler(pooling);
  const longest = pooler ? positions : Math.min(embedder.sequenceTokens ?? positions, positions);
  const json = (path: string, value: object) =>
    writeFileAtomic(join(folder, path), `${JSON.stringify(value, null, 2)}\n`);

  makeFolder(folder);
  // The pooler is a Dense of its own here, so that BERT has none.
  const shapes = bertShapes('', embedder, false).filter(({ name }) => !name.startsWith('pooler.'));
  const tensors = hubTensors(shapes, '', ({ name }) => values(model, tower + name));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  json('config.json', { architectures: ['BertModel'], model_type: 'bert', ...hubSizes(embedder) });
  json('sentence_bert_config.json', {
    max_seq_length: longest,
    do_lower_case: false, // the tokenizer does it
    model_args: { add_pooling_layer: false },
  });
  writeTokenizer(folder, tokenizer, longest);

  const parts = partsOf(model, tower);
  for (const [i, { kind, config, tensors }] of parts.entries()) {
    const path = `${i + 1}_${kind}`;
    makeFolder(join(folder, path));
    if (config) json(join(path, 'config.json'), config);
    if (tensors) await writeSafetensors(join(folder, path, 'model.safetensors'), tensors, { format: 'pt' });
  }
  json(DESCRIPTION, {
    __version__: { realm: FORMAT },
    prompts: pooler
      ? { query: '', document: '' }
      : { query: queryPrefix ?? '', document: documentPrefix ?? '' },
    default_prompt_name: null,
    similarity_fn_name: normalize ? 'cosine' : 'dot',
  });
  const modules = [
    { path: '', kind: 'Transformer' },
    ...parts.map(({ kind }, i) => ({ path: `${i + 1}_${kind}`, kind })),
  ];
  json(
    'modules.json',
    modules.map(({ path, kind }, i) => ({
      idx: i,
      name: String(i),
      path,
      type: `sentence_transformers.models.${kind}`,
    })),
  );
}

function partsOf(model: Model, tower: string): Part[] {
  const { hidden, pooling, dense, projection, projectionLayerNormEps, normalize } = model.embedder;
  const mean = pooling === 'mean';
  const parts: Part[] = [
    {
      kind: 'Pooling',
      config: {
        word_embedding_dimension: hidden,
        pooling_mode_cls_token: !mean,
        pooling_mode_mean_tokens: mean,
        pooling_mode_max_tokens: false,
        pooling_mode_mean_sqrt_len_tokens: false,
      },
    },
  ];
  let from = hidden;
  const addDense = (name: string, size: number, activation: 'tanh' | 'none', scale = 1) => {
    const [kernel, bias] = ['kernel', 'bias'].map((leaf) => async () => {
      const found = await values(model, `${tower}${name}.${leaf}`);
      return scale === 1 ? found : found.map((value) => value * scale);
    });
    const inputs = from;
    parts.push({
      kind: 'Dense',
      config: {
        in_features: inputs,
        out_features: size,
        bias: true,
        activation_function: `torch.nn.modules.${activation === 'tanh' ? 'activation.Tanh' : 'linear.Identity'}`,
      },
      tensors: [
        {
          name: 'linear.weight',
          shape: [size, inputs],
          data: async () => transposed(await kernel(), inputs, size),
        },
        { name: 'linear.bias', shape: [size], data: bias },
      ],
    });
    from = size;
  };
  if (isPooler(pooling)) addDense('pooler', hidden, 'tanh');
  dense?.forEach(({ size, activation }, i) => {
    addDense(`dense.${i}`, size, activation);
  });
  if (projection !== 'none') {
    // s x normalised with epsilon e is x normalised with e / s².
    addDense('projection', projection, 'none', Math.sqrt(LAYER_NORM_EPS / projectionLayerNormEps));
    const [weight, bias] = ['gain', 'bias'].map(
      (leaf) => () => values(model, `${tower}projection.norm.${leaf}`),
    );
    parts.push({
      kind: 'LayerNorm',
      config: { dimension: vectorLength(model.embedder) },
      tensors: [
        { name: 'norm.weight', shape: [projection], data: weight },
        { name: 'norm.bias', shape: [projection], data: bias },
      ],
    });
  }
  if (normalize) parts.push({ kind: 'Normalize' });
  return parts;
}

async function values(model: Model, name: string): Promise<Float32Array> {
  return (await fetchValues(param(model.params, name)))[0];
}

/** A matrix [rows, columns] as [columns, rows]. */
function transposed(from: Float32Array, rows: number, columns: number): Float32Array {
  const to = new Float32Array(from.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
  return to;
}

import { join } from 'node:path';
import { type BertConfig, bertShapes, type Params, param, type Shape } from '../model/bert.ts';
import { fetchValues } from '../model/host-values.ts';
import { makeFolder, writeFileAtomic } from '../system/files.ts';
import { hubNames } from './import-bert.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';
import { elements } from './tensors.ts';

/**
 * Writes an encoder with its masked-language-model head as Hugging Face publishes a BERT (`BertForMaskedLM`):
 * config.json and model.safetensors. `importBert` and transformers both read it; vocab.txt is the caller's.
 * @param p prefix of the tower, such as `reader.`
 */
export async function exportBert(
  folder: string,
  params: Params,
  p: string,
  config: BertConfig,
): Promise<void> {
  makeFolder(folder);
  const shapes = bertShapes('', config, true);
  const tensors = hubTensors(
    shapes,
    'bert.',
    async ({ name }) => (await fetchValues(param(params, p + name)))[0],
  );
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  const description = { architectures: ['BertForMaskedLM'], model_type: 'bert', ...hubSizes(config) };
  writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(description, null, 2)}\n`);
}

/** An encoder's sizes and choices in the form of config.json. */
export function hubSizes(config: BertConfig) {
  return {
    vocab_size: config.vocabulary,
    hidden_size: config.hidden,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    intermediate_size: config.intermediate,
    max_position_embeddings: config.positions,
    type_vocab_size: 2,
    hidden_act: config.gelu === 'exact' ? 'gelu' : 'gelu_new',
    hidden_dropout_prob: config.dropout,
    attention_probs_dropout_prob: config.dropout,
    layer_norm_eps: config.layerNormEps,
    initializer_range: 0.02,
    pad_token_id: 0,
    position_embedding_type: 'absolute',
  };
}

/**
 * Parameters under Hugging Face's names: dense kernels [in, out] become weights [out, in], and fused ones are split. Values
 * are requested only when they are written.
 * @param prefix of the encoder's names
 * @param values of one of `shapes`
 */
export function hubTensors(
  shapes: readonly Shape[],
  prefix: string,
  values: (shape: Shape) => Promise<Float32Array>,
): TensorToWrite[] {
  return shapes.flatMap((shape) => {
    const names = hubNames(shape.name, prefix);
    const dense = shape.name.endsWith('.kernel');
    const rows = dense ? shape.shape[0] : 1;
    const width = elements(shape.shape) / rows / names.length;
    return names.map((name, part) => ({
      name,
      shape: dense ? [width, rows] : names.length === 1 ? shape.shape : [width],
      data: async () => {
        const from = await values(shape);
        if (!dense) return from.subarray(part * width, (part + 1) * width);
        const data = new Float32Array(width * rows);
        for (let r = 0; r < rows; r++)
          for (let c = 0; c < width; c++) data[c * rows + r] = from[(r * names.length + part) * width + c];
        return data;
      },
    }));
  });
}

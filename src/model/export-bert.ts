import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { type BertConfig, bertShapes, type Params } from './bert.ts';
import { hubNames } from './import-bert.ts';
import { read } from './read.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';

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
  mkdirSync(folder, { recursive: true });
  const shapes = bertShapes('', config, true);
  const values = await read(...shapes.map(({ name }) => params.get(p + name)!));
  const tensors = shapes.flatMap(({ name, shape }, i) => theirTensors(name, shape, values[i]));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  const description = {
    architectures: ['BertForMaskedLM'],
    model_type: 'bert',
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
  writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(description, null, 2)}\n`);
}

/** One parameter under their names: dense kernels [in, out] become weights [out, in], fused ones are taken apart. */
function theirTensors(name: string, shape: number[], values: Float32Array): TensorToWrite[] {
  const names = hubNames(name);
  if (!name.endsWith('.kernel')) {
    const width = values.length / names.length;
    return names.map((theirs, i) => ({
      name: theirs,
      shape: names.length === 1 ? shape : [width],
      data: values.slice(i * width, (i + 1) * width),
    }));
  }
  const [rows, columns] = shape;
  const width = columns / names.length;
  return names.map((theirs, part) => {
    const data = new Float32Array(width * rows);
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < width; c++) data[c * rows + r] = values[r * columns + part * width + c];
    return { name: theirs, shape: [width, rows], data };
  });
}

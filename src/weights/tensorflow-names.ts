import type { StoredTensor } from './tensors.ts';

// Names of variables in the checkpoints of TensorFlow, google-research/bert's and those of google-research/language's
// REALM and ORQA, and the names that Hugging Face gives the same tensors (transformers, realm/modeling_realm.py,
// load_tf_weights_in_realm).

/** The encoder's variables with their prefix: none in BERT, `module/` several times in REALM. */
const ENCODER = /^(.*?)bert\/embeddings\/word_embeddings$/;

/** Modules with a name at Hugging Face that does not follow from their path. */
const READER: Record<string, string> = {
  'reader/module/bert/': 'reader.realm.',
  'reader/module/cls/': 'reader.cls.',
  'reader/dense/': 'reader.qa_outputs.dense_intermediate.',
  'reader/dense_1/': 'reader.qa_outputs.dense_output.',
  'reader/layer_normalization/': 'reader.qa_outputs.layer_normalization.',
};

/**
 * The tensors of a checkpoint under Hugging Face's names, with kernels as weights [out, in]. If there is also a reader, the
 * retriever's tensors start with `embedder.`. Variables without such a name (those of an optimizer) are left out.
 */
export function hubTensors(tensors: Map<string, StoredTensor>): Map<string, StoredTensor> {
  const modules = modulesOf([...tensors.keys()]);
  const found = new Map<string, StoredTensor>();
  for (const [name, tensor] of tensors) {
    if (/\/adam_[mv]$|AdamWeightDecayOptimizer|^global_step$/.test(name)) continue;
    const module = Object.keys(modules).find((begin) => name.startsWith(begin));
    if (module === undefined) continue;
    const kernel = name.endsWith('/kernel') && tensor.shape.length === 2;
    found.set(modules[module] + hubPath(name.slice(module.length)), kernel ? transposed(tensor) : tensor);
  }
  return found;
}

/** The prefix of each module's variables, with Hugging Face's prefix. */
function modulesOf(names: string[]): Record<string, string> {
  const before = names
    .map((name) => ENCODER.exec(name)?.[1])
    .filter((begin) => begin !== undefined && !begin.startsWith('reader/'));
  // One retriever at most; a checkpoint that was tuned has its encoder a `module/` deeper than a pretrained one.
  const encoder = before.sort((a, b) => b!.length - a!.length)[0];
  const modules: Record<string, string> = names.some((name) => name.startsWith('reader/'))
    ? { ...READER }
    : {};
  if (encoder === undefined) return modules;
  const hub = Object.keys(modules).length > 0 ? 'embedder.' : '';
  modules[`${encoder}bert/`] = `${hub}${encoder === '' ? 'bert.' : 'realm.'}`;
  modules[`${encoder}cls/`] = `${hub}cls.`;
  if (encoder !== '') {
    // The projection is next to the module of the encoder.
    const outer = encoder.replace(/module\/$/, '');
    modules[`${outer}dense/`] = `${hub}cls.dense.`;
    modules[`${outer}LayerNorm/`] = `${hub}cls.LayerNorm.`;
  }
  return modules;
}

/** The rest of a name: `layer_3` is one of a list, kernel and gamma are weights, beta and output_bias biases. */
function hubPath(path: string): string {
  return path
    .replaceAll('/', '.')
    .replace(/layer_(\d+)\./, 'layer.$1.')
    .replace(/(_embeddings)$/, '$1.weight')
    .replace(/(kernel|gamma)$/, 'weight')
    .replace(/(beta|output_bias)$/, 'bias');
}

function transposed(tensor: StoredTensor): StoredTensor {
  const [rows, columns] = tensor.shape;
  return {
    ...tensor,
    shape: [columns, rows],
    read(begin = 0, end = rows * columns) {
      const values = tensor.read();
      const out = new Float32Array(end - begin);
      for (let i = begin; i < end; i++) out[i - begin] = values[(i % rows) * columns + Math.floor(i / rows)];
      return out;
    },
  };
}

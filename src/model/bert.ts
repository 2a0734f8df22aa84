import * as tf from '@tensorflow/tfjs';
import {
  type Activation,
  type DenseWeights,
  type Drop,
  fusedDense,
  fusedEmbeddings,
  fusedLogLikelihood,
  fusedNorm,
  hasFused,
  type NormWeights,
  packBf16,
} from '../engine/fused.ts';
import { fusedFeedForward, fusedSelfAttention } from '../engine/fused-layer.ts';
import { type Random, randomFromState } from '../random.ts';

// Letters used in every shape comment of this folder:
// B batch, K candidates, T tokens, H hidden, N heads, D = H/N, F intermediate, P projection,
// S rows of a batch (its tokens), n gathered rows (masks), V vocabulary.

/** Sizes and choices of one BERT encoder (Devlin et al. 2019; google-research/bert, modeling.py). */
export interface BertConfig {
  vocabulary: number;
  layers: number;
  hidden: number;
  heads: number;
  intermediate: number;
  /** Longest sequence that has a learned position. */
  positions: number;
  /** `exact` is x·Φ(x), as in Hugging Face's `gelu`; `tanh` is the approximation of the published BERT code (`gelu_new`). */
  gelu: 'exact' | 'tanh';
  /** Share of units dropped in training, after embeddings, attention weights and each sublayer. */
  dropout: number;
  /** Added to the variance; 1e-12 in published BERT. */
  layerNormEps: number;
  /** In training, keep only each layer's input and recompute the rest for its gradient: less memory, a third more time. */
  recompute?: boolean;
}

/** Every trained tensor by its name, such as `reader.layer.0.attention.qkv.kernel`. Dense kernels are [in, out]. */
export type Params = Map<string, tf.Variable>;
/** The same, read-only. */
export type Weights = ReadonlyMap<string, tf.Tensor>;

/** Rows of B sequences, packed without padding; for engines without our own kernels also the mapping to a padded rectangle and back. */
export interface Rows {
  sequences: number; // B
  /** Number of rows. */
  total: number;
  /** Number of rows of the longest sequence. */
  longest: number;
  /** First row of each sequence, and the end of the last. */
  bounds: tf.Tensor1D; // [B+1] int32
  /** Absent if the rows already form the rectangle [B, longest], or if attention needs none. */
  rectangle?: {
    /** The row of each cell of the rectangle, 0 for padding. */
    rows: tf.Tensor1D; // [B*T] int32
    /** The cell of each row. */
    cells: tf.Tensor1D; // [S] int32
    /** 0 on padding. */
    present: tf.Tensor2D; // [B*T, 1]
  };
}

/** One batch of B sequences: S rows, one per token, without padding. */
export interface EncoderInput extends Rows {
  ids: tf.Tensor1D; // [S] int32
  segments: tf.Tensor1D; // [S] int32
  /** Position of each token in its sequence. */
  positions: tf.Tensor1D; // [S] int32
  /** Tokens of each sequence, without padding. */
  lengths: Int32Array;
  /** The rows of each sequence's first token. */
  starts: Int32Array;
  first: GatheredRows;
  /** 0 on tokens, a large negative number on padding; absent if attention has no padding. */
  bias?: tf.Tensor4D; // [B, 1, 1, T]
}

/** n rows of a batch whose outputs are wanted, in the order of its sequences. */
export interface GatheredRows extends Rows {
  at: tf.Tensor1D; // [n] int32
}

/** Added to the attention score of padding, as google-research/bert does; exp() of it is 0 in float32. */
const PADDING_BIAS = -10000;

export function param(params: Weights, name: string): tf.Tensor {
  const found = params.get(name);
  if (!found) throw new Error(`no parameter named ${name}`);
  return found;
}

/** Follows the name of a kernel whose values are also there in BF16. */
const IN_BF16 = '.bf16';

/**
 * The weights with the kernels of an encoder's layers also in BF16, with which `encode` then multiplies, without gradients.
 * They are copies: later changes of the weights are not in them. `dispose` frees the copies. Only where `hasBf16`.
 */
export function withBf16(
  params: Weights,
  p: string,
  { layers }: BertConfig,
): { weights: Weights; dispose(): void } {
  const packed = new Map<string, tf.Tensor>();
  for (let i = 0; i < layers; i++) {
    for (const part of ['attention.qkv', 'attention.output', 'intermediate', 'output']) {
      const name = `${p}layer.${i}.${part}.kernel`;
      packed.set(name + IN_BF16, packBf16(param(params, name)));
    }
  }
  return {
    weights: new Map([...params, ...packed]),
    dispose: () => tf.dispose([...packed.values()]),
  };
}

/** Sequences that fill this share of their rectangle are padded: that costs less than converting between two layouts. */
const SHARE_TO_PAD = 0.9;

/** @param lengths rows of each sequence; `longest` is their maximum */
function layOut(lengths: readonly number[], longest: number): Rows {
  const B = lengths.length;
  const bounds = new Int32Array(B + 1);
  for (let b = 0; b < B; b++) bounds[b + 1] = bounds[b] + lengths[b];
  const total = bounds[B];
  const rows: Rows = { sequences: B, total, longest, bounds: tf.tensor1d(bounds, 'int32') };
  if (hasFused() || total === B * longest) return rows;
  const from = new Int32Array(B * longest);
  const cells = new Int32Array(total);
  const present = new Float32Array(B * longest);
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < lengths[b]; t++) {
      from[b * longest + t] = bounds[b] + t;
      cells[bounds[b] + t] = b * longest + t;
    }
    present.fill(1, b * longest, b * longest + lengths[b]);
  }
  rows.rectangle = {
    rows: tf.tensor1d(from, 'int32'),
    cells: tf.tensor1d(cells, 'int32'),
    present: tf.tensor2d(present, [B * longest, 1]),
  };
  return rows;
}

/**
 * The encoder's input; `disposeInput` frees it. `sequences[b]` holds the ids of row b, `firstSegment[b]` how many of them
 * belong to segment 0 (the rest belong to segment 1).
 */
export function encoderInput(
  sequences: readonly Int32Array[],
  firstSegment: ArrayLike<number>,
): EncoderInput {
  const B = sequences.length;
  const lengths = sequences.map((s) => s.length);
  const T = Math.max(1, ...lengths);
  const tokens = lengths.reduce((a, b) => a + b, 0);
  const padded = !hasFused() && tokens >= SHARE_TO_PAD * B * T;
  const layout = layOut(padded ? lengths.map(() => T) : lengths, T);
  const S = layout.total;
  const ids = new Int32Array(S); // [PAD] is 0, see WordPiece
  const segments = new Int32Array(S);
  const positions = new Int32Array(S);
  const starts = new Int32Array(B);
  for (let b = 0, row = 0; b < B; b++) {
    const n = lengths[b];
    starts[b] = row;
    ids.set(sequences[b], row);
    segments.fill(1, row + firstSegment[b], row + n);
    for (let t = 0; t < n; t++) positions[row + t] = t;
    row += padded ? T : n;
  }
  let bias: tf.Tensor4D | undefined;
  if (!hasFused()) {
    const values = new Float32Array(B * T).fill(PADDING_BIAS);
    for (let b = 0; b < B; b++) values.fill(0, b * T, b * T + lengths[b]);
    bias = tf.tensor4d(values, [B, 1, 1, T]);
  }
  return {
    ...layout,
    ids: tf.tensor1d(ids, 'int32'),
    segments: tf.tensor1d(segments, 'int32'),
    positions: tf.tensor1d(positions, 'int32'),
    lengths: Int32Array.from(lengths),
    starts,
    first: {
      ...layOut(
        lengths.map(() => 1),
        1,
      ),
      at: tf.tensor1d(starts, 'int32'),
    },
    bias,
  };
}

/** The tokens at `positions[b]` of each sequence b; `disposeInput` frees it. */
export function gatherRows(input: EncoderInput, positions: readonly ArrayLike<number>[]): GatheredRows {
  const lengths = positions.map((p) => p.length);
  const layout = layOut(lengths, Math.max(1, ...lengths));
  const at = new Int32Array(layout.total);
  let n = 0;
  positions.forEach((list, b) => {
    for (let i = 0; i < list.length; i++) at[n++] = input.starts[b] + list[i];
  });
  return { ...layout, at: tf.tensor1d(at, 'int32') };
}

export function disposeInput(input: EncoderInput | GatheredRows): void {
  tf.dispose(input as unknown as tf.TensorContainerObject);
}

/** Rows [S, C] laid out as the rectangle [B*T, C]. Padding repeats row 0, and its gradient must be 0. */
export function spread(x: tf.Tensor2D, { rectangle }: Rows): tf.Tensor2D {
  if (!rectangle) return x;
  const { rows, cells } = rectangle;
  const op = tf.customGrad((x) => ({
    value: tf.gather(x as tf.Tensor, rows),
    gradFunc: (dy: tf.Tensor) => tf.gather(dy, cells), // each row occurs once: no sum over indices
  }));
  return op(x) as tf.Tensor2D;
}

/** The rows [S, C] of a rectangle [B*T, C]. */
function gatherCells(x: tf.Tensor2D, { rectangle }: Rows): tf.Tensor2D {
  if (!rectangle) return x;
  const { rows, cells, present } = rectangle;
  const op = tf.customGrad((x) => ({
    value: tf.gather(x as tf.Tensor, cells),
    gradFunc: (dy: tf.Tensor) => tf.gather(dy, rows).mul(present),
  }));
  return op(x) as tf.Tensor2D;
}

/**
 * The encoder's output: all rows [S, H], or only `outputRows` [n, H].
 *
 * With `outputRows` the last layer computes queries, residual and feed-forward for these rows only; keys and values
 * still come from all tokens, so the result is the same at a fraction of the last layer's cost.
 * @param p prefix of the parameters' names, such as `reader.`
 * @param rng makes the dropout masks; without it (inference) nothing is dropped
 */
export function encode(
  params: Weights,
  p: string,
  config: BertConfig,
  input: EncoderInput,
  rng?: DropoutRng,
  outputRows?: GatheredRows,
): tf.Tensor2D {
  return tf.tidy(() => {
    const { longest } = input;
    if (longest > config.positions)
      throw new Error(
        `a sequence of ${longest} tokens is longer than the model's ${config.positions} positions`,
      );
    let x = dropout(embed(params, p, config, input), rng); // [S, H]
    for (let i = 0; i < config.layers; i++) {
      const name = `${p}layer.${i}.`;
      const pass = { input, rng, outputRows: i === config.layers - 1 ? outputRows : undefined };
      const run = (weights: Weights, x: tf.Tensor2D) => tf.tidy(() => layer(weights, name, config, x, pass));
      x = config.recompute ? recomputed(params, name, x, rng, run) : run(params, x);
    }
    return x;
  });
}

/**
 * The same output as `run(params, x)` with the same gradients, but without keeping intermediate tensors for them: they
 * are recomputed, with the same dropout, for the gradient (Chen et al. 2016, arXiv 1604.06174).
 * @param prefix of the names of all parameters that `run` uses
 */
function recomputed(
  params: Weights,
  prefix: string,
  x: tf.Tensor2D,
  rng: DropoutRng | undefined,
  run: (weights: Weights, x: tf.Tensor2D) => tf.Tensor2D,
): tf.Tensor2D {
  const names = [...params.keys()].filter((name) => name.startsWith(prefix));
  const start = rng?.random.state();
  const op = tf.customGrad((...all) => {
    const save = all.pop() as tf.GradSaveFunc;
    const [x] = all as tf.Tensor[];
    save([x]);
    return {
      value: run(params, x as tf.Tensor2D),
      gradFunc: (dy: tf.Tensor, [x]: tf.Tensor[]) => {
        const after = rng?.random;
        if (rng) rng.random = randomFromState(start!);
        const again = tf.grads((x, ...weights) =>
          run(new Map(names.map((name, i) => [name, weights[i]])), x as tf.Tensor2D),
        );
        const gradients = onOwnTape(() => again([x, ...names.map((name) => params.get(name)!)], dy));
        if (rng) rng.random = after!;
        return gradients;
      },
    };
  });
  return op(x, ...names.map((name) => params.get(name)!)) as tf.Tensor2D;
}

/** TensorFlow.js has one tape at a time, and computing a gradient within a gradient would end the outer tape. */
function onOwnTape<T>(work: () => T): T {
  const { state } = tf.engine() as unknown as { state: { activeTape: unknown } };
  const outer = state.activeTape;
  const result = work();
  state.activeTape = outer;
  return result;
}

/** Word, position and segment embeddings, summed and normalised: [S, H]. */
function embed(params: Weights, p: string, config: BertConfig, input: EncoderInput): tf.Tensor2D {
  const H = config.hidden;
  const [word, position, segment] = ['word', 'position', 'segment'].map((name) =>
    param(params, `${p}embeddings.${name}`),
  );
  let sum: tf.Tensor2D;
  if (hasFused()) {
    sum = fusedEmbeddings(word, position, segment, input.ids, input.positions, input.segments);
  } else {
    // With two segments a look-up is the product e0 + s (e1 - e0): its gradient needs no sum over indices.
    const e0 = segment.slice([0, 0], [1, H]);
    const e1 = segment.slice([1, 0], [1, H]);
    const segments = affine(input.segments.toFloat().reshape([-1, 1]), e1.sub(e0), e0.flatten());
    sum = tf.gather(word, input.ids).add(tf.gather(position, input.positions)).add(segments);
  }
  return layerNorm(params, `${p}embeddings.norm.`, sum, config.layerNormEps);
}

/** What every part of a layer needs in addition to weights and activations. */
interface Pass {
  input: EncoderInput;
  rng: DropoutRng | undefined;
  /** The rows that the layer computes; all rows of the input if undefined. */
  outputRows: GatheredRows | undefined;
}

/** One post-LN transformer layer: [S, H] → [S, H], or [n, H] of `outputRows`. */
function layer(params: Weights, p: string, config: BertConfig, x: tf.Tensor2D, pass: Pass): tf.Tensor2D {
  const { gelu, heads, layerNormEps: eps } = config;
  const { rng, outputRows, input } = pass;
  if (hasFused()) {
    const [qkv, output] = ['qkv', 'output'].map((part) => projection(params, `${p}attention.${part}.`));
    const [first, second] = ['intermediate', 'output'].map((part) => projection(params, `${p}${part}.`));
    const end = (part: string) => ({
      norm: normWeights(params, `${p}${part}.norm.`),
      eps,
      drop: dropOf(rng),
    });
    const attention = { heads, bounds: input.bounds, rows: outputRows, drop: dropOf(rng) };
    const y = fusedSelfAttention(x, qkv, output, attention, end('attention'));
    return fusedFeedForward(y, first, second, gelu, end('output'));
  }
  const y = tf.tidy(() => {
    const residual = outputRows ? (tf.gather(x, outputRows.at) as tf.Tensor2D) : x;
    const context = attend(projection(params, `${p}attention.qkv.`), config, x, residual, pass);
    const attended = dense(params, `${p}attention.output.`, context);
    return layerNorm(params, `${p}attention.norm.`, residual.add(dropout(attended, rng)), eps);
  });
  const inner = dense(params, `${p}intermediate.`, y, gelu); // [., F]
  const out = dense(params, `${p}output.`, inner);
  return layerNorm(params, `${p}output.norm.`, y.add(dropout(out, rng)), eps);
}

function projection(params: Weights, p: string): DenseWeights {
  return {
    kernel: param(params, `${p}kernel`),
    bias: param(params, `${p}bias`),
    packed: params.get(`${p}kernel${IN_BF16}`),
  };
}

function normWeights(params: Weights, p: string): NormWeights {
  return { gain: param(params, `${p}gain`), bias: param(params, `${p}bias`) };
}

/**
 * Multi-head self-attention, composed of TensorFlow.js operations on padded rectangles: [S, H], or [n, H] of `outputRows`.
 * @param layer makes queries, keys and values: H columns each of its output
 * @param x [S, H] all rows: keys and values
 * @param queryRows the rows that attend: x, or `outputRows` of it
 */
function attend(
  { kernel, bias }: DenseWeights,
  { hidden: H, heads: N }: BertConfig,
  x: tf.Tensor2D,
  queryRows: tf.Tensor2D,
  { input, rng, outputRows }: Pass,
): tf.Tensor2D {
  const { sequences: B, longest: T } = input;
  const D = H / N;
  let q: tf.Tensor; // [B, N, T or M, D]
  let k: tf.Tensor; // [B, N, T, D]
  let v: tf.Tensor;
  if (outputRows) {
    const queries = affine(queryRows, kernel.slice([0, 0], [H, H]), bias.slice([0], [H]));
    q = spread(queries, outputRows).reshape([B, outputRows.longest, N, D]).transpose([0, 2, 1, 3]);
    const kv = affine(x, kernel.slice([0, H], [H, 2 * H]), bias.slice([H], [2 * H]));
    [k, v] = tf.unstack(spread(kv, input).reshape([B, T, 2, N, D]).transpose([2, 0, 3, 1, 4]));
  } else {
    const qkv = affine(x, kernel, bias);
    [q, k, v] = tf.unstack(spread(qkv, input).reshape([B, T, 3, N, D]).transpose([2, 0, 3, 1, 4]));
  }
  const scores = tf.matMul(q.mul(1 / Math.sqrt(D)), k, false, true).add(input.bias!); // [B, N, T or M, T]
  const weights = dropout(tf.softmax(scores), rng);
  const context = tf.matMul(weights, v).transpose([0, 2, 1, 3]).reshape([-1, H]) as tf.Tensor2D;
  return gatherCells(context, outputRows ?? input);
}

/** tanh pooler over the first token's output [B, H] → [B, H]. */
export function pool(params: Weights, p: string, first: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => dense(params, `${p}pooler.`, first, 'tanhUnit'));
}

/** The vectors that the masked-language-model head compares with the word embeddings: outputs [n, H] → [n, H]. */
function transform(params: Weights, p: string, config: BertConfig, outputs: tf.Tensor2D): tf.Tensor2D {
  const inner = dense(params, `${p}mlm.transform.`, outputs, config.gelu);
  return layerNorm(params, `${p}mlm.norm.`, inner, config.layerNormEps);
}

/**
 * Scores of every word piece at the gathered rows; the decoder's weights are the word embeddings:
 * outputs [n, H] → logits [n, V] (google-research/bert, run_pretraining.py, get_masked_lm_output).
 */
export function maskedLanguageModel(
  params: Weights,
  p: string,
  config: BertConfig,
  outputs: tf.Tensor2D,
): tf.Tensor2D {
  return tf.tidy(() => {
    const word = param(params, `${p}embeddings.word`) as tf.Tensor2D;
    return tf
      .matMul(transform(params, p, config, outputs), word, false, true)
      .add(param(params, `${p}mlm.bias`));
  });
}

/** log p of the hidden word pieces under the same head: outputs [n, H], targets [n] int32 → [n]. */
export function logLikelihood(
  params: Weights,
  p: string,
  config: BertConfig,
  outputs: tf.Tensor2D,
  targets: tf.Tensor1D,
): tf.Tensor1D {
  return tf.tidy(() => {
    if (hasFused()) {
      const [word, bias] = ['embeddings.word', 'mlm.bias'].map((name) => param(params, `${p}${name}`));
      return fusedLogLikelihood(transform(params, p, config, outputs), word, bias, targets);
    }
    const logits = maskedLanguageModel(params, p, config, outputs);
    const [n, V] = logits.shape;
    const at = targets.add(tf.range(0, n * V, V, 'int32')).toInt();
    return tf.gather(logits.flatten(), at).sub(logits.logSumExp(1)) as tf.Tensor1D;
  });
}

/** f(x W + b) over rows: [R, in] → [R, out]. */
export function dense(
  params: Weights,
  p: string,
  x: tf.Tensor2D,
  activation: Activation = 'none',
): tf.Tensor2D {
  const layer = projection(params, p);
  const { kernel, bias } = layer;
  if (hasFused()) return fusedDense(x, kernel, bias, activation);
  const y = affine(x, kernel, bias);
  if (activation === 'none') return y;
  return activation === 'tanhUnit' ? y.tanh() : gelu(y, activation);
}

/** x W + b with an explicit gradient: TensorFlow.js's own reshapes every operand, which copies only handles but costs a small kernel each. */
const affine = tf.customGrad((x, kernel, bias, save) => {
  const [input, weights] = [x, kernel] as tf.Tensor2D[];
  (save as tf.GradSaveFunc)([input, weights]);
  return {
    value: tf.matMul(input, weights).add(bias as tf.Tensor),
    gradFunc: (dy: tf.Tensor, [input, weights]: tf.Tensor[]) => [
      tf.matMul(dy, weights, false, true),
      tf.matMul(input, dy, true, false),
      sumRows(dy),
    ],
  };
}) as (x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) => tf.Tensor2D;

/** Column sums [R, N] → [N], as a product with a row of ones: half the time of a reduction over the first axis. */
function sumRows(x: tf.Tensor): tf.Tensor {
  const R = x.shape[0];
  return tf.matMul(tf.ones([1, R]), x).reshape([x.shape[1]!]);
}

/** Layer normalisation over the last axis of [R, H]. */
export function layerNorm(params: Weights, p: string, x: tf.Tensor2D, eps: number): tf.Tensor2D {
  const { gain, bias } = normWeights(params, p);
  return hasFused() ? fusedNorm(x, undefined, gain, bias, eps) : normalise(x, gain, bias, eps);
}

/**
 * The gradient is explicit: with x̂ the normalised input and ĝ = g ∘ dy, dx = (ĝ − mean(ĝ) − x̂ mean(ĝ x̂)) / σ, in a
 * third of the kernels that automatic differentiation needs. Means are products with a column of 1/H, the fastest
 * reduction on every engine.
 */
function normalise(x: tf.Tensor2D, gain: tf.Tensor, bias: tf.Tensor, eps: number): tf.Tensor2D {
  const H = x.shape[1];
  const op = tf.customGrad((x, gain, bias, save) => {
    const input = x as tf.Tensor;
    const average = tf.fill([H, 1], 1 / H);
    // Less the first number before the mean: equal numbers are then 0 exactly. A mean's rounding would leave something
    // that is not small after the division by √eps. The second mean removes the rounding of the first where the first
    // number is an outlier.
    const shifted = input.sub(input.slice([0, 0], [-1, 1]));
    const once = shifted.sub(tf.matMul(shifted, average));
    const centred = once.sub(tf.matMul(once, average));
    const inverse = tf.matMul(centred.square(), average).add(eps).rsqrt(); // [R, 1]
    const normed = centred.mul(inverse);
    (save as tf.GradSaveFunc)([normed, inverse, gain as tf.Tensor]);
    return {
      value: normed.mul(gain as tf.Tensor).add(bias as tf.Tensor),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        const [normed, inverse, gain] = saved;
        const column = gain.reshape([H, 1]).div(H);
        const products = dy.mul(normed);
        const along = tf.matMul(products, column); // mean(ĝ x̂), [R, 1]
        const dx = dy.mul(gain).sub(normed.mul(along)).sub(tf.matMul(dy, column)).mul(inverse);
        return [dx, sumRows(products), sumRows(dy)];
      },
    };
  });
  return op(x, gain, bias) as tf.Tensor2D;
}

/** Gaussian error linear unit with an explicit gradient. */
export function gelu<T extends tf.Tensor>(x: T, kind: BertConfig['gelu']): T {
  return (kind === 'exact' ? geluExact(x) : geluTanh(x)) as T;
}

/** x Φ(x); derivative Φ(x) + x φ(x). */
const geluExact = tf.customGrad((x, save) => {
  const input = x as tf.Tensor;
  const cdf = input.mul(Math.SQRT1_2).erf().add(1).mul(0.5);
  (save as tf.GradSaveFunc)([input, cdf]);
  return {
    value: input.mul(cdf),
    gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
      const [x, cdf] = saved;
      const density = x
        .square()
        .mul(-0.5)
        .exp()
        .mul(1 / Math.sqrt(2 * Math.PI));
      return dy.mul(cdf.add(x.mul(density)));
    },
  };
});

/** ½ x (1 + tanh u) = x s with s the sigmoid of 2u, u = √(2/π) (x + 0.044715 x³); derivative s + x s (1 − s) 2u′. */
const geluTanh = tf.customGrad((x, save) => {
  const input = x as tf.Tensor;
  const c = 2 * Math.sqrt(2 / Math.PI);
  const square = input.square();
  const s = square
    .mul(c * 0.044715)
    .add(c)
    .mul(input)
    .sigmoid();
  (save as tf.GradSaveFunc)([input, square, s]);
  return {
    value: input.mul(s),
    gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
      const [x, square, s] = saved;
      const slope = square.mul(3 * c * 0.044715).add(c); // 2u′
      return slope.mul(x).mul(s.sub(s.square())).add(s).mul(dy);
    },
  };
});

/** A generator of dropout masks that can be replayed from its state. */
export interface DropoutRng {
  rate: number;
  /** Random numbers for the next masks; each step, and each replayed pass, sets its own. */
  random: Random;
  /** A mask of `shape`: 0 with probability `rate`, else 1 / (1 − rate). */
  mask(shape: number[]): tf.Tensor;
  dispose(): void;
}

/** Numbers in the pool of which dropout masks are slices. */
const POOL_NUMBERS = 1 << 22;

/**
 * Masks are slices, at random offsets, of one pool of random keep-or-drop numbers made at the start. Drawing every
 * mask separately would cost a JavaScript loop over every activation, since tfjs draws random numbers on the host.
 */
export function dropoutRng(rate: number, random: Random): DropoutRng | undefined {
  if (rate === 0) return undefined;
  const host = new Float32Array(POOL_NUMBERS);
  const keep = 1 / (1 - rate);
  const own = random.fork();
  for (let i = 0; i < POOL_NUMBERS; i++) host[i] = own.float() < rate ? 0 : keep;
  const pool = tf.keep(tf.tensor1d(host));
  const rng: DropoutRng = {
    rate,
    random,
    mask(shape) {
      const size = shape.reduce((a, b) => a * b, 1);
      const parts: tf.Tensor1D[] = [];
      for (let left = size; left > 0; ) {
        const n = Math.min(left, POOL_NUMBERS >> 1);
        parts.push(pool.slice([rng.random.int(POOL_NUMBERS - n + 1)], [n]));
        left -= n;
      }
      return (parts.length === 1 ? parts[0] : tf.concat(parts)).reshape(shape);
    },
    dispose: () => pool.dispose(),
  };
  return rng;
}

/** Dropout for a fused kernel. */
function dropOf(rng: DropoutRng | undefined): Drop | undefined {
  return rng && { rate: rng.rate, seed: rng.random.int(2 ** 31) };
}

export function dropout<T extends tf.Tensor>(x: T, rng: DropoutRng | undefined): T {
  return rng ? (x.mul(rng.mask(x.shape)) as T) : x;
}

/** Initial values of one tensor: `normal` is the truncated normal of standard deviation 0.02 that BERT uses. */
export interface Shape {
  name: string;
  shape: number[];
  init: 'normal' | 'zeros' | 'ones';
}

/** Names and shapes of an encoder under prefix `p`, with its pooler and, when `mlm`, its masked-language-model head. */
export function bertShapes(p: string, c: BertConfig, mlm: boolean): Shape[] {
  const H = c.hidden;
  const F = c.intermediate;
  const shapes: Shape[] = [
    { name: `${p}embeddings.word`, shape: [c.vocabulary, H], init: 'normal' },
    { name: `${p}embeddings.position`, shape: [c.positions, H], init: 'normal' },
    { name: `${p}embeddings.segment`, shape: [2, H], init: 'normal' },
    ...normShapes(`${p}embeddings.norm.`, H),
  ];
  for (let i = 0; i < c.layers; i++) {
    const l = `${p}layer.${i}.`;
    shapes.push(
      ...denseShapes(`${l}attention.qkv.`, H, 3 * H),
      ...denseShapes(`${l}attention.output.`, H, H),
      ...normShapes(`${l}attention.norm.`, H),
      ...denseShapes(`${l}intermediate.`, H, F),
      ...denseShapes(`${l}output.`, F, H),
      ...normShapes(`${l}output.norm.`, H),
    );
  }
  shapes.push(...denseShapes(`${p}pooler.`, H, H));
  if (mlm) {
    shapes.push(...denseShapes(`${p}mlm.transform.`, H, H), ...normShapes(`${p}mlm.norm.`, H), {
      name: `${p}mlm.bias`,
      shape: [c.vocabulary],
      init: 'zeros',
    });
  }
  return shapes;
}

export function denseShapes(p: string, from: number, to: number): Shape[] {
  return [
    { name: `${p}kernel`, shape: [from, to], init: 'normal' },
    { name: `${p}bias`, shape: [to], init: 'zeros' },
  ];
}

export function normShapes(p: string, size: number): Shape[] {
  return [
    { name: `${p}gain`, shape: [size], init: 'ones' },
    { name: `${p}bias`, shape: [size], init: 'zeros' },
  ];
}

/** Standard deviation of BERT's initial weights (`initializer_range`). */
const INITIAL_DEVIATION = 0.02;

/** Values for a new tensor. The normal is truncated at two standard deviations, as tf.truncated_normal does. */
export function initialValues(shape: Shape, random: Random): Float32Array {
  const size = shape.shape.reduce((a, b) => a * b, 1);
  const values = new Float32Array(size);
  if (shape.init === 'ones') values.fill(1);
  if (shape.init === 'normal')
    for (let i = 0; i < size; i++) values[i] = INITIAL_DEVIATION * truncatedNormal(random);
  return values;
}

function truncatedNormal(random: Random): number {
  for (;;) {
    // Box-Muller; 1 - float() is never 0.
    const z = Math.sqrt(-2 * Math.log(1 - random.float())) * Math.cos(2 * Math.PI * random.float());
    if (Math.abs(z) <= 2) return z;
  }
}

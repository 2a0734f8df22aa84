import * as tf from '@tensorflow/tfjs';
import type { Random } from '../random.ts';

// Letters used in every shape comment of this folder:
// B batch, K candidates, T tokens, H hidden, N heads, D = H/N, F intermediate, P projection,
// M positions read out of each sequence (masks), V vocabulary.

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
  /** Share of units dropped after embeddings, attention weights and each sublayer while training. */
  dropout: number;
  /** Added to the variance; 1e-12 in published BERT. */
  layerNormEps: number;
}

/** Every trained tensor by its name, such as `reader.layer.0.attention.qkv.kernel`. Dense kernels are [in, out]. */
export type Params = Map<string, tf.Variable>;

/**
 * One batch of B sequences, laid end to end: S rows, one a token, without padding. Only attention needs the rectangle
 * [B, T] of the longest sequence: `rectangle` leads there and back.
 */
export interface EncoderInput {
  ids: tf.Tensor1D; // [S] int32
  segments: tf.Tensor2D; // [S, 1]
  /** Position of each token in its sequence. */
  places: tf.Tensor1D; // [S] int32
  /** Row of each sequence's first token. */
  starts: tf.Tensor2D; // [B, 1] int32
  /** 0 on tokens, a large negative number on padding. */
  bias: tf.Tensor4D; // [B, 1, 1, T]
  /** Absent where the rows are the rectangle already. */
  rectangle?: {
    /** For each place of the rectangle its row, 0 for padding. */
    rows: tf.Tensor1D; // [B*T] int32
    /** For each row its place in the rectangle. */
    cells: tf.Tensor1D; // [S] int32
    /** 0 on padding. */
    present: tf.Tensor2D; // [B*T, 1]
  };
}

/** Added to the attention score of padding, as google-research/bert does; exp() of it is 0 in float32. */
const PADDING_BIAS = -10000;

export function param(params: Params, name: string): tf.Variable {
  const found = params.get(name);
  if (!found) throw new Error(`no parameter named ${name}`);
  return found;
}

/** Sequences that fill this much of their rectangle are padded after all: that costs less than two ways of laying out rows. */
const FULL = 0.9;

/**
 * The encoder's input; `disposeInput` frees it. `sequences[b]` holds the ids of row b, `firstSegment[b]` how many of them
 * belong to segment 0 (the rest is segment 1).
 */
export function encoderInput(
  sequences: readonly Int32Array[],
  firstSegment: ArrayLike<number>,
): EncoderInput {
  const B = sequences.length;
  let T = 1;
  let tokens = 0;
  for (const s of sequences) {
    T = Math.max(T, s.length);
    tokens += s.length;
  }
  const packed = tokens < FULL * B * T;
  const S = packed ? tokens : B * T;
  const ids = new Int32Array(S); // [PAD] is 0, see WordPiece
  const segments = new Float32Array(S);
  const places = new Int32Array(S);
  const starts = new Int32Array(B);
  const bias = new Float32Array(B * T).fill(PADDING_BIAS);
  const rows = new Int32Array(packed ? B * T : 0);
  const cells = new Int32Array(packed ? S : 0);
  for (let b = 0, row = 0; b < B; b++) {
    const n = sequences[b].length;
    starts[b] = row;
    ids.set(sequences[b], row);
    segments.fill(1, row + firstSegment[b], row + n);
    bias.fill(0, b * T, b * T + n);
    for (let t = 0; t < n; t++) places[row + t] = t;
    if (packed) {
      for (let t = 0; t < n; t++) {
        rows[b * T + t] = row + t;
        cells[row + t] = b * T + t;
      }
    }
    row += packed ? n : T;
  }
  return {
    ids: tf.tensor1d(ids, 'int32'),
    segments: tf.tensor2d(segments, [S, 1]),
    places: tf.tensor1d(places, 'int32'),
    starts: tf.tensor2d(starts, [B, 1], 'int32'),
    bias: tf.tensor4d(bias, [B, 1, 1, T]),
    rectangle: packed
      ? {
          rows: tf.tensor1d(rows, 'int32'),
          cells: tf.tensor1d(cells, 'int32'),
          present: tf.tensor2d(
            bias.map((x) => (x === 0 ? 1 : 0)),
            [B * T, 1],
          ),
        }
      : undefined,
  };
}

export function inputTensors({ rectangle, ...input }: EncoderInput): tf.Tensor[] {
  return [...Object.values(input), ...Object.values(rectangle ?? {})];
}

export function disposeInput(input: EncoderInput): void {
  tf.dispose(inputTensors(input));
}

/** Rows [S, C] laid out as the rectangle [B*T, C]. Padding repeats row 0, and its gradient must be 0. */
function spread(x: tf.Tensor2D, { rectangle }: EncoderInput): tf.Tensor2D {
  if (!rectangle) return x;
  const { rows, cells } = rectangle;
  const op = tf.customGrad((x) => ({
    value: tf.gather(x as tf.Tensor, rows),
    gradFunc: (dy: tf.Tensor) => tf.gather(dy, cells), // each row once: no sum over indices
  }));
  return op(x) as tf.Tensor2D;
}

/** The rows [S, C] of a rectangle [B*T, C]. */
function gatherCells(x: tf.Tensor2D, { rectangle }: EncoderInput): tf.Tensor2D {
  if (!rectangle) return x;
  const { rows, cells, present } = rectangle;
  const op = tf.customGrad((x) => ({
    value: tf.gather(x as tf.Tensor, cells),
    gradFunc: (dy: tf.Tensor) => tf.gather(dy, rows).mul(present),
  }));
  return op(x) as tf.Tensor2D;
}

/**
 * The encoder's output: whole sequences [B, T, H], 0 on padding, or with `positions` [B, M] (int32) only those tokens
 * [B, M, H].
 *
 * With `positions` the last layer computes queries, residual and feed-forward for these tokens alone; keys and values
 * still come from all tokens, so the result is the same and the last layer costs a fraction.
 * @param p prefix of the parameters' names, such as `reader.`
 * @param noise dropout masks; without it (inference) nothing is dropped
 */
export function encode(
  params: Params,
  p: string,
  config: BertConfig,
  input: EncoderInput,
  noise?: Noise,
  positions?: tf.Tensor2D,
): tf.Tensor3D {
  return tf.tidy(() => {
    const [B, , , T] = input.bias.shape;
    const H = config.hidden;
    if (T > config.positions)
      throw new Error(`a sequence of ${T} tokens is longer than the model's ${config.positions} positions`);
    let x = dropout(embed(params, p, config, input), noise); // [S, H]
    for (let i = 0; i < config.layers; i++) {
      const last = i === config.layers - 1;
      x = layer(params, `${p}layer.${i}.`, config, x, input, noise, last ? positions : undefined);
    }
    if (!positions && input.rectangle) x = spread(x, input).mul(input.rectangle.present);
    return x.reshape([B, -1, H]) as tf.Tensor3D;
  });
}

/** Word, position and segment embeddings, summed and normalised: [S, H]. */
function embed(params: Params, p: string, config: BertConfig, input: EncoderInput): tf.Tensor2D {
  const H = config.hidden;
  const word = tf.gather(param(params, `${p}embeddings.word`), input.ids); // [S, H]
  const position = tf.gather(param(params, `${p}embeddings.position`), input.places);
  // With two segments a look-up is e0 + s (e1 - e0), a product: its gradient needs no sum over indices.
  const segment = param(params, `${p}embeddings.segment`); // [2, H]
  const e0 = segment.slice([0, 0], [1, H]);
  const e1 = segment.slice([1, 0], [1, H]);
  const segments = affine(input.segments, e1.sub(e0), e0.flatten());
  const sum = word.add(position).add(segments) as tf.Tensor2D;
  return layerNorm(params, `${p}embeddings.norm.`, sum, config.layerNormEps);
}

/** One post-LN transformer layer: [S, H] → [S, H], or [B*M, H] when `positions` [B, M] are asked for. */
function layer(
  params: Params,
  p: string,
  config: BertConfig,
  x: tf.Tensor2D,
  input: EncoderInput,
  noise: Noise | undefined,
  positions: tf.Tensor2D | undefined,
): tf.Tensor2D {
  const { hidden: H, heads: N } = config;
  const D = H / N;
  const { bias } = input;
  const [B, , , T] = bias.shape;
  const kernel = param(params, `${p}attention.qkv.kernel`) as tf.Tensor as tf.Tensor2D; // [H, 3H]
  const qkvBias = param(params, `${p}attention.qkv.bias`) as tf.Tensor as tf.Tensor1D;

  let residual = x;
  let q: tf.Tensor; // [B, N, T or M, D]
  let k: tf.Tensor; // [B, N, T, D]
  let v: tf.Tensor;
  if (positions) {
    residual = tf.gather(x, positions.add(input.starts).flatten().toInt()) as tf.Tensor2D;
    q = affine(residual, kernel.slice([0, 0], [H, H]), qkvBias.slice([0], [H]))
      .reshape([B, -1, N, D])
      .transpose([0, 2, 1, 3]);
    const kv = affine(x, kernel.slice([0, H], [H, 2 * H]), qkvBias.slice([H], [2 * H]));
    [k, v] = tf.unstack(spread(kv, input).reshape([B, T, 2, N, D]).transpose([2, 0, 3, 1, 4]));
  } else {
    const qkv = affine(x, kernel, qkvBias);
    [q, k, v] = tf.unstack(spread(qkv, input).reshape([B, T, 3, N, D]).transpose([2, 0, 3, 1, 4]));
  }
  const scores = tf.matMul(q.mul(1 / Math.sqrt(D)), k, false, true).add(bias); // [B, N, T or M, T]
  const weights = dropout(tf.softmax(scores), noise);
  let context = tf.matMul(weights, v).transpose([0, 2, 1, 3]).reshape([-1, H]) as tf.Tensor2D;
  if (!positions) context = gatherCells(context, input);
  const attended = dropout(dense(params, `${p}attention.output.`, context), noise);
  const y = layerNorm(params, `${p}attention.norm.`, residual.add(attended), config.layerNormEps);

  const inner = gelu(dense(params, `${p}intermediate.`, y), config.gelu); // [., F]
  const out = dropout(dense(params, `${p}output.`, inner), noise);
  return layerNorm(params, `${p}output.norm.`, y.add(out), config.layerNormEps);
}

/** tanh pooler over the first token's output [B, H] → [B, H]. */
export function pool(params: Params, p: string, first: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => dense(params, `${p}pooler.`, first).tanh());
}

/**
 * Scores of every word piece at the positions read out, the decoder tied to the word embeddings:
 * outputs [R, H] → logits [R, V] (google-research/bert, run_pretraining.py, get_masked_lm_output).
 */
export function maskedLanguageModel(
  params: Params,
  p: string,
  config: BertConfig,
  outputs: tf.Tensor2D,
): tf.Tensor2D {
  return tf.tidy(() => {
    const transformed = gelu(dense(params, `${p}mlm.transform.`, outputs), config.gelu);
    const normed = layerNorm(params, `${p}mlm.norm.`, transformed, config.layerNormEps);
    return tf
      .matMul(normed, param(params, `${p}embeddings.word`) as tf.Tensor as tf.Tensor2D, false, true)
      .add(param(params, `${p}mlm.bias`));
  });
}

/** x W + b over rows: [R, in] → [R, out]. */
export function dense(params: Params, p: string, x: tf.Tensor2D): tf.Tensor2D {
  return affine(x, param(params, `${p}kernel`), param(params, `${p}bias`));
}

/** x W + b with its gradient written out: TensorFlow.js's own passes every operand through reshapes, which are copies of handles at the price of a small kernel each. */
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

/** Column sums [R, N] → [N], as a product with a row of ones: twice as fast as a reduction over the first axis. */
function sumRows(x: tf.Tensor): tf.Tensor {
  const R = x.shape[0];
  return tf.matMul(tf.ones([1, R]), x).reshape([x.shape[1]!]);
}

/**
 * Layer normalisation over the last axis of [R, H]. The gradient is written out: with x̂ the normalised input and
 * ĝ = g ∘ dy, dx = (ĝ − mean(ĝ) − x̂ mean(ĝ x̂)) / σ, in a third of the kernels that differentiating op by op needs.
 * Means are products with a column of 1/H, the fastest reduction that every engine has.
 */
export function layerNorm(params: Params, p: string, x: tf.Tensor2D, eps: number): tf.Tensor2D {
  return normalise(x, param(params, `${p}gain`), param(params, `${p}bias`), eps);
}

function normalise(x: tf.Tensor2D, gain: tf.Tensor, bias: tf.Tensor, eps: number): tf.Tensor2D {
  const H = x.shape[1];
  const op = tf.customGrad((x, gain, bias, save) => {
    const input = x as tf.Tensor;
    const average = tf.fill([H, 1], 1 / H);
    const centred = input.sub(tf.matMul(input, average));
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

/** Gaussian error linear unit with its gradient written out. */
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

/** A source of dropout masks that can be replayed from its state. */
export interface Noise {
  rate: number;
  /** Where the next masks come from; each step, and each pass that is replayed, sets its own. */
  random: Random;
  /** A mask of `shape`: 0 with probability `rate`, else 1 / (1 − rate). */
  mask(shape: number[]): tf.Tensor;
  dispose(): void;
}

/** Numbers in the pool that dropout masks are cut from. */
const POOL = 1 << 22;

/**
 * Masks are cut at random places from one pool of random keep-or-drop numbers made at the start: drawing each
 * mask afresh would cost a JavaScript loop over every activation, since tfjs draws random numbers on the host.
 */
export function dropoutNoise(rate: number, random: Random): Noise | undefined {
  if (rate === 0) return undefined;
  const host = new Float32Array(POOL);
  const keep = 1 / (1 - rate);
  const own = random.fork();
  for (let i = 0; i < POOL; i++) host[i] = own.float() < rate ? 0 : keep;
  const pool = tf.keep(tf.tensor1d(host));
  const noise: Noise = {
    rate,
    random,
    mask(shape) {
      const size = shape.reduce((a, b) => a * b, 1);
      const parts: tf.Tensor1D[] = [];
      for (let left = size; left > 0; ) {
        const n = Math.min(left, POOL >> 1);
        parts.push(pool.slice([noise.random.int(POOL - n + 1)], [n]));
        left -= n;
      }
      return (parts.length === 1 ? parts[0] : tf.concat(parts)).reshape(shape);
    },
    dispose: () => pool.dispose(),
  };
  return noise;
}

export function dropout<T extends tf.Tensor>(x: T, noise: Noise | undefined): T {
  return noise ? (x.mul(noise.mask(x.shape)) as T) : x;
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
const INITIAL_SPREAD = 0.02;

/** Values for a new tensor. The normal is cut at two standard deviations, as tf.truncated_normal does. */
export function initialValues(shape: Shape, random: Random): Float32Array {
  const size = shape.shape.reduce((a, b) => a * b, 1);
  const values = new Float32Array(size);
  if (shape.init === 'ones') values.fill(1);
  if (shape.init === 'normal')
    for (let i = 0; i < size; i++) values[i] = INITIAL_SPREAD * truncatedNormal(random);
  return values;
}

function truncatedNormal(random: Random): number {
  for (;;) {
    // Box-Muller; 1 - float() is never 0.
    const z = Math.sqrt(-2 * Math.log(1 - random.float())) * Math.cos(2 * Math.PI * random.float());
    if (Math.abs(z) <= 2) return z;
  }
}

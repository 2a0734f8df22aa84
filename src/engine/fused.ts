import * as tf from '@tensorflow/tfjs';
import { obey } from '../system/stop.ts';

// The kernels of src/engine/native as differentiable functions. Each replaces dozens of operations by one. For engines
// without these kernels, src/model composes the same functions of ordinary operations; tests compare the two.

/** What a dense layer applies to its result. */
export type Activation = 'none' | 'exact' | 'tanh' | 'tanhUnit';

const ACTIVATIONS: Activation[] = ['none', 'exact', 'tanh', 'tanhUnit']; // as numbered in dense.cc

/** Units dropped while training: the same seed drops the same units. */
export interface Drop {
  rate: number;
  seed: number;
}

/** Runs an operation by its name in src/engine/native: its attributes, its inputs, the number of its outputs. */
export type Execute = (
  name: string,
  integers: Record<string, number>,
  numbers: Record<string, number>,
  inputs: tf.Tensor[],
  outputs: number,
) => tf.Tensor[];

/** The kernels of one backend, and inputs that mean "no dropout" and "nothing to add", made once. */
interface Kernels {
  execute: Execute;
  bf16: boolean;
  seed: tf.Tensor;
  nothing: tf.Tensor; // [0]
}

const byBackend = new Map<string, Kernels>();
let wanted = true;

/** Called by src/engine.ts once the active backend can run the operations. @param bf16 also those in BF16 */
export function kernelsAreRegistered(execute: Execute, bf16: boolean): void {
  const seed = tf.keep(tf.scalar(0, 'int32'));
  byBackend.set(tf.getBackend(), { execute, bf16, seed, nothing: tf.keep(tf.zeros([0])) });
}

/** Whether the engine in use has the kernels of this file. */
export function hasFused(): boolean {
  return wanted && byBackend.has(tf.getBackend());
}

/** Whether it also has `packBf16` and `fusedDenseBf16`: it needs a processor with AVX-512 and its BF16 instructions. */
export function hasBf16(): boolean {
  return hasFused() && kernels().bf16;
}

const kernels = () => byBackend.get(tf.getBackend())!;

/** Runs `work` as if the engine had none of these kernels; if it returns a promise, until that is settled. */
export function withoutFused<T>(work: () => T): T {
  const before = wanted;
  const restore = () => {
    wanted = before;
  };
  wanted = false;
  let result: T | undefined;
  try {
    result = work();
  } finally {
    if (!(result instanceof Promise)) restore();
  }
  return result instanceof Promise ? (result.finally(restore) as T) : result;
}

const execute: Execute = (...operation) => {
  obey();
  return kernels().execute(...operation);
};

/** Whether gradients of the current computation will be needed. */
function recording(): boolean {
  return (tf.engine() as unknown as { state: { gradientDepth: number } }).state.gradientDepth > 0;
}

/** A seed is an input: as an attribute, each value would add a kernel to TensorFlow's cache. */
export function seedTensor(drop: Drop | undefined): tf.Tensor {
  return drop ? tf.scalar(drop.seed, 'int32') : kernels().seed;
}

/** Frees the tensors saved for a gradient as soon as it is computed: the tape would hold them until the last gradient. */
function release<T>(kept: tf.Tensor[], gradients: T): T {
  tf.dispose(kept);
  return gradients;
}

export type Save = tf.GradSaveFunc;

/** `tf.customGrad`, without its cost where no gradient will be taken: most of the time of a small kernel. */
export const withGradient: typeof tf.customGrad = (f) => {
  const op = tf.customGrad(f);
  const keepNothing: Save = () => {};
  return (...inputs) => (recording() ? op(...inputs) : tf.tidy(() => f(...inputs, keepNothing).value));
};

/** Weights of a dense layer. */
export interface DenseWeights {
  kernel: tf.Tensor; // [I, O]
  bias: tf.Tensor; // [O]
  /** The kernel in BF16, by `packBf16`, which then is used, without gradients. */
  packed?: tf.Tensor;
}

/** How a dense layer computes: which columns of the kernel, and what follows. */
export interface DenseShape {
  activation: Activation;
  first: number;
  count: number;
}

/** f(x W + b) [R, count]; where a gradient will be taken, also what it needs in addition to x and W. */
export function runDense(
  x: tf.Tensor,
  { kernel, bias, packed }: DenseWeights,
  { activation, first, count }: DenseShape,
): [y: tf.Tensor, inner: tf.Tensor] {
  if (packed) return [fusedDenseBf16(x, packed, bias, activation, first, count), kernels().nothing];
  const attributes = { activation: ACTIVATIONS.indexOf(activation), first, count, keep: recording() ? 1 : 0 };
  const [y, u] = execute('RealmDense', attributes, {}, [x, kernel, bias], 2);
  return [y, activation === 'tanhUnit' ? y : u];
}

/** dx, dW and db. @param plus another gradient of x, which is added */
export function denseGradient(
  dy: tf.Tensor,
  {
    x,
    kernel,
    inner,
    plus = kernels().nothing,
  }: Record<'x' | 'kernel' | 'inner', tf.Tensor> & { plus?: tf.Tensor },
  { activation, first, count }: DenseShape,
): tf.Tensor[] {
  const attributes = { activation: ACTIVATIONS.indexOf(activation), first, count };
  return execute('RealmDenseGrad', attributes, {}, [dy, x, kernel, inner, plus], 3);
}

/** W2 f(x W1 + b1) + b2 [R, O]; where a gradient will be taken, also what it needs in addition to x and the weights. */
export function runFeedForward(
  x: tf.Tensor,
  first: DenseWeights,
  second: DenseWeights,
  activation: Activation,
): [y: tf.Tensor, inner: tf.Tensor] {
  const shape = { activation: ACTIVATIONS.indexOf(activation) };
  if (first.packed && second.packed) {
    const inputs = [x, first.packed, first.bias, second.packed, second.bias];
    return [...execute('RealmFeedForwardBf16', shape, {}, inputs, 1), kernels().nothing] as [
      tf.Tensor,
      tf.Tensor,
    ];
  }
  const inputs = [x, first.kernel, first.bias, second.kernel, second.bias];
  return execute('RealmFeedForward', { ...shape, keep: recording() ? 1 : 0 }, {}, inputs, 2) as [
    tf.Tensor,
    tf.Tensor,
  ];
}

/** dx, dW1, db1, dW2 and db2, of x, of what `runFeedForward` kept, and of another gradient of x, which is added. */
export function feedForwardGradient(
  dy: tf.Tensor,
  [x, inner, plus]: tf.Tensor[],
  [first, second]: tf.Tensor[],
  activation: Activation,
): tf.Tensor[] {
  const attributes = { activation: ACTIVATIONS.indexOf(activation) };
  return execute('RealmFeedForwardGrad', attributes, {}, [dy, x, first, inner, second, plus], 5);
}

/** f(x W + b) of rows: [R, I] → [R, count], W's columns from `first` on (all by default). */
export function fusedDense(
  x: tf.Tensor,
  kernel: tf.Tensor,
  bias: tf.Tensor,
  activation: Activation = 'none',
  first = 0,
  count = kernel.shape[1]! - first,
): tf.Tensor2D {
  const shape = { activation, first, count };
  const op = withGradient((x, kernel, bias, save) => {
    const weights = { kernel: kernel as tf.Tensor, bias: bias as tf.Tensor };
    const [y, inner] = runDense(x as tf.Tensor, weights, shape);
    (save as Save)([x as tf.Tensor, inner]);
    return {
      value: y,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [x, inner] = kept;
        return release(kept, denseGradient(dy, { x, kernel: weights.kernel, inner }, shape));
      },
    };
  });
  return op(x, kernel, bias) as tf.Tensor2D;
}

/** W [I, O] rounded to BF16, in the order in which `fusedDenseBf16` reads it. It does not change with W. */
export function packBf16(kernel: tf.Tensor): tf.Tensor {
  return execute('RealmPackBf16', {}, {}, [kernel], 1)[0];
}

/** As `fusedDense`, with x and W rounded to BF16 and summed as floats; it has no gradient. @param packed W, by `packBf16` */
export function fusedDenseBf16(
  x: tf.Tensor,
  packed: tf.Tensor,
  bias: tf.Tensor,
  activation: Activation = 'none',
  first = 0,
  count = bias.size - first,
): tf.Tensor2D {
  const attributes = { activation: ACTIVATIONS.indexOf(activation), first, count };
  return execute('RealmDenseBf16', attributes, {}, [x, packed, bias], 1)[0] as tf.Tensor2D;
}

/** Weights of a layer norm. */
export interface NormWeights {
  gain: tf.Tensor; // [H]
  bias: tf.Tensor; // [H]
}

/** LayerNorm(residual + dropout(x)), and what its gradient needs. */
export function runNorm(
  x: tf.Tensor,
  residual: tf.Tensor | undefined,
  { gain, bias }: NormWeights,
  eps: number,
  { rate, seed }: { rate: number; seed: tf.Tensor },
): [y: tf.Tensor, z: tf.Tensor, stats: tf.Tensor] {
  const inputs = [x, residual ?? kernels().nothing, gain, bias, seed];
  const [y, z, stats] = execute('RealmNorm', {}, { eps, rate }, inputs, 3);
  return [y, residual ? z : x, stats];
}

/** Gradients of the residual, of x, of gain and bias. One tensor may be the first two. */
export function normGradient(
  dy: tf.Tensor,
  [z, stats, gain]: readonly tf.Tensor[],
  { rate, seed }: { rate: number; seed: tf.Tensor },
): tf.Tensor[] {
  const [dz, dropped, dgain, dbias] = execute('RealmNormGrad', {}, { rate }, [dy, z, stats, gain, seed], 4);
  return [dz, rate > 0 ? dropped : dz, dgain, dbias];
}

/** LayerNorm(residual + dropout(x)) of rows [R, H]. */
export function fusedNorm(
  x: tf.Tensor,
  residual: tf.Tensor | undefined,
  gain: tf.Tensor,
  bias: tf.Tensor,
  eps: number,
  drop?: Drop,
): tf.Tensor2D {
  const rate = drop?.rate ?? 0;
  const op = withGradient((...all) => {
    const save = all.pop() as Save;
    const [x, gain, bias, residual] = all as (tf.Tensor | undefined)[];
    const seed = seedTensor(drop);
    const [y, z, stats] = runNorm(x!, residual, { gain: gain!, bias: bias! }, eps, { rate, seed });
    save([z, stats, seed]);
    return {
      value: y,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [z, stats, seed] = kept;
        const [dz, dx, dgain, dbias] = normGradient(dy, [z, stats, gain!], { rate, seed });
        // One tensor may serve as both gradients: x is computed from the residual, so its gradient is used up first.
        return release(kept, residual ? [dx, dgain, dbias, dz] : [dx, dgain, dbias]);
      },
    };
  });
  return (residual ? op(x, gain, bias, residual) : op(x, gain, bias)) as tf.Tensor2D;
}

/** Which rows of packed sequences attend to which. */
export interface Attending {
  heads: number;
  /** [B + 1] int32: where each sequence's queries start, and where the last one's end; `kBounds` the keys'. */
  qBounds: tf.Tensor;
  kBounds: tf.Tensor;
}

/** softmax(Q Kᵀ / √D) V [queries, H], and the log-sum-exp of each softmax. @param kv undefined: q has queries, keys and values */
export function runAttention(
  q: tf.Tensor,
  kv: tf.Tensor | undefined,
  { heads, qBounds, kBounds }: Attending,
  { rate, seed }: { rate: number; seed: tf.Tensor },
): tf.Tensor[] {
  const shape = { heads, joint: kv ? 0 : 1 };
  return execute('RealmAttention', shape, { rate }, [q, kv ?? q, qBounds, kBounds, seed], 2);
}

/** Gradients of q and of kv, or of q alone. @param results what `runAttention` gave */
export function attentionGradient(
  dy: tf.Tensor,
  [q, kv]: readonly (tf.Tensor | undefined)[],
  results: readonly tf.Tensor[],
  { heads, qBounds, kBounds }: Attending,
  { rate, seed }: { rate: number; seed: tf.Tensor },
): tf.Tensor[] {
  const shape = { heads, joint: kv ? 0 : 1 };
  const inputs = [q!, kv ?? q!, qBounds, kBounds, seed, ...results, dy];
  return execute('RealmAttentionGrad', shape, { rate }, inputs, 2).slice(0, kv ? 2 : 1);
}

/**
 * softmax(Q Kᵀ / √D) V of packed (unpadded) sequences, each token to all tokens of its sequence, by heads: [queries, H].
 * @param q [queries, H], or with no `kv` [rows, 3H]: queries, keys and values
 * @param kv [rows, 2H]
 * @param qBounds [B + 1] int32: where each sequence's queries start, and where the last one's end; `kBounds` the keys'.
 *   Not differentiated; they must live until the gradient is taken.
 */
export function fusedAttention(
  q: tf.Tensor,
  kv: tf.Tensor | undefined,
  qBounds: tf.Tensor,
  kBounds: tf.Tensor,
  heads: number,
  drop?: Drop,
): tf.Tensor2D {
  const attending = { heads, qBounds, kBounds };
  const rate = drop?.rate ?? 0;
  const op = withGradient((...all) => {
    const save = all.pop() as Save;
    const [q, kv] = all as tf.Tensor[];
    const seed = seedTensor(drop);
    const results = runAttention(q, kv, attending, { rate, seed });
    save([seed, ...results, ...(all as tf.Tensor[])]);
    return {
      value: results[0],
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [seed, context, logSums, ...inputs] = kept;
        const results = [context, logSums];
        return release(kept, attentionGradient(dy, inputs, results, attending, { rate, seed }));
      },
    };
  });
  return (kv ? op(q, kv) : op(q)) as tf.Tensor2D;
}

/** word[ids] + position[positions] + segment[segments]: [S, H]; the three lists [S] int32 must live until the gradient is taken. */
export function fusedEmbeddings(
  word: tf.Tensor,
  position: tf.Tensor,
  segment: tf.Tensor,
  ids: tf.Tensor,
  positions: tf.Tensor,
  segments: tf.Tensor,
): tf.Tensor2D {
  const op = withGradient((word, position, segment) => ({
    value: execute(
      'RealmEmbeddings',
      {},
      {},
      [word as tf.Tensor, position as tf.Tensor, segment as tf.Tensor, ids, positions, segments],
      1,
    )[0],
    gradFunc: (dy: tf.Tensor) =>
      execute(
        'RealmEmbeddingsGrad',
        { words: (word as tf.Tensor).shape[0], positionRows: (position as tf.Tensor).shape[0]! },
        {},
        [dy, ids, positions, segments],
        3,
      ),
  }));
  return op(word, position, segment) as tf.Tensor2D;
}

/** log softmax(x wordᵀ + bias) at one target of each row: [n, H] → [n]; `targets` [n] int32 must live until the gradient is taken. */
export function fusedLogLikelihood(
  x: tf.Tensor,
  word: tf.Tensor,
  bias: tf.Tensor,
  targets: tf.Tensor,
): tf.Tensor1D {
  const op = withGradient((x, word, bias, save) => {
    const inputs = [x, word, bias] as tf.Tensor[];
    const [y, logits, logSums] = execute('RealmLogLikelihood', {}, {}, [...inputs, targets], 3);
    (save as Save)([inputs[0], logits, logSums]);
    return {
      value: y,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [x, logits, logSums] = kept;
        const all = [dy, x, inputs[1], targets, logits, logSums];
        return release(kept, execute('RealmLogLikelihoodGrad', {}, {}, all, 3));
      },
    };
  });
  return op(x, word, bias) as tf.Tensor1D;
}

/**
 * −log of the share that the correct ones have of the softmax of scores: [B]; 0 where none is correct.
 * @param scores [B, n]
 * @param correct [B, n] 1 on correct ones
 */
export function fusedAnswerMarginal(scores: tf.Tensor, correct: tf.Tensor): tf.Tensor1D {
  const op = withGradient((scores, save) => {
    const [loss, logs] = execute('RealmAnswerMarginal', {}, {}, [scores as tf.Tensor, correct], 2);
    (save as Save)([scores as tf.Tensor, correct, logs]);
    return {
      value: loss,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        return release(kept, execute('RealmAnswerMarginalGrad', {}, {}, [dy, ...kept], 1));
      },
    };
  });
  return op(scores) as tf.Tensor1D;
}

/** What `fusedDocumentMarginal` needs in addition; must live until the gradient is taken. */
interface Documents {
  candidates: tf.Tensor; // [B, K] int32
  present: tf.Tensor; // [B, K]
  order: tf.Tensor; // [B*K*M] int32
  masks: tf.Tensor; // [B, M]
}

/**
 * log p(y|x) [B] of masked word pieces over the documents that may have told them, with log p(z|x) [B, K] and log p(y_j|z,x)
 * [B, K, M], which have no gradients.
 * @param products [B, U] of queries and documents; divided by the temperature they are f(x, z)
 * @param tokens [n] log p of each masked piece with each document, in any order
 * @param documents the columns of `products`, which of them are there, the number of each mask's token, counted from 1 (0: there is
 *   none), and 1 on masks
 * @param each every masked piece has documents of its own; otherwise they share one
 */
export function fusedDocumentMarginal(
  products: tf.Tensor,
  tokens: tf.Tensor,
  { candidates, present, order, masks }: Documents,
  { temperature, each }: { temperature: number; each: boolean },
): { marginal: tf.Tensor1D; logPrior: tf.Tensor2D; logTokens: tf.Tensor3D } {
  const attributes = [{ each: each ? 1 : 0 }, { temperature }] as const;
  const all = [products, tokens, candidates, present, order, masks];
  const [value, logPrior, logTokens] = execute('RealmDocumentMarginal', ...attributes, all, 3);
  const op = withGradient((products, tokens, save) => {
    (save as Save)([products as tf.Tensor, tokens as tf.Tensor, logPrior, logTokens]);
    return {
      value: value.clone(),
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [products, tokens, logPrior, logTokens] = kept;
        const inputs = [dy, products, tokens, candidates, order, masks, logPrior, logTokens];
        return release(kept, execute('RealmDocumentMarginalGrad', ...attributes, inputs, 2));
      },
    };
  });
  const marginal = op(products, tokens) as tf.Tensor1D;
  value.dispose();
  return { marginal, logPrior: logPrior as tf.Tensor2D, logTokens: logTokens as tf.Tensor3D };
}

/** Rows `at` [n] of x [S, H]: [n, H]. */
export function runRows(x: tf.Tensor, at: tf.Tensor): tf.Tensor {
  return execute('RealmRows', {}, {}, [x, at], 1)[0];
}

/** The gradient of x. @param bounds int32, the last one is S @param plus another gradient of x, which is added */
export function rowsGradient(dy: tf.Tensor, at: tf.Tensor, bounds: tf.Tensor, plus: tf.Tensor): tf.Tensor {
  return execute('RealmRowsGrad', {}, {}, [dy, at, bounds, plus], 1)[0];
}

/** LayerNorm's gain and bias [S], v [S, 1] and c [1]. */
interface SpanWeights {
  gain: tf.Tensor;
  bias: tf.Tensor;
  kernel: tf.Tensor;
  constant: tf.Tensor;
}

/**
 * v · LayerNorm(ReLU(start_i + end_j)) + c of every span inside the blocks: [R, W, T]; `invalid` elsewhere.
 * @param ends [rows, 2S] start and end vectors of each token
 * @param blocks [R, 3] int32: the block's first row in `ends`, its tokens, and where it starts in its sequence; must live
 *   until the gradient is taken
 * @param options W as `width` and T as `length`
 */
export function fusedSpanScores(
  ends: tf.Tensor,
  weights: SpanWeights,
  blocks: tf.Tensor,
  options: { width: number; length: number; eps: number; invalid: number },
): tf.Tensor3D {
  const { gain, bias, kernel, constant } = weights;
  const { width, length, eps, invalid } = options;
  const op = withGradient((...all) => {
    const save = all.pop() as Save;
    const [ends, ...weights] = all as tf.Tensor[];
    save([ends]);
    return {
      value: execute(
        'RealmSpanScores',
        { width, length },
        { eps, invalid },
        [ends, ...weights, blocks],
        1,
      )[0],
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const inputs = [kept[0], ...weights, blocks, dy];
        return release(kept, execute('RealmSpanScoresGrad', { width, length }, { eps }, inputs, 5));
      },
    };
  });
  return op(ends, gain, bias, kernel, constant) as tf.Tensor3D;
}

/**
 * One step of the optimizer, in place, over parallel lists; nothing changes if the gradients' norm is not finite.
 * @param decayed [N] int32, 1 where the weight decays
 * @returns the global norm before clipping
 */
export function fusedAdam(
  rate: number,
  decayed: tf.Tensor,
  lists: { weights: tf.Tensor[]; m: tf.Tensor[]; v: tf.Tensor[]; gradients: tf.Tensor[] },
  config: { beta1: number; beta2: number; epsilon: number; weightDecay: number; clipNorm: number },
): tf.Scalar {
  const { weights, m, v, gradients } = lists;
  return tf.tidy(
    () =>
      execute(
        'RealmAdam',
        { N: 4 * weights.length },
        {
          beta1: config.beta1,
          beta2: config.beta2,
          epsilon: config.epsilon,
          decay: config.weightDecay,
          clip_norm: config.clipNorm,
        },
        [tf.scalar(rate), decayed, ...weights, ...m, ...v, ...gradients],
        1,
      )[0] as tf.Scalar,
  );
}

/** Adds up float tensors over all ranks, in place; only where `Ranks.native` and the native engine computes. */
export function fusedRankSum(tensors: tf.Tensor[]): void {
  tf.dispose(execute('RealmRankSum', { N: tensors.length }, {}, tensors, 1));
}

import * as tf from '@tensorflow/tfjs';
import {
  type Activation,
  attentionGradient,
  type DenseWeights,
  type Drop,
  denseGradient,
  feedForwardGradient,
  type NormWeights,
  normGradient,
  rowsGradient,
  runAttention,
  runDense,
  runFeedForward,
  runNorm,
  runRows,
  type Save,
  seedTensor,
  withGradient,
} from './fused.ts';

// The two halves of a transformer layer, each with one gradient: the gradient of what is both transformed and added again is
// summed by the kernels that compute it, and not by an operation of its own over all rows.

/** The end of both halves: LayerNorm(residual + dropout(x)). */
interface End {
  norm: NormWeights;
  eps: number;
  drop: Drop | undefined;
}

/** Which rows of the packed sequences the layer computes: those `at` [n], of sequences that start at `bounds` [B + 1]; int32. */
interface SomeRows {
  at: tf.Tensor;
  bounds: tf.Tensor;
}

/**
 * LayerNorm(x + dropout(W2 f(W1 x + b1) + b2)) of rows: [R, H] → [R, H] (Devlin et al. 2019; google-research/bert, modeling.py).
 */
export function fusedFeedForward(
  x: tf.Tensor,
  first: DenseWeights,
  second: DenseWeights,
  activation: Activation,
  { norm, eps, drop }: End,
): tf.Tensor2D {
  const rate = drop?.rate ?? 0;
  const op = withGradient((...all) => {
    const save = all.pop() as Save;
    const [x] = all as tf.Tensor[];
    const [out, inner] = runFeedForward(x, first, second, activation);
    const seed = seedTensor(drop);
    const [y, z, stats] = runNorm(out, x, norm, eps, { rate, seed });
    save([x, inner, z, stats, seed]);
    return {
      value: y,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [x, inner, z, stats, seed] = kept;
        const [dz, dout, dgain, dbias] = normGradient(dy, [z, stats, norm.gain], { rate, seed });
        tf.dispose([z, stats, seed]);
        const kernels = [first.kernel, second.kernel];
        const gradients = feedForwardGradient(dout, [x, inner, dz], kernels, activation);
        tf.dispose([dout, dz, x, inner]); // dout can be dz
        return [...gradients, dgain, dbias];
      },
    };
  });
  const weights = [first.kernel, first.bias, second.kernel, second.bias, norm.gain, norm.bias];
  return op(x, ...weights) as tf.Tensor2D;
}

/**
 * LayerNorm(x + dropout(W softmax(Q Kᵀ / √D) V + b)) of packed sequences, by heads: [S, H] → [S, H], or [n, H] of some rows. Their
 * keys and values still come from all rows.
 * @param qkv makes queries, keys and values: H columns each of its result
 * @param bounds [B + 1] int32: where each sequence starts, and where the last one ends; with `rows` it must live until the gradient
 *   is taken
 * @param drop of the attention's weights; `end.drop` of the result
 */
export function fusedSelfAttention(
  x: tf.Tensor,
  qkv: DenseWeights,
  output: DenseWeights,
  {
    heads,
    bounds,
    rows,
    drop,
  }: { heads: number; bounds: tf.Tensor; rows?: SomeRows; drop: Drop | undefined },
  end: End,
): tf.Tensor2D {
  const H = output.bias.size;
  const columns = (first: number, count: number) => ({ activation: 'none' as const, first, count });
  const [queries, others, all] = [columns(0, H), columns(H, 2 * H), columns(0, 3 * H)];
  const outward = columns(0, H);
  const attending = { heads, qBounds: rows?.bounds ?? bounds, kBounds: bounds };
  const weightRate = drop?.rate ?? 0;
  const rate = end.drop?.rate ?? 0;
  const op = withGradient((...inputs) => {
    const save = inputs.pop() as Save;
    const [x] = inputs as tf.Tensor[];
    const residual = rows ? runRows(x, rows.at) : x;
    const [q, none] = runDense(residual, qkv, rows ? queries : all);
    const kv = rows && runDense(x, qkv, others)[0];
    const weightSeed = seedTensor(drop);
    const results = runAttention(q, kv, attending, { rate: weightRate, seed: weightSeed });
    const [out] = runDense(results[0], output, outward);
    const seed = seedTensor(end.drop);
    const [y, z, stats] = runNorm(out, residual, end.norm, end.eps, { rate, seed });
    save([x, q, none, weightSeed, ...results, z, stats, seed, ...(kv ? [kv, residual] : [])]);
    return {
      value: y,
      gradFunc: (dy: tf.Tensor, kept: tf.Tensor[]) => {
        const [x, q, none, weightSeed, context, logSums, z, stats, seed, kv, residual] = kept;
        const [dz, dout, dgain, dbias] = normGradient(dy, [z, stats, end.norm.gain], { rate, seed });
        tf.dispose([z, stats, seed]);
        const last = { x: context, kernel: output.kernel, inner: none };
        const [dcontext, ...doutput] = denseGradient(dout, last, outward);
        if (dout !== dz) dout.dispose();
        const dropped = { rate: weightRate, seed: weightSeed };
        const [dq, dkv] = attentionGradient(dcontext, [q, kv], [context, logSums], attending, dropped);
        tf.dispose([dcontext, context, logSums, q, weightSeed]);
        const ends = [...doutput, dgain, dbias];
        const own = { x: residual ?? x, kernel: qkv.kernel, inner: none, plus: dz };
        const [dresidual, ...dqkv] = denseGradient(dq, own, rows ? queries : all);
        tf.dispose([dq, dz]);
        if (!rows) {
          tf.dispose([x, none]);
          return [dresidual, ...dqkv, ...ends];
        }
        const [dall, ...more] = denseGradient(dkv, { x, kernel: qkv.kernel, inner: none }, others);
        const dx = rowsGradient(dresidual, rows.at, bounds, dall);
        const both = dqkv.map((gradient, i) => gradient.add(more[i]));
        tf.dispose([dresidual, dall, dkv, ...dqkv, ...more, kv, residual, x, none]);
        return [dx, ...both, ...ends];
      },
    };
  });
  const { norm } = end;
  return op(x, qkv.kernel, qkv.bias, output.kernel, output.bias, norm.gain, norm.bias) as tf.Tensor2D;
}

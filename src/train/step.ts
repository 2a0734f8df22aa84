import * as tf from '@tensorflow/tfjs';
import { fusedRankSum, hasFused } from '../engine/fused.ts';
import { meet, type Ranks } from '../engine/ranks.ts';
import { fetchValues } from '../model/host-values.ts';

/**
 * Result of one step: gradients by parameter name (the loop disposes them) and metrics to log; `loss` is shown. Of several
 * ranks, each returns its share: the sums over the ranks are the gradients and metrics of the batch.
 */
export interface StepResult {
  gradients: tf.NamedTensorMap;
  metrics: { loss: number; [name: string]: number };
  /** Metrics that are a ratio of two sums, such as a mean over examples whose number only the step knows. */
  rates?: Record<string, [part: number, whole: number]>;
}

/** Sums gradients over the passes of one batch (gradient accumulation); takes over both maps' tensors. */
export function addGradients(
  total: tf.NamedTensorMap | undefined,
  part: tf.NamedTensorMap,
): tf.NamedTensorMap {
  if (!total) return part;
  for (const [name, gradient] of Object.entries(part)) {
    const held = total[name];
    total[name] = held ? held.add(gradient) : gradient;
    if (held) tf.dispose([held, gradient]);
  }
  return total;
}

/** Sums gradients over all ranks; takes over the tensors. Each rank must have the same ones. */
export async function sumGradients(ranks: Ranks, gradients: tf.NamedTensorMap): Promise<tf.NamedTensorMap> {
  if (ranks.size === 1) return gradients;
  const names = Object.keys(gradients).sort();
  const parts = names.map((name) => gradients[name]);
  if (ranks.native && hasFused() && tf.getBackend() === 'tensorflow') {
    await meet(ranks);
    fusedRankSum(parts);
    return gradients;
  }
  const flat = tf.tidy(() => tf.concat1d(parts.map((part) => part.flatten() as tf.Tensor1D)));
  tf.dispose(parts);
  const values = (await fetchValues(flat))[0] as Float32Array;
  flat.dispose();
  await ranks.sum(values);
  return tf.tidy(() => {
    const sums = tf.split(
      tf.tensor1d(values),
      parts.map(({ size }) => size),
    );
    return Object.fromEntries(names.map((name, i) => [name, sums[i].reshape(parts[i].shape)]));
  });
}

/**
 * The metrics of the batch from those of each rank. Each must have the same ones, in the same order. A rate without a whole is
 * NaN, which the loop leaves out of its averages.
 */
export async function sumMetrics(
  ranks: Ranks,
  { metrics, rates = {} }: Pick<StepResult, 'metrics' | 'rates'>,
): Promise<StepResult['metrics']> {
  const values = Float64Array.from([...Object.values(metrics), ...Object.values(rates).flat()]);
  await ranks.sum(values);
  const names = Object.keys(metrics);
  const ratio = (i: number) => values[names.length + 2 * i] / values[names.length + 2 * i + 1];
  return {
    ...(Object.fromEntries(names.map((name, i) => [name, values[i]])) as StepResult['metrics']),
    ...Object.fromEntries(Object.keys(rates).map((name, i) => [name, ratio(i)])),
  };
}

/** Rows [n, P] of which each rank has its part: all of them, on every rank. */
export async function gatherRows(
  ranks: Ranks,
  own: tf.Tensor2D,
  first: number,
  n: number,
): Promise<tf.Tensor2D> {
  const P = own.shape[1];
  const all = new Float32Array(n * P); // the sum with the zeros of the other ranks is exact
  all.set((await fetchValues(own))[0], first * P);
  await ranks.sum(all);
  return tf.tensor2d(all, [n, P]);
}

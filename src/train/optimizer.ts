import * as tf from '@tensorflow/tfjs';
import { fusedAdam, hasFused } from '../engine/fused.ts';
import type { Params } from '../model/bert.ts';
import { fetchValues } from '../model/host-values.ts';
import type { TensorToWrite } from '../weights/safetensors.ts';

/** BERT's AdamW (google-research/bert, optimization.py); the learning rate rises linearly, then falls linearly to 0. */
export interface OptimizerConfig {
  /** Highest learning rate, reached at the end of the warm-up. */
  learningRate: number;
  /** Steps of warm-up; by default the released code's rule min(10000, max(100, steps / 10)). */
  warmupSteps: number | null;
  /** Decoupled weight decay, not applied to biases and layer norms. */
  weightDecay: number;
  beta1: number;
  beta2: number;
  /** Added to √v outside the root. */
  epsilon: number;
  /** Gradients are scaled down to this global norm. */
  clipNorm: number;
  /**
   * Adam's correction of its averages, which start at 0 (Kingma and Ba 2015, section 3). BERT's optimizer has none, and trains
   * for so long that it does not matter. Without it the first hundred steps are up to six times as large.
   */
  biasCorrection: boolean;
}

export interface Optimizer {
  /**
   * Updates the parameters from gradients by name (it disposes them); a parameter without a gradient is not changed, as
   * published.
   * @returns the global norm before clipping; if it is not finite, nothing is updated
   */
  apply(gradients: tf.NamedTensorMap, step: number): Promise<number>;
  /** First and second moments for a checkpoint, named `m/NAME` and `v/NAME` after their parameters. */
  state(): TensorToWrite[];
  restore(state: Map<string, Float32Array>): void;
  dispose(): void;
}

/** Learning rate of `step`, counted from 0, in a schedule of `steps`. */
export function learningRate(config: OptimizerConfig, step: number, steps: number): number {
  const warmup = config.warmupSteps ?? Math.min(10000, Math.max(100, Math.floor(steps / 10)));
  if (step < warmup) return (config.learningRate * step) / warmup;
  // As published, the linear decay starts at step 0, not at the end of the warm-up.
  return config.learningRate * (1 - Math.min(step, steps) / steps);
}

/**
 * What `step`, counted from 0, updates with. Correcting m by 1 − β₁ᵗ and v by 1 − β₂ᵗ, where t = step + 1, is the same as a
 * factor of the learning rate and one of epsilon; weight decay, which is not corrected, gets the inverse factor. Parameters
 * that have had no gradient in some steps are corrected by the count of all steps.
 */
function stepSettings(
  config: OptimizerConfig,
  step: number,
  steps: number,
): { rate: number; config: OptimizerConfig } {
  const rate = learningRate(config, step, steps);
  if (!config.biasCorrection) return { rate, config };
  const root = Math.sqrt(1 - config.beta2 ** (step + 1));
  const factor = root / (1 - config.beta1 ** (step + 1));
  const { epsilon, weightDecay } = config;
  return {
    rate: rate * factor,
    config: { ...config, epsilon: epsilon * root, weightDecay: weightDecay / factor },
  };
}

/** Floats in a bucket: small parameters are updated together, so that a step costs tens of kernels, not hundreds. */
export const BUCKET_FLOATS = 1 << 22;

interface Bucket {
  names: string[];
  sizes: number[];
  decay: boolean;
  /** Of the learning rate. */
  factor: number;
  m: tf.Variable; // [sum of sizes]
  v: tf.Variable;
}

/**
 * @param steps length of the whole schedule, in steps
 * @param factorOf what the learning rate of a parameter is multiplied by; 1 if undefined. The gradients are clipped to one
 *   global norm
 */
export function createOptimizer(
  params: Params,
  names: readonly string[],
  settings: OptimizerConfig,
  steps: number,
  factorOf: (name: string) => number = () => 1,
): Optimizer {
  const buckets = fillBuckets(params, names, factorOf);
  return {
    async apply(gradients, step) {
      const { rate, config } = stepSettings(settings, step, steps);
      if (hasFused()) return applyFused(buckets, params, gradients, rate, config);
      const { norm, flat } = await flatten(buckets, params, gradients);
      tf.dispose(gradients);
      if (Number.isFinite(norm)) {
        const scale = norm > config.clipNorm ? config.clipNorm / norm : 1;
        for (let i = 0; i < buckets.length; i++) {
          const gradient = flat[i];
          if (!gradient) continue;
          tf.tidy(() => {
            const clipped = scale === 1 ? gradient : gradient.mul(scale);
            const own = rate * buckets[i].factor;
            update(buckets[i], params, clipped as tf.Tensor1D, gradients, own, config);
          });
        }
      }
      tf.dispose(flat.filter((g) => g !== null));
      return norm;
    },
    state() {
      return buckets.flatMap((bucket) => {
        let at = 0;
        return bucket.names.flatMap((name, i) => {
          const [begin, size] = [at, bucket.sizes[i]];
          at += size;
          return (['m', 'v'] as const).map((kind) => ({
            name: `${kind}/${name}`,
            shape: params.get(name)!.shape,
            data: async () => {
              const part = bucket[kind].slice([begin], [size]);
              const [values] = await fetchValues(part);
              part.dispose();
              return values;
            },
          }));
        });
      });
    },
    restore(state) {
      for (const bucket of buckets) {
        for (const kind of ['m', 'v'] as const) {
          const flat = new Float32Array(bucket[kind].size);
          let at = 0;
          bucket.names.forEach((name, i) => {
            const saved = state.get(`${kind}/${name}`);
            if (saved?.length !== bucket.sizes[i])
              throw new Error(`the optimizer's state has no ${kind} of ${name} in this size`);
            flat.set(saved, at);
            at += bucket.sizes[i];
          });
          tf.tidy(() => bucket[kind].assign(tf.tensor1d(flat)));
        }
      }
    },
    dispose() {
      for (const bucket of buckets) tf.dispose([bucket.m, bucket.v]);
    },
  };
}

/** Biases and layer norms are not decayed (optimization.py, exclude_from_weight_decay). */
function isDecayed(name: string): boolean {
  return !/(bias|gain)$/.test(name);
}

function fillBuckets(params: Params, names: readonly string[], factorOf: (name: string) => number): Bucket[] {
  const buckets: Bucket[] = [];
  const limit = hasFused() ? 0 : BUCKET_FLOATS; // the fused kernel updates all buckets in one call, so each bucket holds one parameter
  const kinds = [...new Set(names.map(factorOf))].flatMap((factor) =>
    [true, false].map((decay) => ({ factor, decay })),
  );
  for (const { factor, decay } of kinds) {
    let open: { names: string[]; sizes: number[]; total: number } | undefined;
    const close = () => {
      if (!open) return;
      const zeros = () => tf.tidy(() => tf.variable(tf.zeros([open!.total])));
      buckets.push({ names: open.names, sizes: open.sizes, decay, factor, m: zeros(), v: zeros() });
      open = undefined;
    };
    for (const name of names) {
      if (isDecayed(name) !== decay || factorOf(name) !== factor) continue;
      const size = params.get(name)!.size;
      if (open && open.total + size > limit) close();
      open ??= { names: [], sizes: [], total: 0 };
      open.names.push(name);
      open.sizes.push(size);
      open.total += size;
    }
    close();
  }
  return buckets;
}

/**
 * The whole update in one kernel, or one for each learning rate; returns the gradients' global norm. A kernel clips to the
 * norm of the gradients that it gets, so with several rates it gets its share of the global norm to clip to.
 */
async function applyFused(
  buckets: readonly Bucket[],
  params: Params,
  gradients: tf.NamedTensorMap,
  rate: number,
  config: OptimizerConfig,
): Promise<number> {
  const touched = buckets.filter((b) => gradients[b.names[0]]);
  const factors = [...new Set(touched.map(({ factor }) => factor))];
  const groups = factors.map((factor) => touched.filter((b) => b.factor === factor));
  if (groups.length === 1) {
    const norm = await updateFused(groups[0], params, gradients, rate * factors[0], config);
    tf.dispose(gradients);
    return norm;
  }
  const squares = groups.map((group) =>
    tf.tidy(() => tf.addN(group.map((b) => gradients[b.names[0]].square().sum()))),
  );
  const norms = (await fetchValues(...squares)).map(([square]) => Math.sqrt(square));
  tf.dispose(squares);
  const norm = Math.hypot(...norms);
  if (Number.isFinite(norm)) {
    const scale = Math.min(1, config.clipNorm / norm);
    for (const [i, group] of groups.entries()) {
      const clipNorm = scale < 1 ? scale * norms[i] : Number.MAX_VALUE;
      await updateFused(group, params, gradients, rate * factors[i], { ...config, clipNorm });
    }
  }
  tf.dispose(gradients);
  return norm;
}

/** One kernel for these buckets; returns the norm of their gradients. */
async function updateFused(
  buckets: readonly Bucket[],
  params: Params,
  gradients: tf.NamedTensorMap,
  rate: number,
  config: OptimizerConfig,
): Promise<number> {
  const decayed = tf.tensor1d(
    buckets.map((b) => (b.decay ? 1 : 0)),
    'int32',
  );
  const norm = fusedAdam(
    rate,
    decayed,
    {
      weights: buckets.map((b) => params.get(b.names[0])!),
      m: buckets.map((b) => b.m),
      v: buckets.map((b) => b.v),
      gradients: buckets.map((b) => gradients[b.names[0]]),
    },
    config,
  );
  const [[value]] = await fetchValues(norm);
  tf.dispose([norm, decayed]);
  return value;
}

/** Gradients of each bucket as a flat vector (null for a bucket without gradients), with their global norm. */
async function flatten(
  buckets: Bucket[],
  params: Params,
  gradients: tf.NamedTensorMap,
): Promise<{ norm: number; flat: (tf.Tensor1D | null)[] }> {
  let flat: (tf.Tensor1D | null)[] = [];
  const squares = tf.tidy(() => {
    flat = buckets.map((bucket) => {
      if (!bucket.names.some((name) => gradients[name])) return null;
      const parts = bucket.names.map((name, i) =>
        gradients[name] ? gradients[name].reshape([bucket.sizes[i]]) : tf.zeros([params.get(name)!.size]),
      );
      return tf.keep(
        parts.length === 1 ? parts[0].clone() : tf.concat(parts as tf.Tensor1D[]),
      ) as tf.Tensor1D;
    });
    return tf.addN(flat.filter((g) => g !== null).map((g) => g.square().sum()));
  });
  const norm = Math.sqrt((await fetchValues(squares))[0][0]);
  squares.dispose();
  return { norm, flat };
}

/**
 * m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − rate (m / (√v + ε) + decay w); the bias is corrected in
 * `rate`, ε and decay, if at all.
 * @param g the bucket's gradient, clipped
 * @param gradients by parameter name; only parameters in it are updated
 */
function update(
  bucket: Bucket,
  params: Params,
  g: tf.Tensor1D,
  gradients: tf.NamedTensorMap,
  rate: number,
  config: OptimizerConfig,
): void {
  const m = bucket.m.mul(config.beta1).add(g.mul(1 - config.beta1));
  const v = bucket.v.mul(config.beta2).add(g.square().mul(1 - config.beta2));
  bucket.m.assign(m);
  bucket.v.assign(v);
  const change = m.div(v.sqrt().add(config.epsilon)).mul(rate);
  const parts = bucket.names.length === 1 ? [change] : tf.split(change, bucket.sizes);
  bucket.names.forEach((name, i) => {
    if (!gradients[name]) return; // no weight decay either
    const weights = params.get(name)!;
    const kept =
      bucket.decay && config.weightDecay > 0 ? weights.mul(1 - rate * config.weightDecay) : weights;
    weights.assign(kept.sub(parts[i].reshape(weights.shape)));
  });
}

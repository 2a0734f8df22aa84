import * as tf from '@tensorflow/tfjs';
import { alone, type Ranks } from '../engine/ranks.ts';
import { type DropoutRng, disposeInput, type EncoderInput, encoderInput, type Shape } from '../model/bert.ts';
import { embedSequences, type Sequences } from '../model/embedder.ts';
import { lossGradients, type Model } from '../model/model.ts';
import { randomFromState } from '../random.ts';
import { pause } from '../system/stop.ts';
import { allPasses, type Pass } from './passes.ts';
import { addGradients, gatherRows } from './step.ts';

/** Sequences that one tower embeds. */
export interface Side extends Sequences {
  tower: string;
  /** Their vectors [n, P] by the current weights, if they are known; only without dropout. */
  known?: Float32Array;
}

/** How a batch is divided. */
export interface Division {
  /** Sequences embedded at once. */
  microBatch: number;
  /** Dropout; undefined: none. */
  rng?: DropoutRng;
  /** Those that each embed a part of every side; undefined: this process alone. */
  ranks?: Ranks;
}

/** What a loss on vectors comes to: the gradient of each side's vectors [n, P], and of parameters that it used itself. */
export interface VectorLoss {
  vectors: tf.Tensor2D[];
  gradients?: tf.NamedTensorMap;
  metrics: { loss: number; [name: string]: number };
}

/**
 * Exact gradients of a loss on the vectors of a large batch, in the memory of one micro-batch (gradient caching, Gao et al.
 * 2021, section 3): all sequences are embedded in micro-batches without gradients; the loss gives the gradient of every
 * vector; then each micro-batch is embedded again, with the same dropout masks, and those gradients are propagated through
 * it. The result equals the one-pass gradient. Of several ranks, each embeds its part of every side, computes the loss on all
 * vectors, and propagates the gradients of the vectors that it embedded: the sum over the ranks is the gradient.
 * @param loss of the vectors [n, P] of each side; they are disposed afterwards. It may draw from `rng`, whose numbers are
 *   not those of the towers' masks
 */
export async function cachedGradients(
  model: Model,
  shapes: readonly Shape[],
  sides: readonly Side[],
  { microBatch, rng, ranks = alone }: Division,
  loss: (vectors: tf.Tensor2D[]) => Promise<VectorLoss>,
): Promise<Required<Pick<VectorLoss, 'gradients' | 'metrics'>>> {
  const drawn = rng?.random;
  const parts = sides
    .flatMap((side, s) => allPasses(ranks, side.ids.length, microBatch).map((pass) => ({ ...pass, s })))
    .map((pass) => ({ ...pass, masks: drawn?.fork().state() }))
    .filter(({ rank }) => rank === ranks.rank);
  const embed = (i: number, input: EncoderInput) => {
    const { s, masks } = parts[i];
    if (rng) rng.random = randomFromState(masks!);
    return embedSequences(model.params, sides[s].tower, model.embedder, input, rng);
  };

  const inputs = parts.map(({ s, from, to }) =>
    encoderInput(sides[s].ids.slice(from, to), sides[s].firstSegment.slice(from, to)),
  );
  const embedded: tf.Tensor2D[][] = sides.map(({ known, ids }) =>
    known ? [tf.tensor2d(known, [ids.length, known.length / ids.length])] : [],
  );
  for (const [i, input] of inputs.entries()) {
    if (sides[parts[i].s].known) continue;
    embedded[parts[i].s].push(embed(i, input));
    await pause();
  }
  if (rng) rng.random = drawn!;
  const vectors = await allVectors(sides, embedded, parts, ranks);
  const of = await loss(vectors);
  tf.dispose(vectors);

  let gradients = of.gradients;
  for (const [i, input] of inputs.entries()) {
    const { s, from, to } = parts[i];
    const along = of.vectors[s].slice([from, 0], [to - from, -1]);
    const part = lossGradients(model, shapes, () => embed(i, input).mul(along).sum() as tf.Scalar);
    gradients = addGradients(gradients, part.gradients);
    tf.dispose([part.value, along]);
    disposeInput(input);
    await pause();
  }
  tf.dispose(of.vectors);
  return { gradients: gradients!, metrics: of.metrics };
}

/** The vectors [n, P] of each side, on every rank; takes over those that this one has `embedded`. */
async function allVectors(
  sides: readonly Side[],
  embedded: readonly tf.Tensor2D[][],
  parts: readonly (Pass & { s: number })[],
  ranks: Ranks,
): Promise<tf.Tensor2D[]> {
  const all: tf.Tensor2D[] = [];
  for (const [s, side] of sides.entries()) {
    const own = tf.concat(embedded[s]);
    tf.dispose(embedded[s]);
    if (ranks.size === 1 || side.known) {
      all.push(own);
      continue;
    }
    const first = parts.find((part) => part.s === s)!.from;
    all.push(await gatherRows(ranks, own, first, side.ids.length));
    own.dispose();
  }
  return all;
}

import * as tf from '@tensorflow/tfjs';
import { type DropoutRng, disposeInput, type EncoderInput, encoderInput, type Shape } from '../model/bert.ts';
import { embedSequences, type Sequences } from '../model/embedder.ts';
import { lossGradients, type Model } from '../model/model.ts';
import { randomFromState } from '../random.ts';
import { pause } from '../system/stop.ts';
import { addGradients } from './loop.ts';

/** Sequences that one tower embeds. */
export interface Side extends Sequences {
  tower: string;
  /** Their vectors [n, P] by the current weights, if they are known; only without dropout. */
  known?: Float32Array;
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
 * it. The result equals the one-pass gradient.
 * @param microBatch sequences embedded at once
 * @param loss of the vectors [n, P] of each side; they are disposed afterwards. It may draw from `rng`, whose numbers are
 *   not those of the towers' masks
 */
export async function cachedGradients(
  model: Model,
  shapes: readonly Shape[],
  sides: readonly Side[],
  microBatch: number,
  rng: DropoutRng | undefined,
  loss: (vectors: tf.Tensor2D[]) => Promise<VectorLoss>,
): Promise<Required<Pick<VectorLoss, 'gradients' | 'metrics'>>> {
  const parts = sides.flatMap((side, s) => microBatchesOf(side, microBatch).map((part) => ({ ...part, s })));
  const drawn = rng?.random;
  const states = parts.map(() => drawn?.fork().state());
  const embed = (i: number, input: EncoderInput) => {
    if (rng) rng.random = randomFromState(states[i]!);
    return embedSequences(model.params, parts[i].tower, model.embedder, input, rng);
  };

  const inputs = parts.map((c) => encoderInput(c.ids, c.firstSegment));
  const embedded: tf.Tensor2D[][] = sides.map(({ known, ids }) =>
    known ? [tf.tensor2d(known, [ids.length, known.length / ids.length])] : [],
  );
  for (const [i, input] of inputs.entries()) {
    if (sides[parts[i].s].known) continue;
    embedded[parts[i].s].push(embed(i, input));
    await pause();
  }
  if (rng) rng.random = drawn!;
  const vectors = embedded.map((list) => tf.concat(list));
  tf.dispose(embedded.flat());
  const of = await loss(vectors);
  tf.dispose(vectors);

  let gradients = of.gradients;
  for (const [i, input] of inputs.entries()) {
    const { s, at, ids } = parts[i];
    const along = of.vectors[s].slice([at, 0], [ids.length, -1]);
    const part = lossGradients(model, shapes, () => embed(i, input).mul(along).sum() as tf.Scalar);
    gradients = addGradients(gradients, part.gradients);
    tf.dispose([part.value, along]);
    disposeInput(input);
    await pause();
  }
  tf.dispose(of.vectors);
  return { gradients: gradients!, metrics: of.metrics };
}

function microBatchesOf({ tower, ids, firstSegment }: Side, size: number) {
  const parts: (Side & { at: number })[] = [];
  for (let at = 0; at < ids.length; at += size) {
    parts.push({
      tower,
      ids: ids.slice(at, at + size),
      firstSegment: firstSegment.slice(at, at + size),
      at,
    });
  }
  return parts;
}

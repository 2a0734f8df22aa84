import * as tf from '@tensorflow/tfjs';
import { hasFused } from '../engine/fused.ts';
import { type DropoutRng, disposeInput, type EncoderInput, encoderInput } from './bert.ts';
import { embedSequences, type Sequences } from './embedder.ts';
import type { Model } from './model.ts';

/** Queries and documents to embed in one pass, as one batch or two. */
export interface RetrieverInput {
  /** B, the number of queries. */
  queries: number;
  /** The queries, then the documents; or all in one. */
  batches: EncoderInput[];
}

/** One batch if one tower embeds both and different lengths cost nothing: half the kernels, and no gradients to add up. */
export function retrieverInput(model: Model, queries: Sequences, documents: Sequences): RetrieverInput {
  const together = model.queryTower === model.documentTower && hasFused();
  const both = {
    ids: [...queries.ids, ...documents.ids],
    firstSegment: [...queries.firstSegment, ...documents.firstSegment],
  };
  const batches = (together ? [both] : [queries, documents]).map((s) => encoderInput(s.ids, s.firstSegment));
  return { queries: queries.ids.length, batches };
}

export function disposeRetrieverInput({ batches }: RetrieverInput): void {
  for (const batch of batches) disposeInput(batch);
}

/** Vectors of the queries [B, P] and of the documents [U, P]. */
export function embedBoth(
  model: Model,
  { queries: B, batches }: RetrieverInput,
  rng?: DropoutRng,
): { queries: tf.Tensor2D; documents: tf.Tensor2D } {
  const towers = [model.queryTower, model.documentTower];
  const [first, second] = batches.map((batch, i) =>
    embedSequences(model.params, towers[i], model.embedder, batch, rng),
  );
  if (second) return { queries: first, documents: second };
  const [queries, documents] = tf.split(first, [B, first.shape[0] - B]) as tf.Tensor2D[];
  return { queries, documents };
}

import * as tf from '@tensorflow/tfjs';
import { fusedDocumentMarginal, hasFused } from '../engine/fused.ts';
import { type BertConfig, type DropoutRng, encode, logLikelihood, type Params } from './bert.ts';
import { IMPOSSIBLE } from './marginal.ts';
import type { Model } from './model.ts';
import type { MaskedBatch, RealmBatch } from './realm-batch.ts';
import { embedBoth } from './retriever.ts';

/**
 * log p(z|x) over each query's candidates, the softmax of inner products (paper, section 3.1):
 * @param queries [B, P] vectors of the masked sentences or questions
 * @param documents [U, P] vectors of the distinct documents in the batch; row 0 is the null document
 * @param candidates [B, K] rows of `documents` (int32), the null document first, as released
 *   (google-research/language, realm/model.py)
 * @param present [B, K] 1 for a candidate, 0 beyond the end of a shorter list
 * @param temperature divides the inner products; the paper has none, which equals 1
 * @returns scores f(x, z) and log p(z|x), both [B, K]
 */
export function retrieve(
  queries: tf.Tensor2D,
  documents: tf.Tensor2D,
  candidates: tf.Tensor2D,
  present: tf.Tensor2D,
  temperature = 1,
): { scores: tf.Tensor2D; logPrior: tf.Tensor2D } {
  return tf.tidy(() => {
    const [B, K] = candidates.shape;
    const U = documents.shape[0];
    const all = tf.matMul(queries, documents, false, true).flatten(); // [B*U]
    const rows = tf.range(0, B * U, U, 'int32').reshape([B, 1]);
    const scores = tf
      .gather(all, candidates.add(rows).toInt())
      .reshape([B, K])
      .div(temperature) as tf.Tensor2D;
    const logPrior = tf.logSoftmax(scores.add(tf.sub(1, present).mul(IMPOSSIBLE))) as tf.Tensor2D;
    return { scores, logPrior };
  });
}

/**
 * log p(y_j | z, x) of masked word pieces (paper, section 3.2): [n].
 * @param batch the joint sequences `[CLS] x [SEP] z [SEP]`
 */
export function readMasks(
  params: Params,
  p: string,
  config: BertConfig,
  batch: MaskedBatch,
  rng?: DropoutRng,
): tf.Tensor1D {
  return tf.tidy(() => {
    const outputs = encode(params, p, config, batch.input, rng, batch.masks); // [n, H]
    return logLikelihood(params, p, config, outputs, batch.targets);
  });
}

/**
 * The marginal log likelihood over retrieved documents.
 *
 * `span`: log p(y|x) = log Σ_z p(z|x) Π_j p(y_j|z,x), one latent document for the whole span (paper, equation 1).
 * `token`: Σ_j log Σ_z p(z|x) p(y_j|z,x), as the released code does (google-research/language, realm/model.py).
 * @param logPrior [B, K] log p(z|x)
 * @param logTokens [B, K, M] log p(y_j|z,x)
 * @param masks [B, M] 1 on masked word pieces, 0 beyond
 * @returns log p(y|x) [B]
 */
export function marginalLogLikelihood(
  kind: 'span' | 'token',
  logPrior: tf.Tensor2D,
  logTokens: tf.Tensor3D,
  masks: tf.Tensor2D,
): tf.Tensor1D {
  return tf.tidy(() => {
    const [B, K, M] = logTokens.shape;
    const weighed = logTokens.mul(masks.reshape([B, 1, M])); // [B, K, M]
    if (kind === 'span') return logPrior.add(weighed.sum(2)).logSumExp(1) as tf.Tensor1D;
    const perToken = logPrior.reshape([B, K, 1]).add(weighed).logSumExp(1) as tf.Tensor2D; // [B, M]
    return perToken.mul(masks).sum(1) as tf.Tensor1D;
  });
}

/**
 * Retrieval utility, from host copies of the same tensors (paper, equation 2 and section 4.4; computed from the marginal
 * as in the released code): mean over masked word pieces of log p(y|x) − log p(y|∅,x).
 * @param marginal log p(y|x) [B]; `logTokens` [B, K, M], null document first; `masks` [B, M]
 */
export function retrievalUtility(
  marginal: Float32Array,
  logTokens: Float32Array,
  masks: Float32Array,
  K: number,
): number {
  const B = marginal.length;
  const M = masks.length / B;
  let sum = 0;
  let pieces = 0;
  for (let b = 0; b < B; b++) {
    let nullDocument = 0;
    for (let m = 0; m < M; m++) {
      nullDocument += masks[b * M + m] * logTokens[b * K * M + m];
      pieces += masks[b * M + m];
    }
    sum += marginal[b] - nullDocument;
  }
  return sum / pieces;
}

/** The whole model: log p(z|x) [B, K], log p(y_j|z,x) [B, K, M] and log p(y|x) [B], which alone has a gradient. */
export function realmForward(
  model: Model,
  batch: RealmBatch,
  marginalize: 'span' | 'token',
  rng?: DropoutRng,
): { logPrior: tf.Tensor2D; logTokens: tf.Tensor3D; marginal: tf.Tensor1D } {
  const { candidates, present, masks, order } = batch;
  const [B, K] = candidates.shape;
  const M = masks.shape[1];
  // Retrieve: p(z|x) with the current weights; the index only chose the candidates.
  const { queries, documents } = embedBoth(model, batch.retriever, rng);
  // Read: p(y|z,x) of each pair.
  const groups = batch.joint.map((group) =>
    readMasks(model.params, model.readerTower, model.reader, group, rng),
  );
  // Marginalise.
  const { temperature } = model;
  if (hasFused()) {
    const products = tf.matMul(queries, documents, false, true);
    return fusedDocumentMarginal(products, groups[0], batch, { temperature, each: marginalize === 'token' });
  }
  const { logPrior } = retrieve(queries, documents, candidates, present, temperature);
  const logTokens = tf
    .gather(tf.concat1d([tf.zeros([1]), ...groups]), order)
    .reshape([B, K, M]) as tf.Tensor3D;
  return { logPrior, logTokens, marginal: marginalLogLikelihood(marginalize, logPrior, logTokens, masks) };
}

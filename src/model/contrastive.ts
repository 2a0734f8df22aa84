import * as tf from '@tensorflow/tfjs';
import { IMPOSSIBLE } from './marginal.ts';

/** For each of B queries, which of U documents is right and which are left out; all row-major [B, U]. */
export interface ContrastiveTargets {
  /** 1 at the positive document; a row of zeros: the query takes no part. */
  positives: tf.Tensor2D;
  /** 1 at the documents that are no negatives of the query, such as others that hold its answer. */
  left: tf.Tensor2D;
  /** Queries that take part. */
  count: number;
}

/**
 * Softmax over all documents of a batch (DPR, Karpukhin et al. 2020, section 3.2): −log of the probability of a query's
 * positive document, where the others are its negatives, but for those that are left out.
 * @param scores [B, U], divided by the temperature
 * @returns the mean loss of the queries that take part, and how many of them score their positive highest; both scalars
 */
export function contrastiveLoss(
  scores: tf.Tensor2D,
  { positives, left, count }: ContrastiveTargets,
): { loss: tf.Scalar; correct: tf.Scalar } {
  return tf.tidy(() => {
    const part = positives.max(1); // [B]
    const others = scores.add(left.mul(IMPOSSIBLE));
    const own = scores.mul(positives).sum(1);
    const loss = others.logSumExp(1).sub(own).mul(part).sum().div(Math.max(1, count)) as tf.Scalar;
    const best = others.argMax(1).equal(positives.argMax(1)).toFloat().mul(part);
    return { loss, correct: best.sum() as tf.Scalar };
  });
}

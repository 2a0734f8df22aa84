import * as tf from '@tensorflow/tfjs';
import { fusedAnswerMarginal, hasFused } from '../engine/fused.ts';

/** Score of what cannot be chosen or is not there: exp() of it is 0 in float32. */
export const IMPOSSIBLE = -1e9;

/**
 * −log of the total probability of the correct choices, in the softmax of scores over all; 0 where none is correct. Fine-tuning
 * chooses spans of all blocks read for a question, and blocks (orqa_model.py, marginal_log_loss); with one correct choice it is
 * the cross-entropy.
 * @param scores [B, n]
 * @param correct [B, n] 1 on correct choices
 * @returns [B]
 */
export function marginalLogLoss(scores: tf.Tensor2D, correct: tf.Tensor2D): tf.Tensor1D {
  if (hasFused()) return fusedAnswerMarginal(scores, correct);
  return tf.tidy(() => {
    const any = correct.max(1); // [B]
    const right = scores.add(tf.sub(1, correct).mul(IMPOSSIBLE)).logSumExp(1);
    return scores.logSumExp(1).sub(right).mul(any) as tf.Tensor1D;
  });
}

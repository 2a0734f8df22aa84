import * as tf from '@tensorflow/tfjs';
import { marginalLogLoss } from './marginal.ts';

/**
 * In-batch softmax of the inverse cloze task: the block of query i is row i, the other rows are its negatives.
 * Inner products, divided by `temperature`: 1 as published (Lee et al. 2019, section 4; google-research/language, orqa/models/ict_model.py).
 * @param queries [B, P]
 * @param blocks [B, P]
 * @returns the mean loss and how many queries score their own block highest, both scalars
 */
export function ictLoss(
  queries: tf.Tensor2D,
  blocks: tf.Tensor2D,
  temperature = 1,
): { loss: tf.Scalar; correct: tf.Scalar } {
  return tf.tidy(() => {
    const B = queries.shape[0];
    const scores = tf.matMul(queries, blocks, false, true).div(temperature) as tf.Tensor2D; // [B, B]
    const loss = marginalLogLoss(scores, tf.eye(B)).mean() as tf.Scalar;
    const correct = scores
      .argMax(1)
      .equal(tf.range(0, B, 1, 'int32'))
      .sum() as tf.Scalar;
    return { loss, correct };
  });
}

/** The same loss with its gradients with respect to both sets of vectors, for embedding in micro-batches (gradient caching). */
export function ictGradients(
  queries: tf.Tensor2D,
  blocks: tf.Tensor2D,
  temperature = 1,
): { loss: tf.Scalar; correct: tf.Scalar; queries: tf.Tensor2D; blocks: tf.Tensor2D } {
  return tf.tidy(() => {
    const { value, grads } = tf.valueAndGrads(
      (q, z) => ictLoss(q as tf.Tensor2D, z as tf.Tensor2D, temperature).loss,
    )([queries, blocks]);
    const { correct } = ictLoss(queries, blocks, temperature);
    return {
      loss: value as tf.Scalar,
      correct,
      queries: grads[0] as tf.Tensor2D,
      blocks: grads[1] as tf.Tensor2D,
    };
  });
}

import * as tf from '@tensorflow/tfjs';
import { IMPOSSIBLE } from './marginal.ts';

/**
 * How well the retriever agrees with the reader about the blocks of a question: the Kullback-Leibler divergence from the
 * reader's posterior p(z | y, x) ∝ Σ exp(score of a correct span of z) to the retriever's softmax over the same blocks
 * (Izacard & Grave 2020, "Distilling Knowledge from Reader to Retriever for Question Answering", section 3; Atlas, Izacard
 * et al. 2022, section 2.2). They take the reader's attention or its likelihood of the answer as its opinion; an extractive
 * reader has its correct spans, as in EMDR². No gradient reaches the reader: it does not learn from the retriever here. A
 * question without a correct span has the divergence 0.
 * @param spans [B, R*n] the reader's scores of the n spans of each block, without retrieval scores
 * @param correct [B, R*n] 1 on spans that match an answer
 * @param retrieval [B, R] retrieval scores, divided by the temperature; hugely negative where a question has fewer blocks
 * @returns [B]
 */
export function readerDivergence(
  spans: tf.Tensor2D,
  correct: tf.Tensor2D,
  retrieval: tf.Tensor2D,
): tf.Tensor1D {
  return tf.tidy(() => {
    const [B, R] = retrieval.shape;
    const right = withoutGradient(spans)
      .add(tf.sub(1, correct).mul(IMPOSSIBLE))
      .reshape([B, R, -1])
      .logSumExp(2); // [B, R]
    const log = right.sub(right.logSumExp(1, true));
    const retriever = retrieval.sub(retrieval.logSumExp(1, true));
    // A block without a correct span has the posterior 0 exactly, and its finite logarithms count for nothing.
    return log.exp().mul(log.sub(retriever)).sum(1).mul(correct.max(1)) as tf.Tensor1D;
  });
}

/** The same values; the gradient stops here. */
const withoutGradient = tf.customGrad((x) => ({
  value: (x as tf.Tensor).clone(),
  gradFunc: (dy: tf.Tensor) => tf.zerosLike(dy),
})) as (x: tf.Tensor2D) => tf.Tensor2D;

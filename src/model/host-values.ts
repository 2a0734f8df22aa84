import type * as tf from '@tensorflow/tfjs';

/**
 * Copies the values of tensors to the host. All are requested together, so there is only one wait: on a GPU the host
 * waits until all work before the read is done, and only this way of reading exists there (no `dataSync`).
 */
export function fetchValues(...tensors: tf.Tensor[]): Promise<Float32Array[]> {
  return Promise.all(tensors.map((t) => t.data<'float32'>()));
}

import type * as tf from '@tensorflow/tfjs';

/**
 * The values of tensors, for the host. All are asked for at once, so it is one wait however many there are: on a GPU the
 * host waits until everything up to the reading is computed, and there only this way of reading exists (no `dataSync`).
 */
export function fetchValues(...tensors: tf.Tensor[]): Promise<Float32Array[]> {
  return Promise.all(tensors.map((t) => t.data<'float32'>()));
}

import * as tf from '@tensorflow/tfjs';
import type { Params } from './bert.ts';
import { setParam } from './model.ts';

// First values of a masked-language-model head for an encoder that comes without one, such as a sentence encoder. From random
// values such a reader guesses by the frequency of words for thousands of steps. With these it starts with that guess, and
// the head already reads from an output which word piece it stands for, so only the attention has to be learned: which word
// of the document belongs in the mask. The paper starts from BERT, which has a trained head (section 3.4).

/**
 * Added to every output before GELU. The head is dense layer, GELU, layer norm, word embeddings. GELU hardly changes numbers above 3,
 * and the outputs of a layer norm are seldom below -3. The layer norm subtracts what is added to all numbers alike.
 */
const ABOVE_GELU = 6;

/**
 * Sets the head to compare an output itself with the word embeddings (dense layer the identity), with the logarithm of each
 * word piece's frequency as bias. [MASK] gets the mean of the embeddings of all word pieces that occur: such encoders never
 * saw a mask in training, and the embedding that they have for it is arbitrary.
 * @param p prefix of the reader's encoder, whose embeddings are read already
 * @param mask id of [MASK]
 * @param counts how often each word piece occurs in the sentences to learn from, [V]
 */
export function startMaskHead(params: Params, p: string, mask: number, counts: Float32Array): void {
  const word = params.get(`${p}embeddings.word`)!;
  const [V, H] = word.shape;
  const identity = new Float32Array(H * H);
  for (let i = 0; i < H; i++) identity[i * H + i] = 1;
  setParam(params, `${p}mlm.transform.kernel`, [H, H], identity);
  setParam(params, `${p}mlm.transform.bias`, [H], new Float32Array(H).fill(ABOVE_GELU));
  // Half an occurrence more for each, so that one that does not occur gets a finite number.
  const total = counts.reduce((sum, n) => sum + n + 0.5, 0);
  setParam(
    params,
    `${p}mlm.bias`,
    [V],
    counts.map((n) => Math.log((n + 0.5) / total)),
  );
  tf.tidy(() => {
    const occurs = tf.tensor2d(
      counts.map((n) => (n > 0 ? 1 : 0)),
      [1, V],
    );
    const mean = tf.matMul(occurs, word as tf.Tensor2D).div(occurs.sum());
    const isMask = tf
      .oneHot(tf.tensor1d([mask], 'int32'), V)
      .toFloat()
      .transpose(); // [V, 1]
    word.assign(word.mul(tf.sub(1, isMask)).add(isMask.mul(mean)));
  });
}

import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { type DropoutRng, disposeInput, type EncoderInput, encoderInput } from './bert.ts';
import { pairIds } from './embedder.ts';
import type { Model } from './model.ts';
import type { EncodedQuestion } from './questions.ts';
import { type BlockPositions, blockPositions, spanScores } from './reader.ts';

/** Joint sequences `[CLS] question [SEP] block [SEP]` of B questions with R blocks each, [B*R, T]. */
export interface Reading {
  input: EncoderInput;
  /** A question with fewer blocks has rows without tokens. */
  blocks: BlockPositions;
  /** Penalty of spans that start or end within a word: see `wholeWordScores`. */
  torn: tf.Tensor3D; // [B*R, W, T]
  B: number;
  R: number;
  T: number;
}

export function makeReading(
  corpus: Corpus,
  batch: readonly EncodedQuestion[],
  blocks: readonly (readonly number[])[],
  R: number,
  config: Config,
): Reading {
  const B = batch.length;
  const pairs: { ids: Int32Array; firstSegment: number }[] = [];
  const offsets = new Int32Array(B * R);
  const lengths = new Int32Array(B * R);
  for (let b = 0; b < B; b++) {
    // The question is truncated as for the query tower; the released code does not truncate it.
    const question = batch[b].ids.subarray(0, config.text.questionTokens - 2);
    for (let r = 0; r < R; r++) {
      const block = blocks[b][r];
      const pair = pairIds(
        corpus.tokenizer,
        question,
        block === undefined ? new Int32Array(0) : corpus.bodyIds(block),
        config.qa.readerTokens,
      );
      offsets[b * R + r] = pair.firstSegment;
      lengths[b * R + r] = pair.ids.length - pair.firstSegment - 1;
      pairs.push(pair);
    }
  }
  const input = encoderInput(
    pairs.map((p) => p.ids),
    pairs.map((p) => p.firstSegment),
  );
  const T = input.longest;
  const positions = blockPositions(input, offsets, lengths);
  const torn = tornPenalty(corpus, blocks, positions, [B, R, T, Math.min(config.model.maxSpanWidth, T)]);
  return { input, blocks: positions, torn, B, R, T };
}

export function disposeReading(reading: Reading): void {
  disposeInput(reading.input);
  tf.dispose([reading.blocks.tensor, reading.torn]);
}

/**
 * The scores of `readScores` [B, R*W*T] for choosing an answer: spans that start or end within a word get such a
 * penalty that they are chosen only if a block has no others. The training loss is over all spans, as in the released code.
 */
export function wholeWordScores({ torn, B }: Reading, scores: tf.Tensor2D): tf.Tensor2D {
  return scores.add(torn.reshape([B, -1]));
}

/**
 * Penalty of a span that starts or ends within a word. Large enough that it scores below every span of whole words, so
 * it is chosen only if all whole words of a block are too wide for the reader; small enough that float32 rounding still
 * leaves the scores of such spans distinct.
 */
const TORN_PENALTY = -1e4;

/** `TORN_PENALTY` on spans that start or end within a word, 0 on all others: [B*R, W, T], in the order of `spanScores`. */
function tornPenalty(
  corpus: Corpus,
  blocks: readonly (readonly number[])[],
  { offsets, lengths }: BlockPositions,
  [B, R, T, W]: readonly [number, number, number, number],
): tf.Tensor3D {
  const { continues } = corpus.tokenizer;
  const starts = new Float32Array(B * R * T); // TORN_PENALTY where a span cannot start
  const ends = new Float32Array(B * R * (T + W - 1)); // and where its last token cannot be
  for (let b = 0; b < B; b++) {
    for (let r = 0; r < blocks[b].length; r++) {
      const row = b * R + r;
      const ids = corpus.bodyIds(blocks[b][r]);
      for (let t = 0; t < lengths[row]; t++) {
        if (t > 0 && continues[ids[t]]) starts[row * T + offsets[row] + t] = TORN_PENALTY;
        // The word may continue beyond the part of the block that is read.
        if (t + 1 < ids.length && continues[ids[t + 1]])
          ends[row * (T + W - 1) + offsets[row] + t] = TORN_PENALTY;
      }
    }
  }
  return tf.tidy(() => {
    const first = tf.tensor2d(starts, [B * R, T]);
    const last = tf.tensor2d(ends, [B * R, T + W - 1]);
    const widths = Array.from({ length: W }, (_, w) => first.add(last.slice([0, w], [B * R, T])));
    return tf.stack(widths, 1) as tf.Tensor3D;
  });
}

/** Scores of all spans of a question's blocks, their blocks' retrieval scores [B, R] added: [B, R*W*T]. */
export function readScores(
  model: Model,
  reading: Reading,
  retrieval: tf.Tensor2D,
  rng?: DropoutRng,
): tf.Tensor2D {
  return tf.tidy(() => addRetrieval(reading, ownScores(model, reading, rng), retrieval));
}

/** The reader's own scores of all spans of a question's blocks: [B, R*W*T]. */
export function ownScores(model: Model, reading: Reading, rng?: DropoutRng): tf.Tensor2D {
  const { B, input, blocks } = reading;
  const scores = spanScores(model.params, model.readerTower, model.reader, input, blocks, rng); // [B*R, W, T]
  return scores.reshape([B, -1]);
}

/** The reader's own scores with their blocks' retrieval scores [B, R] added: [B, R*W*T]. */
export function addRetrieval({ B, R }: Reading, own: tf.Tensor2D, retrieval: tf.Tensor2D): tf.Tensor2D {
  return own
    .reshape([B, R, own.shape[1] / R])
    .add(retrieval.reshape([B, R, 1]))
    .reshape([B, own.shape[1]]) as tf.Tensor2D;
}

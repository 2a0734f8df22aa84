import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { type DropoutRng, disposeInput, type EncoderInput, encoderInput } from './bert.ts';
import { pairIds } from './embedder.ts';
import type { Model } from './model.ts';
import type { EncodedQuestion } from './questions.ts';
import { type BlockTokens, blockTokens, disposeBlockTokens, spanScores } from './reader.ts';

/**
 * Joint sequences `[CLS] question [SEP] block [SEP]` of B questions with R blocks each, B*R in all; T is the number of tokens of
 * the longest block.
 */
export interface Reading {
  input: EncoderInput;
  /** A question with fewer blocks has empty ones. */
  blocks: BlockTokens;
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
  const bodies: Int32Array[] = [];
  const offsets = new Int32Array(B * R);
  const lengths = new Int32Array(B * R);
  for (let b = 0; b < B; b++) {
    // The question is truncated as for the query tower; the released code does not truncate it.
    const question = batch[b].ids.subarray(0, config.text.questionTokens - 2);
    for (let r = 0; r < R; r++) {
      const block = blocks[b][r];
      const body = block === undefined ? new Int32Array(0) : corpus.bodyIds(block);
      const pair = pairIds(corpus.tokenizer, question, body, config.qa.readerTokens);
      bodies.push(body);
      offsets[b * R + r] = pair.firstSegment;
      lengths[b * R + r] = pair.ids.length - pair.firstSegment - 1;
      pairs.push(pair);
    }
  }
  const input = encoderInput(
    pairs.map((p) => p.ids),
    pairs.map((p) => p.firstSegment),
  );
  const tokens = blockTokens(input, offsets, lengths);
  const torn = tornPenalty(corpus.tokenizer.continues, bodies, tokens, config.model.maxSpanWidth);
  return { input, blocks: tokens, torn, B, R, T: tokens.longest };
}

export function disposeReading(reading: Reading): void {
  disposeInput(reading.input);
  disposeBlockTokens(reading.blocks);
  reading.torn.dispose();
}

/**
 * Scores [B, R*W*T] of `ownScores` or `addRetrieval` for choosing an answer: spans that start or end within a word get such a
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

/**
 * `TORN_PENALTY` for a start within a word and as much for an end within one, 0 on all other spans: [R, W, T], in the order
 * of `spanScores`.
 * @param continues for each token id, 1 where the piece continues a word
 * @param bodies the ids of each block, of which only the first may be read
 */
function tornPenalty(
  continues: Uint8Array,
  bodies: readonly Int32Array[],
  { lengths, longest: T }: BlockTokens,
  maxSpanWidth: number,
): tf.Tensor3D {
  const W = Math.min(maxSpanWidth, T);
  const penalties = new Float32Array(bodies.length * W * T);
  bodies.forEach((ids, row) => {
    for (let t = 0; t < lengths[row]; t++) {
      const first = t > 0 && continues[ids[t]] ? TORN_PENALTY : 0;
      for (let w = 0; w < W && t + w < lengths[row]; w++) {
        // The word may continue beyond the part of the block that is read.
        const next = t + w + 1;
        const last = next < ids.length && continues[ids[next]] ? TORN_PENALTY : 0;
        penalties[(row * W + w) * T + t] = first + last;
      }
    }
  });
  return tf.tensor3d(penalties, [bodies.length, W, T]);
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

import * as tf from '@tensorflow/tfjs';
import { fusedSpanScores, hasFused } from '../engine/fused.ts';
import {
  type BertConfig,
  type DropoutRng,
  dense,
  denseShapes,
  disposeInput,
  type EncoderInput,
  encode,
  type GatheredRows,
  gatherRows,
  normShapes,
  type Params,
  param,
  type Shape,
  spread,
} from './bert.ts';
import { IMPOSSIBLE } from './marginal.ts';

/** The answer-span scorer on top of the reader's encoder (google-research/language, orqa/models/orqa_model.py). */
export interface ReaderConfig extends BertConfig {
  /** S, size of the start, end and span vectors; 256 in ORQA. */
  spanHidden: number;
  /** Widest answer in word pieces; 10 in ORQA. */
  maxSpanWidth: number;
  /** 1e-3 in the released code, Keras' default. */
  spanLayerNormEps: number;
}

export function readerShapes(config: ReaderConfig): Shape[] {
  return [
    ...denseShapes('span.hidden.', config.hidden, 2 * config.spanHidden),
    ...normShapes('span.norm.', config.spanHidden),
    ...denseShapes('span.output.', config.spanHidden, 1),
  ];
}

/** The blocks' tokens in a batch of joint sequences `[CLS] question [SEP] block [SEP]`. */
export interface BlockTokens {
  /** Tokens of each block. */
  lengths: Int32Array; // [R]
  /** T: tokens of the longest block, at least 1. */
  longest: number;
  /** The rows of the batch that hold them. */
  rows: GatheredRows;
  /** [R, 3] int32: the block's first row among those, its length, and 0, the first token of its spans. */
  tensor: tf.Tensor2D;
}

/** @param offsets where each sequence's block starts; `lengths`: how many tokens it has there */
export function blockTokens(input: EncoderInput, offsets: Int32Array, lengths: Int32Array): BlockTokens {
  const R = input.sequences;
  const positions = Array.from(lengths, (n, r) => new Int32Array(n).map((_, t) => offsets[r] + t));
  const values = new Int32Array(3 * R);
  for (let r = 0, row = 0; r < R; row += lengths[r++]) values.set([row, lengths[r], 0], 3 * r);
  return {
    lengths,
    longest: Math.max(1, ...lengths),
    rows: gatherRows(input, positions),
    tensor: tf.tensor2d(values, [R, 3], 'int32'),
  };
}

export function disposeBlockTokens({ rows, tensor }: BlockTokens): void {
  disposeInput(rows);
  tensor.dispose();
}

/**
 * Scores of every span of width 1 to W in every block: [R, W, T]. Entry (r, w, t) is the span that starts at the block's
 * token t and is w + 1 pieces wide. Spans that leave the block get a large negative number. The last layer is computed for
 * the blocks' tokens only.
 *
 * h = LayerNorm(ReLU(start_i + end_j)), score = v · h + c.
 */
export function spanScores(
  params: Params,
  p: string,
  config: ReaderConfig,
  input: EncoderInput,
  blocks: BlockTokens,
  rng?: DropoutRng,
): tf.Tensor3D {
  return tf.tidy(() => {
    const { rows, lengths, longest: T } = blocks;
    const R = lengths.length;
    const { spanHidden: S, spanLayerNormEps: eps } = config;
    const W = Math.min(config.maxSpanWidth, T);
    if (rows.total === 0) return tf.fill([R, W, T], IMPOSSIBLE) as tf.Tensor3D;
    const ends = dense(params, 'span.hidden.', encode(params, p, config, input, rng, rows)); // [n, 2S]
    if (hasFused()) {
      const weights = {
        gain: param(params, 'span.norm.gain'),
        bias: param(params, 'span.norm.bias'),
        kernel: param(params, 'span.output.kernel'),
        constant: param(params, 'span.output.bias'),
      };
      return fusedSpanScores(ends, weights, blocks.tensor, {
        width: W,
        length: T,
        eps,
        invalid: IMPOSSIBLE,
      });
    }
    const both = spread(ends, rows).reshape([R, T, 2 * S]);
    const start = both.slice([0, 0, 0], [R, T, S]);
    const end = both.slice([0, 0, S], [R, T, S]).pad([
      [0, 0],
      [0, W - 1],
      [0, 0],
    ]); // [R, T+W-1, S]
    const tokens = present(blocks);
    const inBlock = tokens.pad([
      [0, 0],
      [0, W - 1],
    ]); // [R, T+W-1]
    const widths: tf.Tensor[] = [];
    const valid: tf.Tensor[] = [];
    for (let w = 0; w < W; w++) {
      widths.push(start.add(end.slice([0, w, 0], [R, T, S])));
      valid.push(tokens.mul(inBlock.slice([0, w], [R, T])));
    }
    const spans = tf
      .stack(widths, 1)
      .reshape([R * W * T, S])
      .relu() as tf.Tensor2D;
    const scores = scoreSpans(params, spans, eps).reshape([R, W, T]);
    return scores.add(tf.sub(1, tf.stack(valid, 1)).mul(IMPOSSIBLE)) as tf.Tensor3D;
  });
}

/** 1 on tokens of a block, 0 beyond its end: [R, T]. */
function present({ lengths, longest: T }: BlockTokens): tf.Tensor2D {
  const values = new Float32Array(lengths.length * T);
  lengths.forEach((n, r) => {
    values.fill(1, r * T, r * T + n);
  });
  return tf.tensor2d(values, [lengths.length, T]);
}

/**
 * v · LayerNorm(h) + c of many spans: [n, S] → [n, 1]. With g and b the normalisation's gain and bias, u = v ∘ g and ū its
 * mean, this is (u − ū) · h / σ(h) + v · b + c. It needs no normalised copy of h, by far the reader's largest tensor.
 */
function scoreSpans(params: Params, spans: tf.Tensor2D, eps: number): tf.Tensor2D {
  const S = spans.shape[1];
  const v = param(params, 'span.output.kernel') as tf.Tensor2D; // [S, 1]
  const u = v.mul(param(params, 'span.norm.gain').reshape([S, 1]));
  const constant = tf
    .matMul(param(params, 'span.norm.bias').reshape([1, S]), v)
    .add(param(params, 'span.output.bias'));
  const average = tf.fill([S, 1], 1 / S) as tf.Tensor2D;
  const both = tf.matMul(spans, tf.concat([u.sub(u.mean()), average], 1) as tf.Tensor2D); // [n, 2]
  const mean = both.slice([0, 1], [-1, 1]);
  const variance = tf.matMul(spans.square(), average).sub(mean.square()).relu();
  return both.slice([0, 0], [-1, 1]).mul(variance.add(eps).rsqrt()).add(constant) as tf.Tensor2D;
}

import * as tf from '@tensorflow/tfjs';
import { hasFused } from '../engine/fused.ts';
import { pause } from '../system/stop.ts';
import {
  type BertConfig,
  bertShapes,
  type DropoutRng,
  dense,
  denseShapes,
  disposeInput,
  dropout,
  type EncoderInput,
  encode,
  encoderInput,
  layerNorm,
  normShapes,
  pool,
  type Shape,
  type Weights,
} from './bert.ts';
import { type Head, isPooler, vectorLength } from './head.ts';
import { fetchValues } from './host-values.ts';

/** The retriever's encoder: BERT and a head that makes one vector of each text. What is left out is REALM's head. */
export interface EmbedderConfig extends BertConfig, Head {
  projection: number | 'none';
  /** 1e-3 in Keras, used for training; 1e-12 in Hugging Face, which loads the released weights. */
  projectionLayerNormEps: number;
}

/**
 * Vectors of queries or blocks: [B, T] → [B, P]. Their inner product is the retrieval score f(x, z) of the paper's section
 * 3.1. REALM's head is the tanh pooler → dense → LayerNorm → dropout (google-research/language, orqa); that of a sentence
 * encoder is the mean of the tokens or the first one → dense layers → length 1, each where the encoder has it
 * (sentence-transformers: Pooling, Dense, Normalize).
 */
export function embedSequences(
  params: Weights,
  p: string,
  config: EmbedderConfig,
  input: EncoderInput,
  rng?: DropoutRng,
): tf.Tensor2D {
  return tf.tidy(() => {
    const { pooling, projection, projectionLayerNormEps, normalize } = config;
    let x: tf.Tensor2D; // [B, H]
    if (pooling === 'mean') x = meanOfTokens(encode(params, p, config, input, rng), input);
    else {
      const first = encode(params, p, config, input, rng, input.first);
      x = pooling === 'cls' ? first : pool(params, p, first);
    }
    for (const [i, { activation }] of (config.dense ?? []).entries()) {
      x = dense(params, `${p}dense.${i}.`, x, activation === 'tanh' ? 'tanhUnit' : 'none');
    }
    if (projection !== 'none') {
      const projected = dense(params, `${p}projection.`, x);
      x = dropout(layerNorm(params, `${p}projection.norm.`, projected, projectionLayerNormEps), rng);
    }
    return normalize ? unitLength(x) : x;
  });
}

/**
 * The mean of each sequence's rows: [S, H] → [B, H], as a product with a matrix of 1/length. Every engine has that with
 * its gradient, and beside the encoder it costs nothing: 2 B S H operations of some 20 S H² for each layer.
 */
function meanOfTokens(x: tf.Tensor2D, { starts, lengths }: EncoderInput): tf.Tensor2D {
  const [B, S] = [starts.length, x.shape[0]];
  const weights = new Float32Array(B * S);
  for (let b = 0; b < B; b++) {
    const from = b * S + starts[b];
    weights.fill(1 / lengths[b], from, from + lengths[b]);
  }
  return tf.matMul(tf.tensor2d(weights, [B, S]), x);
}

/** The least length that a vector is divided by (torch.nn.functional.normalize). */
const LEAST_LENGTH = 1e-12;

/** Rows divided by their lengths: [B, P]. With y = x / |x| the gradient is (dy − y (y · dy)) / |x|. */
const unitLength = tf.customGrad((x, save) => {
  const input = x as tf.Tensor;
  const length = input.square().sum(1, true).sqrt().maximum(LEAST_LENGTH); // [B, 1]
  const unit = input.div(length);
  (save as tf.GradSaveFunc)([unit, length]);
  return {
    value: unit,
    gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
      const [unit, length] = saved;
      return dy.sub(unit.mul(unit.mul(dy).sum(1, true))).div(length);
    },
  };
}) as (x: tf.Tensor2D) => tf.Tensor2D;

export function embedderShapes(p: string, config: EmbedderConfig): Shape[] {
  const { pooling, projection, hidden } = config;
  const bert = bertShapes(p, config, false);
  const shapes = isPooler(pooling) ? bert : bert.filter(({ name }) => !name.startsWith(`${p}pooler.`));
  let from = hidden;
  config.dense?.forEach(({ size }, i) => {
    shapes.push(...denseShapes(`${p}dense.${i}.`, from, size));
    from = size;
  });
  if (projection !== 'none') {
    shapes.push(
      ...denseShapes(`${p}projection.`, from, projection),
      ...normShapes(`${p}projection.norm.`, projection),
    );
  }
  return shapes;
}

/** Ids of the special tokens. */
export interface SpecialIds {
  cls: number;
  sep: number;
  mask: number;
}

/** How texts become sequences: REALM's way, or a sentence encoder's where `text` is given. */
export interface TextFormat extends SpecialIds {
  text?: {
    /** Word pieces before each query, and before each document. */
    query: Int32Array;
    document: Int32Array;
    /** Tokens of the longest sequence that the encoder is meant for. */
    longest: number;
  };
}

/**
 * How the texts of an encoder with this head become sequences. With the pooler it is REALM's way: a title and a body are a
 * pair. Else they are one text, `prefix title body` in segment 0, as sentence-transformers reads them.
 */
export function textFormat(
  tokenizer: SpecialIds & { encode(text: string): { ids: Int32Array } },
  { pooling, queryPrefix, documentPrefix, sequenceTokens, positions }: Head & { positions: number },
): TextFormat {
  const { cls, sep, mask } = tokenizer;
  if (isPooler(pooling)) return { cls, sep, mask };
  const ids = (prefix: string | null | undefined) => tokenizer.encode(prefix ?? '').ids;
  return {
    cls,
    sep,
    mask,
    text: {
      query: ids(queryPrefix),
      document: ids(documentPrefix),
      longest: Math.min(sequenceTokens ?? positions, positions),
    },
  };
}

/** `[CLS] query [SEP]`, the query truncated to fit `limit` tokens in total. */
export function queryIds(special: SpecialIds, query: Int32Array, limit: number): Int32Array {
  const n = Math.min(query.length, limit - 2);
  const ids = new Int32Array(n + 2);
  ids[0] = special.cls;
  ids.set(query.subarray(0, n), 1);
  ids[n + 1] = special.sep;
  return ids;
}

/**
 * `[CLS] first [SEP] second [SEP]` of at most `limit` tokens, the second truncated to fit; also how many tokens are segment 0.
 * An empty pair is the null document `[CLS] [SEP] [SEP]` (google-research/language, realm/preprocessing.py).
 */
export function pairIds(
  special: SpecialIds,
  first: Int32Array,
  second: Int32Array,
  limit: number,
): { ids: Int32Array; firstSegment: number } {
  const a = Math.min(first.length, limit - 3);
  const b = Math.min(second.length, limit - 3 - a);
  const ids = new Int32Array(a + b + 3);
  ids[0] = special.cls;
  ids.set(first.subarray(0, a), 1);
  ids[a + 1] = special.sep;
  ids.set(second.subarray(0, b), a + 2);
  ids[a + b + 2] = special.sep;
  return { ids, firstSegment: a + 2 };
}

/** Sequences ready to embed: ids of each and how many of its tokens are segment 0. */
export interface Sequences {
  ids: Int32Array[];
  firstSegment: number[];
}

/** The sequences of queries, each of at most `limit` tokens and those of its prefix. */
export function querySequences(format: TextFormat, queries: readonly Int32Array[], limit: number): Sequences {
  const ids = queries.map((q) => textIds(format, format.text?.query, [q], limit));
  return { ids, firstSegment: ids.map((s) => s.length) };
}

/** The sequences of blocks, each of at most `limit` tokens and those of its prefix. */
export function blockSequences(
  format: TextFormat,
  blocks: readonly { title: Int32Array; body: Int32Array }[],
  limit: number,
): Sequences {
  if (format.text) {
    const { document } = format.text;
    const ids = blocks.map(({ title, body }) => textIds(format, document, [title, body], limit));
    return { ids, firstSegment: ids.map((s) => s.length) };
  }
  const pairs = blocks.map((z) => pairIds(format, z.title, z.body, limit));
  return { ids: pairs.map((x) => x.ids), firstSegment: pairs.map((x) => x.firstSegment) };
}

/**
 * `[CLS] prefix text [SEP]`. `limit` holds for the text, as settings count its tokens; the encoder's longest sequence holds
 * for all, as sentence-transformers truncates.
 */
function textIds(
  format: TextFormat,
  prefix: Int32Array | undefined,
  texts: readonly Int32Array[],
  limit: number,
): Int32Array {
  const before = prefix?.length ?? 0;
  const n = Math.min(
    before + texts.reduce((sum, { length }) => sum + length, 0),
    before + limit - 2,
    (format.text?.longest ?? Number.POSITIVE_INFINITY) - 2,
  );
  const all = new Int32Array(n);
  let at = 0;
  for (const part of prefix ? [prefix, ...texts] : texts) {
    const some = part.subarray(0, n - at);
    all.set(some, at);
    at += some.length;
  }
  return queryIds(format, all, n + 2);
}

/**
 * Vectors of many sequences without gradients, row-major [n, P]: sorted by length and batched by tokens, so that little
 * is padded. After each batch it yields to the event loop and awaits `between`.
 */
export async function embedAll(
  params: Weights,
  p: string,
  config: EmbedderConfig,
  sequences: Sequences,
  tokensPerBatch: number,
  between?: () => Promise<void>,
): Promise<Float32Array> {
  const { ids, firstSegment } = sequences;
  const P = vectorLength(config);
  const out = new Float32Array(ids.length * P);
  for (const rows of lengthBatches(ids, tokensPerBatch)) {
    const input = encoderInput(
      rows.map((r) => ids[r]),
      rows.map((r) => firstSegment[r]),
    );
    const vectors = embedSequences(params, p, config, input);
    const [host] = await fetchValues(vectors);
    tf.dispose(vectors);
    disposeInput(input);
    for (let j = 0; j < rows.length; j++) out.set(host.subarray(j * P, (j + 1) * P), rows[j] * P);
    await (between?.() ?? pause());
  }
  return out;
}

/** Row numbers in groups; each group, padded to its longest row, has at most `tokens` tokens (or one row). Longest first. */
export function lengthBatches(sequences: readonly { length: number }[], tokens: number): number[][] {
  const order = sequences.map((_, i) => i).sort((a, b) => sequences[b].length - sequences[a].length || a - b);
  const batches: number[][] = [];
  for (let at = 0; at < order.length; ) {
    const longest = Math.max(1, sequences[order[at]].length);
    const n = Math.max(1, Math.floor(tokens / longest));
    batches.push(order.slice(at, at + n));
    at += n;
  }
  return batches;
}

/** Shortest sequence of a group as a share of its longest: padding costs less than the kernels of one more call. */
const MIN_LENGTH_SHARE = 0.6;

/** Row numbers in groups of similar length, longest first; one group if nothing is padded anyway. */
export function groupByLength(sequences: readonly { length: number }[]): number[][] {
  const order = sequences.map((_, i) => i).sort((a, b) => sequences[b].length - sequences[a].length || a - b);
  if (hasFused()) return [order];
  const groups: number[][] = [];
  for (const row of order) {
    const open = groups.at(-1);
    if (open && sequences[row].length >= MIN_LENGTH_SHARE * sequences[open[0]].length) open.push(row);
    else groups.push([row]);
  }
  return groups;
}

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
  type Params,
  pool,
  type Shape,
} from './bert.ts';
import { fetchValues } from './host-values.ts';

/** The retriever's encoder: BERT, its tanh pooler, then a projection to P with layer normalisation. */
export interface EmbedderConfig extends BertConfig {
  /** P, the length of a vector in the index; 128 in ORQA and REALM. */
  projection: number;
  /** 1e-3 in Keras, used for training; 1e-12 in Hugging Face, which loads the released weights. */
  projectionLayerNormEps: number;
}

/**
 * Vectors of queries or blocks: [B, T] → [B, P] (google-research/language, orqa: pooled output → dense → LayerNorm →
 * dropout). Their inner product is the retrieval score f(x, z) of the paper's section 3.1.
 */
export function embedSequences(
  params: Params,
  p: string,
  config: EmbedderConfig,
  input: EncoderInput,
  rng?: DropoutRng,
): tf.Tensor2D {
  return tf.tidy(() => {
    const first = encode(params, p, config, input, rng, input.first); // [B, H]
    const pooled = pool(params, p, first);
    const projected = dense(params, `${p}projection.`, pooled);
    return dropout(layerNorm(params, `${p}projection.norm.`, projected, config.projectionLayerNormEps), rng);
  });
}

export function embedderShapes(p: string, config: EmbedderConfig): Shape[] {
  return [
    ...bertShapes(p, config, false),
    ...denseShapes(`${p}projection.`, config.hidden, config.projection),
    ...normShapes(`${p}projection.norm.`, config.projection),
  ];
}

/** Ids of the special tokens. */
export interface SpecialIds {
  cls: number;
  sep: number;
  mask: number;
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

export function querySequences(
  special: SpecialIds,
  queries: readonly Int32Array[],
  limit: number,
): Sequences {
  const ids = queries.map((q) => queryIds(special, q, limit));
  return { ids, firstSegment: ids.map((s) => s.length) };
}

export function blockSequences(
  special: SpecialIds,
  blocks: readonly { title: Int32Array; body: Int32Array }[],
  limit: number,
): Sequences {
  const pairs = blocks.map((z) => pairIds(special, z.title, z.body, limit));
  return { ids: pairs.map((x) => x.ids), firstSegment: pairs.map((x) => x.firstSegment) };
}

/**
 * Vectors of many sequences without gradients, row-major [n, P]: sorted by length and batched by tokens, so that little
 * is padded. After each batch it yields to the event loop and awaits `between`.
 */
export async function embedAll(
  params: Params,
  p: string,
  config: EmbedderConfig,
  sequences: Sequences,
  tokensPerBatch: number,
  between?: () => Promise<void>,
): Promise<Float32Array> {
  const { ids, firstSegment } = sequences;
  const P = config.projection;
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

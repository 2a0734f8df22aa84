import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { disposeInput, type EncoderInput, encoderInput, type GatheredRows, gatherRows } from './bert.ts';
import {
  blockSequences,
  groupByLength,
  pairIds,
  querySequences,
  type Sequences,
  textFormat,
} from './embedder.ts';
import type { Model } from './model.ts';
import { disposeRetrieverInput, type RetrieverInput, retrieverInput } from './retriever.ts';

/** A sentence with some of it masked. */
export interface MaskedSentence {
  /** The unmasked sentence, to find its trivial candidates. */
  sentence: Int32Array;
  /** The same with [MASK] in place of the hidden pieces. */
  masked: Int32Array;
  /** Positions of the masks in `[CLS] sentence [SEP]`; `targets`: the word pieces they hide. */
  positions: number[];
  targets: number[];
  /** The block it came from, -1 for none. */
  source: number;
}

/** Sequences with masks, as tensors. */
export interface MaskedBatch {
  input: EncoderInput;
  /** The rows of the masks. */
  masks: GatheredRows;
  /** The word piece that each mask hides. */
  targets: tf.Tensor1D; // [n] int32
}

/** All inputs of one pass of the model, as tensors. */
export interface RealmBatch {
  /** The masked sentences and the distinct documents. */
  retriever: RetrieverInput;
  candidates: tf.Tensor2D; // [B, K] which of the documents
  present: tf.Tensor2D; // [B, K]
  masks: tf.Tensor2D; // [B, M]
  /** Joint sequences in groups of similar length. */
  joint: MaskedBatch[];
  /** For each (b, k, m) the number of its mask among all groups' masks, counted from 1; 0 if there is none: [B*K*M]. */
  order: tf.Tensor1D;
}

/**
 * Tensors of one pass. A document that several sentences share is embedded once; row 0 is the null document.
 * @param candidates blocks of each example in the order of retrieval, without the null document, which is added as the first
 * @param nullDocument false: p(z|x) of the null document is 0, unless there is no other candidate; it is read all the
 *   same, to measure retrieval utility
 */
export function makeRealmBatch(
  model: Model,
  examples: readonly MaskedSentence[],
  candidates: readonly (readonly number[])[],
  corpus: Corpus,
  text: Config['text'],
  nullDocument = true,
): RealmBatch {
  const special = corpus.tokenizer;
  const B = examples.length;
  const K = 1 + Math.max(...candidates.map((c) => c.length));
  const M = Math.max(...examples.map((e) => e.targets.length));
  const none = new Int32Array(0);

  const rowOf = new Map<number, number>();
  const documents: { title: Int32Array; body: Int32Array }[] = [{ title: none, body: none }];
  for (const block of candidates.flat()) {
    if (rowOf.has(block)) continue;
    rowOf.set(block, documents.length);
    documents.push({ title: corpus.titleIds(block), body: corpus.bodyIds(block) });
  }

  const rows = new Int32Array(B * K); // 0, the null document, if a list is shorter
  const present = new Float32Array(B * K);
  const masks = new Float32Array(B * M);
  const joint: Sequences = { ids: [], firstSegment: [] };
  const pairs: { b: number; k: number }[] = [];
  examples.forEach((example, b) => {
    masks.fill(1, b * M, b * M + example.targets.length);
    const query = example.masked.subarray(0, text.sentenceTokens - 2);
    for (let k = 0; k < K; k++) {
      if (k > candidates[b].length) continue;
      const row = k === 0 ? 0 : rowOf.get(candidates[b][k - 1])!;
      rows[b * K + k] = row;
      present[b * K + k] = k > 0 || nullDocument || candidates[b].length === 0 ? 1 : 0;
      // The body without its title, truncated to the block budget minus [CLS] and [SEP], as in the released code.
      const body = documents[row].body.subarray(0, text.blockTokens - 2);
      const { ids, firstSegment } = pairIds(special, query, body, text.sentenceTokens + text.blockTokens);
      joint.ids.push(ids);
      joint.firstSegment.push(firstSegment);
      pairs.push({ b, k });
    }
  });

  const order = new Int32Array(B * K * M);
  let at = 1;
  const groups = groupByLength(joint.ids).map((group) => {
    const targets: number[] = [];
    for (const j of group) {
      const { b, k } = pairs[j];
      targets.push(...examples[b].targets);
      for (let m = 0; m < examples[b].targets.length; m++) order[(b * K + k) * M + m] = at++;
    }
    const input = encoderInput(
      group.map((j) => joint.ids[j]),
      group.map((j) => joint.firstSegment[j]),
    );
    const masks = gatherRows(
      input,
      group.map((j) => examples[pairs[j].b].positions),
    );
    return { input, masks, targets: tf.tensor1d(targets, 'int32') };
  });

  const format = textFormat(special, model.embedder);
  const queries = querySequences(
    format,
    examples.map((e) => e.masked),
    text.sentenceTokens,
  );
  const blocks = blockSequences(format, documents, text.blockTokens);
  return {
    retriever: retrieverInput(model, queries, blocks),
    candidates: tf.tensor2d(rows, [B, K], 'int32'),
    present: tf.tensor2d(present, [B, K]),
    masks: tf.tensor2d(masks, [B, M]),
    joint: groups,
    order: tf.tensor1d(order, 'int32'),
  };
}

export function disposeRealmBatch({ retriever, candidates, present, masks, joint, order }: RealmBatch): void {
  disposeRetrieverInput(retriever);
  for (const input of joint.flatMap((g) => [g.input, g.masks])) disposeInput(input);
  tf.dispose([candidates, present, masks, order, ...joint.map((g) => g.targets)]);
}

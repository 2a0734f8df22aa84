import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { type EncoderInput, encoderInput, inputTensors } from './bert.ts';
import { blockSequences, groupByLength, pairIds, querySequences, type Sequences } from './embedder.ts';

/** A sentence with one salient span masked. */
export interface MaskedSentence {
  /** The sentence as it was; to tell its trivial sources. */
  sentence: Int32Array;
  /** The same with [MASK] in place of the span. */
  masked: Int32Array;
  /** Where the masks stand in `[CLS] sentence [SEP]`, and the word pieces they hide. */
  positions: number[];
  targets: number[];
  /** The block it came from, -1 for none. */
  source: number;
}

/** Everything one pass feeds to the model, as tensors. */
export interface Feed {
  queries: EncoderInput;
  documents: EncoderInput;
  candidates: tf.Tensor2D; // [B, K] rows of `documents`
  present: tf.Tensor2D; // [B, K]
  masks: tf.Tensor2D; // [B, M]
  /** Joint sequences in groups of like length. */
  joint: { input: EncoderInput; positions: tf.Tensor2D; targets: tf.Tensor2D }[];
  /** Row of the concatenated groups that holds pair (b, k): [B*K]. */
  order: tf.Tensor1D;
}

/**
 * Tensors of one pass. A document that several sentences share is embedded once; row 0 is the null document.
 * @param candidates blocks of each example in the order of retrieval, the null document not listed: it comes first by itself
 */
export function makeFeed(
  examples: readonly MaskedSentence[],
  candidates: readonly (readonly number[])[],
  corpus: Corpus,
  text: Config['text'],
): Feed {
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

  const rows = new Int32Array(B * K); // 0, the null document, where a list is shorter
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
      present[b * K + k] = 1;
      // The body without its title, cut to the block budget less [CLS] and [SEP], as released.
      const body = documents[row].body.subarray(0, text.blockTokens - 2);
      const { ids, firstSegment } = pairIds(special, query, body, text.sentenceTokens + text.blockTokens);
      joint.ids.push(ids);
      joint.firstSegment.push(firstSegment);
      pairs.push({ b, k });
    }
  });

  const order = new Int32Array(B * K); // an absent pair points at row 0, whatever stands there: its prior is 0
  let at = 0;
  const groups = groupByLength(joint.ids).map((group) => {
    const positions = new Int32Array(group.length * M);
    const targets = new Int32Array(group.length * M);
    group.forEach((j, r) => {
      const { b, k } = pairs[j];
      order[b * K + k] = at + r;
      positions.set(examples[b].positions, r * M);
      targets.set(examples[b].targets, r * M);
    });
    at += group.length;
    return {
      input: encoderInput(
        group.map((j) => joint.ids[j]),
        group.map((j) => joint.firstSegment[j]),
      ),
      positions: tf.tensor2d(positions, [group.length, M], 'int32'),
      targets: tf.tensor2d(targets, [group.length, M], 'int32'),
    };
  });

  const queries = querySequences(
    special,
    examples.map((e) => e.masked),
    text.sentenceTokens,
  );
  const blocks = blockSequences(special, documents, text.blockTokens);
  return {
    queries: encoderInput(queries.ids, queries.firstSegment),
    documents: encoderInput(blocks.ids, blocks.firstSegment),
    candidates: tf.tensor2d(rows, [B, K], 'int32'),
    present: tf.tensor2d(present, [B, K]),
    masks: tf.tensor2d(masks, [B, M]),
    joint: groups,
    order: tf.tensor1d(order, 'int32'),
  };
}

export function feedTensors(feed: Feed): tf.Tensor[] {
  const inputs = [feed.queries, feed.documents, ...feed.joint.map((g) => g.input)];
  return [
    ...inputs.flatMap(inputTensors),
    feed.candidates,
    feed.present,
    feed.masks,
    ...feed.joint.flatMap((g) => [g.positions, g.targets]),
    feed.order,
  ];
}

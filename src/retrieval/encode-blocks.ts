import type { Corpus } from '../corpus/store/reader.ts';
import { withBf16 } from '../model/bert.ts';
import { blockSequences, embedAll, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import type { Model } from '../model/model.ts';
import type { Precision } from './manifest.ts';
import type { Reuse } from './reuse.ts';
import { type TaskControl, yieldToEventLoop } from './task-control.ts';

/**
 * Blocks read and sorted by length at a time: enough for batches with little padding, few enough to need little memory. A
 * vector's last digits depend on its batch, and so on the piece that its block is in.
 */
export const PIECE_BLOCKS = 1024;

export interface EncodeOptions {
  /** Longest block in word pieces, with its title and special tokens. */
  blockTokens: number;
  tokensPerBatch: number;
  /** f32 by default; bf16 only where `hasBf16`. */
  precision?: Precision;
  /** The block to start with, a multiple of `PIECE_BLOCKS`, so that always the same blocks are embedded together. */
  first?: number;
  /** The block to stop before, such a multiple too, or the number of blocks. */
  end?: number;
  /** Vectors to copy instead of embedding. */
  reuse?: Reuse;
  control?: TaskControl;
}

/** Vectors of the blocks from `first` to `end`, in order; each piece [n, P]. */
export async function* encodeBlocks(
  model: Model,
  corpus: Corpus,
  { first = 0, end = corpus.blocks, reuse, control = {}, ...sizes }: EncodeOptions,
): AsyncGenerator<Float32Array> {
  for (const edge of [first, end])
    if (edge % PIECE_BLOCKS !== 0 && edge !== corpus.blocks)
      throw new Error(`block ${edge} is not the start of a piece of ${PIECE_BLOCKS}`);
  const P = vectorLength(model.embedder);
  for (let at = first; at < end; at += PIECE_BLOCKS) {
    const n = Math.min(PIECE_BLOCKS, end - at);
    const rows = Int32Array.from({ length: n }, (_, i) => reuse?.row(corpus.hash(at + i)) ?? -1);
    const piece = new Float32Array(n * P);
    reuse?.copy(rows, piece);
    const missing = [...rows.keys()].filter((i) => rows[i] < 0);
    const vectors = await encodeChosen(
      model,
      corpus,
      missing.map((i) => at + i),
      sizes,
      () => yieldToEventLoop(control), // a batch may take seconds; a refresher must receive "stop" between two
    );
    for (const [j, i] of missing.entries()) piece.set(vectors.subarray(j * P, (j + 1) * P), i * P);
    yield piece;
    await yieldToEventLoop(control);
  }
}

/** Vectors of the blocks with these numbers, in this order: [n, P]. @param between awaited after each batch */
export async function encodeChosen(
  model: Model,
  corpus: Corpus,
  blocks: readonly number[],
  {
    blockTokens,
    tokensPerBatch,
    precision,
  }: Pick<EncodeOptions, 'blockTokens' | 'tokensPerBatch' | 'precision'>,
  between?: () => Promise<void>,
): Promise<Float32Array> {
  const texts = blocks.map((block) => ({ title: corpus.titleIds(block), body: corpus.bodyIds(block) }));
  const sequences = blockSequences(textFormat(corpus.tokenizer, model.embedder), texts, blockTokens);
  const { params, documentTower, embedder } = model;
  const packed = precision === 'bf16' ? withBf16(params, documentTower, embedder) : undefined;
  try {
    return await embedAll(
      packed?.weights ?? params,
      documentTower,
      embedder,
      sequences,
      tokensPerBatch,
      between,
    );
  } finally {
    packed?.dispose();
  }
}

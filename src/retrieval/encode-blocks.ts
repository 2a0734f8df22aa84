import type { Corpus } from '../corpus/store.ts';
import { blockSequences, embedAll } from '../model/embedder.ts';
import type { Model } from '../model/model.ts';

/** Blocks read and sorted by length at a time: enough for batches without padding, few enough to stay small in memory. */
const PIECE = 1024;

/** Vectors of all blocks in order, [n, P] a piece. */
export async function* encodeBlocks(
  model: Model,
  corpus: Corpus,
  blockTokens: number,
  tokensPerBatch: number,
  onProgress?: (done: number) => void,
): AsyncGenerator<Float32Array> {
  for (let at = 0; at < corpus.blocks; at += PIECE) {
    const end = Math.min(corpus.blocks, at + PIECE);
    const blocks = [];
    for (let b = at; b < end; b++) blocks.push({ title: corpus.titleIds(b), body: corpus.bodyIds(b) });
    const sequences = blockSequences(corpus.tokenizer, blocks, blockTokens);
    yield await embedAll(model.params, model.documentTower, model.embedder, sequences, tokensPerBatch);
    onProgress?.(end);
    // Lets messages in: a refresher must hear "stop" between two pieces.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

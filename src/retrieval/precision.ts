import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { hasBf16 } from '../engine/fused.ts';
import { embedAll, querySequences, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import type { Model } from '../model/model.ts';
import { encodeChosen } from './encode-blocks.ts';
import type { Precision } from './manifest.ts';
import { type TaskControl, yieldToEventLoop } from './task-control.ts';

// Blocks are embedded with products in BF16 where the processor has them and they change almost no search. That depends on
// the weights and on the text, so it is measured before an index is built.

/** The sample: so many runs of neighbours, which are the hardest to tell apart, and of so many blocks each. */
const RUNS = 12;
const RUN_BLOCKS = 32;
/** Neighbours of a query that are compared. */
const BEST = 10;
/** The least share of a query's best blocks that must stay the same. */
export const LEAST_RECALL = 0.995;
/** With fewer blocks, measuring would take longer than it saves. */
export const LEAST_BLOCKS = 8192;

/** The precision to embed the blocks in. @param leastBlocks replaced only by tests */
export async function blockPrecision(
  model: Model,
  corpus: Corpus,
  config: Config,
  control: TaskControl = {},
  leastBlocks = LEAST_BLOCKS,
): Promise<Precision> {
  if (config.index.precision === 'f32' || !hasBf16() || corpus.blocks < leastBlocks) return 'f32';
  return (await recallInBf16(model, corpus, config, control)) >= LEAST_RECALL ? 'bf16' : 'f32';
}

/**
 * The share of the ten best blocks of a sample that remain among the ten best if the blocks are embedded in BF16. The queries
 * are the first sentences of the blocks, always embedded in f32, with the document tower: where an index is refreshed there is no other.
 */
export async function recallInBf16(
  model: Model,
  corpus: Corpus,
  { text, index }: Config,
  control: TaskControl = {},
): Promise<number> {
  const blocks = sampleBlocks(corpus.blocks);
  const between = () => yieldToEventLoop(control);
  const sizes = { blockTokens: text.blockTokens, tokensPerBatch: index.tokensPerBatch };
  const sentences = blocks.map((block) => {
    const [start, end] = corpus.sentenceStarts(block);
    return corpus.bodyIds(block).subarray(start, end);
  });
  const format = textFormat(corpus.tokenizer, model.embedder);
  const queries = await embedAll(
    model.params,
    model.documentTower,
    model.embedder,
    querySequences(format, sentences, text.sentenceTokens),
    index.tokensPerBatch,
    between,
  );
  const P = vectorLength(model.embedder);
  const [exact, rounded] = [
    await encodeChosen(model, corpus, blocks, { ...sizes, precision: 'f32' }, between),
    await encodeChosen(model, corpus, blocks, { ...sizes, precision: 'bf16' }, between),
  ];
  let same = 0;
  let all = 0;
  for (let q = 0; q < blocks.length; q++) {
    const query = queries.subarray(q * P, (q + 1) * P);
    const best = new Set(bestRows(query, exact));
    same += bestRows(query, rounded).filter((row) => best.has(row)).length;
    all += best.size;
  }
  return same / all;
}

/** Numbers of the sample's blocks; all blocks, if there are no more. */
function sampleBlocks(blocks: number): number[] {
  if (blocks <= RUNS * RUN_BLOCKS) return [...Array(blocks).keys()];
  return Array.from({ length: RUNS * RUN_BLOCKS }, (_, i) => {
    const run = Math.floor(i / RUN_BLOCKS);
    return Math.floor((run * (blocks - RUN_BLOCKS)) / (RUNS - 1)) + (i % RUN_BLOCKS);
  });
}

/** The rows of `vectors` [n, P] with the largest inner products. */
function bestRows(query: Float32Array, vectors: Float32Array): number[] {
  const P = query.length;
  const scores = Float64Array.from({ length: vectors.length / P }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < P; i++) sum += query[i] * vectors[row * P + i];
    return sum;
  });
  return [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, BEST);
}

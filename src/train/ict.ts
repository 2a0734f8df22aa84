import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { alone, type Ranks } from '../engine/ranks.ts';
import { type DropoutRng, dropoutRng, type Shape } from '../model/bert.ts';
import { blockSequences, querySequences, type Sequences, textFormat } from '../model/embedder.ts';
import { fetchValues } from '../model/host-values.ts';
import { ictGradients, ictLoss } from '../model/ict.ts';
import { lossGradients, type Model, retrieverShapes } from '../model/model.ts';
import { disposeRetrieverInput, embedBoth, retrieverInput } from '../model/retriever.ts';
import type { Random } from '../random.ts';
import { cachedGradients, type Division } from './gradient-cache.ts';
import { exampleAt, stepRandom } from './sampler.ts';
import type { StepResult } from './step.ts';

/**
 * One step of the inverse cloze task: a batch of blocks in the sampler's order, one sentence of each as its query, and
 * the gradients of the in-batch softmax, with the negatives of the whole batch.
 */
export function ictStep(
  model: Model,
  corpus: Corpus,
  config: Config,
  ranks: Ranks = alone,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -1));
  const shapes = retrieverShapes(model);
  return {
    step(step) {
      const random = stepRandom(config.seed, step);
      const examples = drawExamples(corpus, config, step, random);
      if (rng) rng.random = random;
      return batchGradients(model, shapes, examples, { microBatch: config.ict.microBatch, rng, ranks });
    },
    dispose: () => rng?.dispose(),
  };
}

/** Queries and their blocks, row by row. */
export interface IctExamples {
  queries: Sequences;
  blocks: Sequences;
}

function drawExamples(corpus: Corpus, config: Config, step: number, random: Random): IctExamples {
  const { batch, keepSentence } = config.ict;
  const format = textFormat(corpus.tokenizer, config.model);
  const queries: Int32Array[] = [];
  const blocks: { title: Int32Array; body: Int32Array }[] = [];
  // A batch belongs to one epoch; last blocks that do not fill a batch are left out. A block that occurs twice would be its own negative.
  const size = Math.min(batch, corpus.blocks);
  const perEpoch = Math.floor(corpus.blocks / size);
  const start = Math.floor(step / perEpoch) * corpus.blocks + (step % perEpoch) * size;
  for (let i = 0; i < size; i++) {
    const block = exampleAt(config.seed, corpus.blocks, start + i);
    const example = inverseCloze(corpus.bodyIds(block), corpus.sentenceStarts(block), keepSentence, random);
    queries.push(example.query);
    blocks.push({ title: corpus.titleIds(block), body: example.body });
  }
  return {
    queries: querySequences(format, queries, config.text.questionTokens),
    blocks: blockSequences(format, blocks, config.text.blockTokens),
  };
}

/**
 * One sentence of a block, uniformly drawn, as the query; it is removed from the block except with probability `keep`
 * (Lee et al. 2019, section 4). The sentence of a one-sentence block is always kept: otherwise its block would be empty.
 */
export function inverseCloze(
  body: Int32Array,
  starts: Int32Array,
  keep: number,
  random: Random,
): { query: Int32Array; body: Int32Array } {
  const s = random.int(starts.length);
  const start = starts[s];
  const end = s + 1 < starts.length ? starts[s + 1] : body.length;
  const query = body.slice(start, end);
  if (random.float() < keep || starts.length === 1) return { query, body };
  const rest = new Int32Array(body.length - (end - start));
  rest.set(body.subarray(0, start));
  rest.set(body.subarray(end), start);
  return { query, body: rest };
}

/**
 * Gradients of the whole batch's softmax. A batch no larger than `microBatch` is differentiated at once; a larger one, or
 * one of several ranks, in micro-batches, with the same result (see `cachedGradients`).
 */
export function batchGradients(
  model: Model,
  shapes: readonly Shape[],
  examples: IctExamples,
  division: Division,
): Promise<StepResult> {
  const { microBatch, rng, ranks = alone } = division;
  const B = examples.queries.ids.length;
  if (B <= microBatch && ranks.size === 1) return onePass(model, shapes, examples, rng);
  const sides = [
    { tower: model.queryTower, ...examples.queries },
    { tower: model.documentTower, ...examples.blocks },
  ];
  return cachedGradients(model, shapes, sides, division, async ([q, z]) => {
    const of = ictGradients(q, z, model.temperature);
    const [[loss], [correct]] = await fetchValues(of.loss, of.correct);
    tf.dispose([of.loss, of.correct]);
    // Every rank has computed the same: its share of the sum over the ranks.
    const metrics = { loss: loss / ranks.size, accuracy: correct / B / ranks.size };
    return { vectors: [of.queries, of.blocks], metrics };
  });
}

async function onePass(
  model: Model,
  shapes: readonly Shape[],
  { queries, blocks }: IctExamples,
  rng: DropoutRng | undefined,
): Promise<StepResult> {
  const input = retrieverInput(model, queries, blocks);
  let correct = tf.scalar(0);
  const { value, gradients } = lossGradients(model, shapes, () => {
    const vectors = embedBoth(model, input, rng);
    const result = ictLoss(vectors.queries, vectors.documents, model.temperature);
    tf.dispose(correct);
    correct = tf.keep(result.correct);
    return result.loss;
  });
  const [[loss], [hits]] = await fetchValues(value, correct);
  const metrics = { loss, accuracy: hits / queries.ids.length };
  tf.dispose([value, correct]);
  disposeRetrieverInput(input);
  return { gradients, metrics };
}

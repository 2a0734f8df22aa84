import type { Config } from '../config.ts';
import type { Counts, Machine } from './types.ts';

// What one training step of each stage computes, and how long that takes, from sizes alone.
// Letters: B sequences, T tokens of a sequence, H hidden, F intermediate, N heads, V vocabulary, M masks, W span widths.

/** Work of one forward pass. */
export interface Work {
  /** Operations of products of matrices in dense layers, and of queries, keys and values. */
  dense: number;
  attention: number;
  /** Floats of all tensors that it makes, of those kept for gradients, and of the most held at once where no gradients are needed. */
  floats: number;
  kept: number;
  held: number;
  kernels: number;
}

const NOTHING: Work = { dense: 0, attention: 0, floats: 0, kept: 0, held: 0, kernels: 0 };

/** Passes one after the other. */
export function add(...works: Work[]): Work {
  return works.reduce(
    (a, b) => ({
      dense: a.dense + b.dense,
      attention: a.attention + b.attention,
      floats: a.floats + b.floats,
      kept: a.kept + b.kept,
      held: Math.max(a.held, b.held),
      kernels: a.kernels + b.kernels,
    }),
    NOTHING,
  );
}

/** The same pass `n` times. */
function times(work: Work, n: number): Work {
  const { dense, attention, floats, kept, held, kernels } = work;
  return {
    dense: n * dense,
    attention: n * attention,
    floats: n * floats,
    kept: n * kept,
    held,
    kernels: n * kernels,
  };
}

/**
 * Forward work of the encoder (src/model/bert.ts) on B sequences of T tokens. Multiplications and additions each count
 * one. A layer has 4 H² + 2 HF weights that every token meets; its attention makes scores and contexts of 2 T H
 * products a token. Floats a token and layer: 8 H and F with kernels of our own; composed of the engine's kernels 24 H and
 * 4 F, 3 a score of its N T, and with dropout 4 H and 2 a score more. Numbers of kernels were counted in a step.
 * @param fused whether the engine has kernels of our own (src/engine/fused.ts)
 * @param read tokens of each sequence whose last layer is computed (see `encode`); all where it is not given
 */
export function encoderWork(
  { layers, hidden: H, intermediate: F, heads: N, dropout, recompute }: Config['model'],
  fused: boolean,
  B: number,
  T: number,
  read = T,
): Work {
  const tokens = B * T;
  const masks = dropout > 0 ? 1 : 0;
  const layerFloats = fused ? 8 * H + F : (24 + 4 * masks) * H + 4 * F + (3 + 2 * masks) * N * T;
  const embeddings = tokens * (fused ? 2 : 8) * H;
  const full = {
    dense: 2 * tokens * (4 * H * H + 2 * H * F),
    attention: 4 * tokens * T * H,
    floats: tokens * layerFloats,
  };
  const rows = B * Math.min(read, T);
  const last =
    rows === tokens
      ? full
      : {
          dense: 2 * tokens * 2 * H * H + 2 * rows * (2 * H * H + 2 * H * F),
          attention: 4 * rows * T * H,
          floats: tokens * (fused ? 2 : 9) * H + rows * layerFloats,
        };
  const floats = embeddings + (layers - 1) * full.floats + last.floats;
  const held = embeddings + (layers > 1 ? full : last).floats;
  return {
    dense: (layers - 1) * full.dense + last.dense,
    attention: (layers - 1) * full.attention + last.attention,
    floats,
    kept: recompute ? layers * tokens * H + held : floats,
    held,
    kernels: fused ? 32 + 8 * layers : 60 + 50 * layers,
  };
}

/** Work that holds all its tensors until its end. */
function headWork(dense: number, floats: number, kernels: number): Work {
  return { dense, attention: 0, floats, kept: floats, held: floats, kernels };
}

/** Scores of V word pieces for each of `rows` masks: the logits and their gradient, and composed, three more such tensors. */
function maskWork({ hidden: H }: Config['model'], fused: boolean, V: number, rows: number): Work {
  return headWork(2 * rows * (H * H + H * V), rows * (fused ? 2 : 5) * V, 20);
}

/** The span scorer on B sequences of T tokens: W spans of S floats start at each; composed, they are in four tensors. */
export function spanWork(
  { hidden: H, spanHidden: S, maxSpanWidth }: Config['model'],
  fused: boolean,
  B: number,
  T: number,
): Work {
  const W = Math.min(maxSpanWidth, T);
  const floats = B * T * (4 * S + (fused ? W : 4 * W * S));
  return headWork(2 * B * T * (H * 2 * S + W * S * 3), floats, 50 + 5 * W);
}

/** Tokens of the sequences that the stages make of the data, special ones included: of the mean or of the longest texts. */
export function lengths({ text, qa }: Config, counts: Counts, which: 'mean' | 'max') {
  const title = counts.title[which];
  const body = counts.body[which];
  const sentence = Math.min(counts.sentence[which] + 2, text.sentenceTokens);
  const query = Math.min(counts.question[which] + 2, text.questionTokens);
  return {
    block: Math.min(3 + title + body, text.blockTokens),
    sentence,
    clozeQuery: Math.min(sentence, text.questionTokens),
    question: query,
    pair: sentence + 1 + Math.min(body, text.blockTokens - 2),
    reading: Math.min(query + 1 + body, qa.readerTokens),
  };
}

/** Word pieces in the largest masked span of a usual batch: names and dates are short. */
const USUAL_MASKED_PIECES = 5;

/**
 * Forward work of one step. The part with gradients is done in passes, and each pass holds all its tensors. `extra` is
 * forward work without gradients (queries embedded to search with, micro-batches embedded ahead).
 */
export interface StepWork {
  pass: Work;
  passes: number;
  extra: Work;
}

/** With `model.recompute` each pass is computed forward once more, for its gradients. */
function stepOf({ model }: Config, { pass, passes, extra }: StepWork): StepWork {
  return { pass, passes, extra: model.recompute ? add(extra, times(pass, passes)) : extra };
}

/** Estimates one step of a stage, with the mean or the longest texts. */
export type WorkOf = (config: Config, counts: Counts, fused: boolean, which: 'mean' | 'max') => StepWork;

export const ictWork: WorkOf = (config, counts, fused, which) => {
  const L = lengths(config, counts, which);
  const { model } = config;
  const batch = Math.min(config.ict.batch, counts.blocks);
  const microBatch = Math.min(config.ict.microBatch, batch);
  const queries = encoderWork(model, fused, microBatch, L.clozeQuery, 1);
  const blocks = encoderWork(model, fused, microBatch, L.block, 1);
  const passes = batch / microBatch;
  const both = add(queries, blocks);
  if (passes === 1) return stepOf(config, { pass: both, passes, extra: NOTHING });
  // Micro-batches hold either queries or blocks; those of blocks are larger. All are embedded ahead.
  const pass = { ...both, kept: blocks.kept };
  return stepOf(config, { pass, passes, extra: times(both, passes) });
};

export const readerWarmupWork: WorkOf = (config, counts, fused, which) => {
  const L = lengths(config, counts, which);
  const { model } = config;
  const { batch } = config.readerWarmup;
  const { maxMasks } = config.pretrain;
  const B = Math.min(config.readerWarmup.microBatch, batch);
  const M = which === 'max' ? maxMasks : Math.min(maxMasks, USUAL_MASKED_PIECES);
  const pass = add(encoderWork(model, fused, B, L.pair, M), maskWork(model, fused, counts.vocabulary, B * M));
  return stepOf(config, { pass, passes: batch / B, extra: NOTHING });
};

export const pretrainWork: WorkOf = (config, counts, fused, which) => {
  const L = lengths(config, counts, which);
  const { model } = config;
  const { batch, candidates, maxMasks } = config.pretrain;
  const B = Math.min(config.pretrain.microBatch, batch);
  const K = Math.min(candidates - 1, counts.blocks);
  const M = which === 'max' ? maxMasks : Math.min(maxMasks, USUAL_MASKED_PIECES);
  const pass = add(
    encoderWork(model, fused, B, L.sentence, 1),
    encoderWork(model, fused, Math.min(B * K, counts.blocks) + 1, L.block, 1),
    encoderWork(model, fused, B * K, L.pair, M),
    encoderWork(model, fused, B, L.sentence + 1, M), // with the null document
    maskWork(model, fused, counts.vocabulary, B * (K + 1) * M),
  );
  const extra = encoderWork(model, fused, batch, L.sentence, 1);
  return stepOf(config, { pass, passes: batch / B, extra });
};

export const qaWork: WorkOf = (config, counts, fused, which) => {
  const L = lengths(config, counts, which);
  const { model } = config;
  const { batch, readerBlocks, refreshEvery } = config.qa;
  if (config.qa.contrastive > 0) return contrastiveWork(config, counts, fused, which);
  const B = Math.min(config.qa.microBatch, batch);
  const rows = B * Math.min(readerBlocks, counts.blocks);
  const queries = encoderWork(model, fused, B, L.question, 1);
  const reembedded = refreshEvery === null ? 0 : Math.min(rows, counts.blocks);
  const pass = add(
    queries,
    ...(reembedded > 0 ? [encoderWork(model, fused, reembedded, L.block, 1)] : []),
    readingWork(config, fused, rows, L.reading),
  );
  return stepOf(config, { pass, passes: batch / B, extra: times(queries, batch / B) });
};

function readingWork({ model }: Config, fused: boolean, rows: number, T: number): Work {
  return add(encoderWork(model, fused, rows, T), spanWork(model, fused, rows, T));
}

/**
 * With `qa.contrastive`: all texts of the batch are embedded ahead, and then once more in micro-batches; the questions that are
 * read have passes of their own.
 */
const contrastiveWork: WorkOf = (config, counts, fused, which) => {
  const L = lengths(config, counts, which);
  const { model, qa } = config;
  const B = Math.min(qa.microBatch, qa.batch);
  const passes = qa.batch / B;
  const R = Math.min(qa.readerBlocks, counts.blocks);
  const read = Math.min(qa.readQuestions ?? qa.batch, qa.batch);
  const perQuestion = 1 + qa.hardNegatives + qa.minedNegatives;
  const blocks = Math.min(qa.batch * perQuestion + read * R, counts.blocks);
  const queries = encoderWork(model, fused, B, L.question, 1);
  const embedded = add(queries, encoderWork(model, fused, blocks / passes, L.block, 1));
  const mean = add(embedded, readingWork(config, fused, (read * R) / passes, L.reading));
  // What is held at once: a micro-batch of blocks, or one of questions that are read.
  const kept = Math.max(
    encoderWork(model, fused, Math.min(B, blocks), L.block, 1).kept,
    readingWork(config, fused, Math.min(B, read) * R, L.reading).kept,
  );
  const extra = add(times(embedded, passes), ...(model.dropout > 0 ? [times(queries, passes)] : []));
  return stepOf(config, { pass: { ...mean, kept }, passes, extra });
};

/** Forward work of answering so many questions at once, each read in `qa.readerBlocks` blocks. */
export function answerWork(
  config: Config,
  counts: Counts,
  fused: boolean,
  questions: number,
  which: 'mean' | 'max',
): Work {
  const { model, qa } = config;
  const { question, reading } = lengths(config, counts, which);
  return add(
    encoderWork(model, fused, questions, question, 1),
    readingWork(config, fused, questions * qa.readerBlocks, reading),
  );
}

// ---------------------------------------------------------------------------------------------- time

/** Products of a pass with its gradients, for each forward: the gradients of input and of weights are two more. */
const TRAINING_PRODUCTS = 3;
/** Bytes moved for each float that a pass makes: forward alone, and with gradients. Fitted to measured steps (docs/engines.md). */
const FORWARD_BYTES_PER_FLOAT = 20;
const TRAINING_BYTES_PER_FLOAT = 60;
/** Kernels called with gradients for each one called forward. */
const TRAINING_KERNELS = 3.5;
/** Seconds of a call in those of the smallest kernel: the engine also records what gradients need. */
const CALL_COST = 2;
/** Floats that an AdamW update moves for each parameter: in one kernel of our own with the norm before it, or tensor by tensor. */
const UPDATE_FLOATS = { fused: 15, composed: 30 };

/** Seconds of forward work. */
export function forwardSeconds(work: Work, { dense, attention, elementwise, kernel }: Machine): number {
  return (
    work.dense / dense +
    work.attention / attention +
    (work.floats * FORWARD_BYTES_PER_FLOAT) / elementwise +
    work.kernels * CALL_COST * kernel
  );
}

/** Seconds of a training step: its passes with gradients, its other forward work, and the update. */
export function stepSeconds({ pass, passes, extra }: StepWork, parameters: number, machine: Machine): number {
  const { dense, attention, elementwise, kernel, fused } = machine;
  const update = 4 * (fused ? UPDATE_FLOATS.fused : UPDATE_FLOATS.composed);
  const onePass =
    (TRAINING_PRODUCTS * pass.dense) / dense +
    (TRAINING_PRODUCTS * pass.attention) / attention +
    (pass.floats * TRAINING_BYTES_PER_FLOAT) / elementwise +
    pass.kernels * TRAINING_KERNELS * CALL_COST * kernel;
  return passes * onePass + forwardSeconds(extra, machine) + (parameters * update) / elementwise;
}

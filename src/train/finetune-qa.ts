import * as tf from '@tensorflow/tfjs';
import { answerFinder } from '../answers/answer-finder.ts';
import { answerSpans } from '../answers/has-answer.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import {
  type DropoutRng,
  disposeInput,
  dropoutRng,
  type EncoderInput,
  encoderInput,
  type Shape,
} from '../model/bert.ts';
import { blockSequences, embedSequences, querySequences, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import { lossGradients, type Model, modelShapes } from '../model/model.ts';
import { answerPieces, type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { marginalLogLoss } from '../model/reader.ts';
import { disposeReading, makeReading, type Reading, readScores, wholeWordScores } from '../model/reading.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { pause } from '../system/stop.ts';
import { addGradients, type StepResult } from './loop.ts';
import { candidateMaker } from './qa-candidates.ts';
import { exampleAt, stepRandom } from './sampler.ts';

/**
 * One step of open-domain question answering (google-research/language, orqa_model.py; paper, section 3.3): the
 * retriever's loss over many blocks, with the index's frozen vectors, and the reader's loss over all spans of the best
 * few. The query tower and the reader are trained, the document tower is frozen. Unlike the released code, which uses one
 * question per step, a batch of questions is read together; `qa.gold` and `qa.hardNegatives` add blocks to those
 * retrieved. With `qa.refreshEvery` the document tower is trained too, through the blocks that are read: both losses
 * then score these with its current vectors, as in RAG-end2end, EMDR2 and Atlas; other blocks keep the index's vectors.
 */
export function qaStep(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -3));
  const shapes = qaShapes(model, config.qa.refreshEvery !== null);
  const hasAnswer = answerFinder(corpus);
  const candidates = candidateMaker(corpus, questions, config.qa, hasAnswer);
  const source = { model, corpus, index, config, hasAnswer, candidates };
  return {
    async step(step) {
      if (rng) rng.random = stepRandom(config.seed, step);
      const batch = [];
      for (let i = 0; i < config.qa.batch; i++) {
        batch.push(questions[exampleAt(config.seed + 2, questions.length, step * config.qa.batch + i)]);
      }
      let gradients: tf.NamedTensorMap | undefined;
      const sums: StepResult['metrics'] = { loss: 0 };
      for (let at = 0; at < batch.length; at += config.qa.microBatch) {
        const part = batch.slice(at, at + config.qa.microBatch);
        const input = await makeQaBatch(source, part);
        const result = await qaGradients(model, shapes, input, batch.length, rng);
        disposeQaBatch(input);
        gradients = addGradients(gradients, result.gradients);
        for (const [name, value] of Object.entries(result.metrics)) sums[name] = (sums[name] ?? 0) + value;
        await pause();
      }
      return { gradients: gradients!, metrics: sums };
    },
    dispose: () => rng?.dispose(),
  };
}

/**
 * What fine-tuning trains: the query tower, and the reader without its masked-language-model head.
 * @param documents the document tower too
 */
export function qaShapes(model: Model, documents = false): Shape[] {
  const trained = [model.queryTower, model.readerTower, 'span.', ...(documents ? [model.documentTower] : [])];
  return modelShapes(model).filter(
    ({ name }) =>
      trained.some((prefix) => name.startsWith(prefix)) &&
      !name.startsWith(`${model.readerTower}mlm.`) &&
      !name.startsWith(`${model.readerTower}pooler.`),
  );
}

/** All inputs of one step of fine-tuning: B questions, C blocks for each, R of them read. */
export interface QaBatch {
  queries: EncoderInput;
  /** The index's vectors of the blocks; zeros for those in `documents`. */
  vectors: tf.Tensor3D; // [B, C, P]
  /** The blocks that are read, to embed them with the current document tower; absent if it is frozen. */
  documents?: Documents;
  /** 1 for a block, 0 beyond the end of a shorter list. */
  present: tf.Tensor2D; // [B, C]
  /** 1 if it holds an answer. */
  positives: tf.Tensor2D; // [B, C]
  reading: Reading;
  /** 1 on every span of `readScores` that is an answer. */
  spans: tf.Tensor2D; // [B, R*W*T]
}

/** Distinct blocks, and the row of the first, second, … block of each question. */
export interface Documents {
  input: EncoderInput;
  rows: tf.Tensor1D; // [B*R]
}

/** What the blocks of a step are chosen with. */
interface QaBatchSource extends Retrieval {
  index: SearchIndex;
  hasAnswer: ReturnType<typeof answerFinder>;
  candidates: ReturnType<typeof candidateMaker>;
}

async function makeQaBatch(source: QaBatchSource, batch: readonly EncodedQuestion[]): Promise<QaBatch> {
  const { model, corpus, index, config } = source;
  const B = batch.length;
  const P = vectorLength(config.model);
  const queries = querySequences(
    textFormat(corpus.tokenizer, model.embedder),
    batch.map((q) => q.ids),
    config.text.questionTokens,
  );
  // The blocks to read come from the same search as the others, so that both losses see one ranking.
  const n = Math.min(config.qa.retrieverBlocks, corpus.blocks);
  const found = index.search(await questionVectors(model, corpus, batch, config), n);
  const lists = batch.map((question, b) =>
    source.candidates(question, Array.from(found.blocks.subarray(b * n, b * n + found.counts[b]))),
  );
  const C = Math.max(1, ...lists.map((list) => list.length));
  const vectors = new Float32Array(B * C * P);
  const present = new Float32Array(B * C);
  const positives = new Float32Array(B * C);
  const R = Math.min(config.qa.readerBlocks, C);
  const fresh = config.qa.refreshEvery === null ? 0 : R; // blocks that the current document tower embeds
  for (const [b, list] of lists.entries()) {
    vectors.set(index.vectors(Int32Array.from(list.slice(fresh))), (b * C + fresh) * P);
    present.fill(1, b * C, b * C + list.length);
    for (let c = 0; c < list.length; c++) positives[b * C + c] = source.hasAnswer(list[c], batch[b]) ? 1 : 0;
  }

  const readBlocks = lists.map((list) => list.slice(0, R));
  const reading = makeReading(corpus, batch, readBlocks, R, config);
  const correct = markSpans(reading, batch, corpus, readBlocks, model.reader.maxSpanWidth);
  return {
    queries: encoderInput(queries.ids, queries.firstSegment),
    vectors: tf.tensor3d(vectors, [B, C, P]),
    ...(fresh > 0 ? { documents: documentsOf(corpus, readBlocks, R, config) } : {}),
    present: tf.tensor2d(present, [B, C]),
    positives: tf.tensor2d(positives, [B, C]),
    reading,
    spans: tf.tensor2d(correct, [B, correct.length / B]),
  };
}

/** The first R blocks of each question; shorter lists are filled with the null document. */
function documentsOf(
  corpus: Corpus,
  blocks: readonly (readonly number[])[],
  R: number,
  { text, model }: Config,
): Documents {
  const all = blocks.flatMap((list) => Array.from({ length: R }, (_, r) => list[r] ?? -1));
  const distinct = [...new Set(all)];
  const none = new Int32Array(0);
  const { ids, firstSegment } = blockSequences(
    textFormat(corpus.tokenizer, model),
    distinct.map((block) =>
      block < 0
        ? { title: none, body: none }
        : { title: corpus.titleIds(block), body: corpus.bodyIds(block) },
    ),
    text.blockTokens,
  );
  const rowOf = new Map(distinct.map((block, row) => [block, row]));
  return {
    input: encoderInput(ids, firstSegment),
    rows: tf.tensor1d(
      all.map((block) => rowOf.get(block)!),
      'int32',
    ),
  };
}

function disposeQaBatch({ queries, vectors, documents, present, positives, reading, spans }: QaBatch): void {
  disposeInput(queries);
  if (documents) {
    disposeInput(documents.input);
    documents.rows.dispose();
  }
  disposeReading(reading);
  tf.dispose([vectors, present, positives, spans]);
}

/**
 * Gradients of the retriever's and the reader's loss.
 * @param questions in the whole batch; this pass may be a part of it, and returns its share of the means
 */
export async function qaGradients(
  model: Model,
  shapes: readonly Shape[],
  { queries, vectors, documents, present, positives, reading, spans }: QaBatch,
  questions: number,
  rng?: DropoutRng,
): Promise<StepResult> {
  const [B, C, P] = vectors.shape;
  const kept: tf.Tensor[] = [];
  const { value, gradients } = lossGradients(model, shapes, () => {
    const q = embedSequences(model.params, model.queryTower, model.embedder, queries, rng);
    const z = documents ? vectors.add(freshVectors(model, documents, vectors.shape, rng)) : vectors;
    const scores = tf
      .matMul(z, q.reshape([B, P, 1]))
      .reshape([B, C])
      .div(model.temperature) as tf.Tensor2D;
    const masked = scores.add(tf.sub(1, present).mul(-1e9)) as tf.Tensor2D;
    const retriever = marginalLogLoss(masked, positives);
    const all = readScores(model, reading, masked.slice([0, 0], [B, reading.R]), rng); // [B, R*W*T]
    const reader = marginalLogLoss(all, spans);
    const hit = tf.gather(
      spans.flatten(),
      wholeWordScores(reading, all)
        .argMax(1)
        .add(tf.range(0, B * spans.shape[1], spans.shape[1], 'int32'))
        .toInt(),
    );
    kept.push(
      ...[retriever, reader, hit, positives.max(1), spans.max(1)].map((t) => tf.keep(t.sum().div(questions))),
    );
    return retriever.add(reader).sum().div(questions) as tf.Scalar;
  });
  const [[loss], [retrieverLoss], [readerLoss], [exactMatch], [answerRetrieved], [answerInRead]] =
    await fetchValues(value, ...kept);
  const metrics = {
    loss,
    retrieverLoss,
    readerLoss,
    exactMatch,
    retrieved: answerRetrieved,
    read: answerInRead,
  };
  tf.dispose([value, ...kept]);
  return { gradients, metrics };
}

/** Vectors by the current document tower, for the blocks that have zeros in the batch's `vectors`; zeros for all others: [B, C, P]. */
function freshVectors(
  model: Model,
  { input, rows }: Documents,
  [B, C, P]: [number, number, number],
  rng?: DropoutRng,
): tf.Tensor3D {
  const embedded = embedSequences(model.params, model.documentTower, model.embedder, input, rng); // [U, P]
  const R = rows.size / B;
  const first = tf.gather(embedded, rows).reshape([B, R, P]) as tf.Tensor3D;
  return tf.pad3d(first, [
    [0, 0],
    [0, C - R],
    [0, 0],
  ]);
}

/**
 * 1 on every span that matches an answer's word pieces: [B, R*W*T] row-major, in the order of `readScores`. The answers
 * of a regular expression are the texts that it matches in the block, as in DrQA's distant supervision
 * (facebookresearch/DrQA, scripts/distant/generate.py, commit 6d7c1b7).
 */
function markSpans(
  reading: Reading,
  batch: readonly EncodedQuestion[],
  corpus: Corpus,
  blocks: readonly (readonly number[])[],
  maxWidth: number,
): Float32Array {
  const { B, R, T } = reading;
  const { offsets, lengths } = reading.blocks;
  const W = Math.min(maxWidth, T);
  const correct = new Float32Array(B * R * W * T);
  for (let b = 0; b < B; b++) {
    for (let r = 0; r < blocks[b].length; r++) {
      const row = b * R + r;
      const block = blocks[b][r];
      const body = corpus.bodyIds(block).subarray(0, lengths[row]);
      const spans = answerSpans(body, answerPieces(corpus, block, batch[b]));
      for (let i = 0; i < spans.length; i += 2) {
        const width = spans[i + 1] - spans[i];
        if (width <= W) correct[(row * W + width - 1) * T + offsets[row] + spans[i]] = 1;
      }
    }
  }
  return correct;
}

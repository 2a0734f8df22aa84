import * as tf from '@tensorflow/tfjs';
import type { DropoutRng, Shape } from '../model/bert.ts';
import { readerDivergence } from '../model/distillation.ts';
import { embedSequences } from '../model/embedder.ts';
import { fetchValues } from '../model/host-values.ts';
import { marginalLogLoss } from '../model/marginal.ts';
import { lossGradients, type Model } from '../model/model.ts';
import { addRetrieval, ownScores, wholeWordScores } from '../model/reading.ts';
import type { QaBatch, QaReading } from './qa-batch.ts';
import type { StepResult } from './step.ts';

/** A pass's share of a whole batch: its losses are parts of means over so many questions. */
export interface QaShare {
  questions: number;
  /** Questions of the batch that are read. */
  read: number;
  /** Weight of `readerDivergence`; 0: it is not computed. */
  distillation: number;
}

/** Vectors of all questions and of all embedded blocks of a batch, whose gradients are wanted. */
export interface GivenVectors {
  queries: tf.Variable; // [n, P]
  documents: tf.Variable; // [U, P]
  /** Row of the pass's first question. */
  first: number;
}

/**
 * Gradients of the retriever's loss over many blocks and of the reader's loss over all spans, and with
 * `share.distillation`, of the retriever's divergence from the reader over the blocks that are read. A question that has
 * no answer in its blocks or spans adds 0 to the respective mean; what it adds nothing to is not computed, so a question is not
 * read unless its blocks have an answer.
 * @param given if the vectors are known, their gradients come as `queries` and `documents`, and the towers get none
 */
export async function qaGradients(
  model: Model,
  shapes: readonly Shape[],
  batch: QaBatch,
  share: QaShare,
  rng?: DropoutRng,
  given?: GivenVectors,
): Promise<StepResult> {
  const { vectors, absent, positives, read } = batch;
  const [B, C, P] = vectors.shape;
  /** Values of questions, whose sum is a metric: as part of a mean over so many. */
  const kept: { name: string; values: tf.Tensor; of: number }[] = [];
  const keep = (name: string, values: tf.Tensor, of: number) => {
    kept.push({ name, values: tf.keep(values.clone()), of });
  };
  const loss = () => {
    const q = given
      ? given.queries.slice([given.first, 0], [B, -1])
      : embedSequences(model.params, model.queryTower, model.embedder, batch.queries!, rng);
    const fresh = batch.rows && freshVectors(model, batch, given, rng);
    const z = fresh ? vectors.add(fresh) : vectors;
    const products = tf.matMul(z, q.reshape([B, P, 1])).reshape([B, C]);
    const scores = products.div(model.temperature).add(absent) as tf.Tensor2D;
    const retriever = marginalLogLoss(scores, positives);
    keep('retrieverLoss', retriever, share.questions);
    const total = retriever.sum().div(share.questions) as tf.Scalar;
    return read ? (total.add(readingLoss(read, scores)) as tf.Scalar) : total;
  };
  /** Losses of the questions that are read, as their part of the batch's mean. */
  const readingLoss = ({ questions, reading, spans, bonus }: QaReading, scores: tf.Tensor2D) => {
    const [A] = questions.shape;
    const first = scores.slice([0, 0], [B, reading.R]);
    const retrieval = tf.matMul(questions, first) as tf.Tensor2D; // [A, R]
    const own = ownScores(model, reading, rng);
    const prior = bonus ? (retrieval.add(bonus.div(model.temperature)) as tf.Tensor2D) : retrieval;
    const all = addRetrieval(reading, own, prior); // [A, R*W*T]
    const reader = marginalLogLoss(all, spans);
    const hit = tf.gather(
      spans.flatten(),
      wholeWordScores(reading, all)
        .argMax(1)
        .add(tf.range(0, A * spans.shape[1], spans.shape[1], 'int32'))
        .toInt(),
    );
    keep('readerLoss', reader, share.read);
    keep('exactMatch', hit, share.read);
    let sum = reader.sum();
    if (share.distillation > 0) {
      const divergence = readerDivergence(own, spans, retrieval);
      keep('distillationLoss', divergence, share.read);
      sum = sum.add(divergence.sum().mul(share.distillation));
    }
    return sum.div(share.read);
  };
  const inputs = given && { queries: given.queries, documents: given.documents };
  const { value, gradients } = lossGradients(model, shapes, loss, inputs);
  const [[sum], ...values] = await fetchValues(value, ...kept.map(({ values }) => values));
  tf.dispose([value, ...kept.map(({ values }) => values)]);
  const metrics: StepResult['metrics'] = { loss: sum, retrieved: batch.retrieved / share.questions };
  if (batch.reads) {
    const names = ['readerLoss', 'exactMatch', ...(share.distillation > 0 ? ['distillationLoss'] : [])];
    for (const name of names) metrics[name] = 0;
    metrics.read = (read?.found ?? 0) / share.read;
  }
  kept.forEach(({ name, of }, i) => {
    metrics[name] = values[i].reduce((sum, x) => sum + x, 0) / of;
  });
  if (batch.reads && !read) for (const { name, shape } of shapes) gradients[name] ??= tf.zeros(shape);
  return { gradients, metrics };
}

/** Vectors by the current document tower for the blocks that are read, zeros for all others: [B, C, P]. */
function freshVectors(
  model: Model,
  { vectors, documents, rows }: QaBatch,
  given: GivenVectors | undefined,
  rng?: DropoutRng,
): tf.Tensor3D {
  const [B, C, P] = vectors.shape;
  const embedded: tf.Tensor2D = given
    ? (given.documents as tf.Tensor as tf.Tensor2D)
    : embedSequences(model.params, model.documentTower, model.embedder, documents!, rng); // [U, P]
  const R = rows!.size / B;
  const first = tf.gather(embedded, rows!).reshape([B, R, P]) as tf.Tensor3D;
  return tf.pad3d(first, [
    [0, 0],
    [0, C - R],
    [0, 0],
  ]);
}

/** Sums the metrics of the passes of one batch. */
export function addMetrics(sums: StepResult['metrics'], part: Record<string, number>): void {
  for (const [name, value] of Object.entries(part)) sums[name] = (sums[name] ?? 0) + value;
}

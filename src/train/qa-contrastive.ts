import * as tf from '@tensorflow/tfjs';
import type { DropoutRng, Shape } from '../model/bert.ts';
import { type ContrastiveTargets, contrastiveLoss } from '../model/contrastive.ts';
import { fetchValues } from '../model/host-values.ts';
import { isRetriever, lossGradients, retrieverShapes } from '../model/model.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { pause } from '../system/stop.ts';
import { cachedGradients, type VectorLoss } from './gradient-cache.ts';
import {
  blocksRead,
  type Chosen,
  disposeQaBatch,
  type QaSource,
  questionSequences,
  scored,
  sequencesOf,
} from './qa-batch.ts';
import type { Candidates } from './qa-candidates.ts';
import { addMetrics, type GivenVectors, qaGradients } from './qa-losses.ts';
import { addGradients, type StepResult } from './step.ts';

/** A question of the batch with all its blocks. */
interface Asked extends Chosen, Candidates {}

/**
 * A step with `qa.contrastive`: besides the losses of `qaGradients`, the softmax of DPR (Karpukhin et al. 2020, section
 * 3.2) over all positives and hard negatives of the batch, which trains both towers. A block of the batch that holds a
 * question's answer is none of its negatives; DPR leaves it among them. Only the first `qa.readQuestions` questions are
 * read; the blocks of the others in the loss over many blocks all have the index's vectors. All texts are embedded once
 * to score them, and once more for the gradients (`cachedGradients`), so that a large batch needs the memory of
 * `qa.microBatch`. Without dropout the vectors that the questions were searched with are used again.
 */
export async function contrastiveStep(
  source: QaSource,
  shapes: readonly Shape[],
  batch: readonly EncodedQuestion[],
  rng: DropoutRng | undefined,
): Promise<StepResult> {
  const { model, corpus, config } = source;
  const { microBatch, readQuestions, readerBlocks } = config.qa;
  const searched = await questionVectors(model, corpus, batch, config);
  const asked = choose(source, batch, searched);
  const read = Math.min(readQuestions ?? batch.length, batch.length);

  const contrasted = [
    ...new Set(asked.flatMap(({ positive, negatives }) => [positive ?? [], negatives].flat())),
  ];
  const lists = asked.slice(0, read).map(({ blocks }) => blocks);
  const blocks = [...new Set([...contrasted, ...blocksRead(lists, readerBlocks)])];
  const sides = [
    {
      tower: model.queryTower,
      ...questionSequences(source, batch),
      ...(rng ? {} : { known: searched }),
    },
    { tower: model.documentTower, ...sequencesOf(source, blocks) },
  ];
  return cachedGradients(model, retrieverShapes(model), sides, { microBatch, rng }, ([q, z]) => {
    const readers = shapes.filter(({ name }) => !isRetriever(model, name));
    return vectorLosses(source, readers, { asked, read, contrasted, blocks }, [q, z], rng);
  });
}

/** The blocks of each question. */
function choose(source: QaSource, batch: readonly EncodedQuestion[], searched: Float32Array): Asked[] {
  const P = searched.length / batch.length;
  return source.rank(searched, batch).map((ranking, b) => {
    const score = (block: number) => {
      const z = source.index.vectors(Int32Array.of(block));
      let sum = 0;
      for (let d = 0; d < P; d++) sum += searched[b * P + d] * z[d];
      return sum;
    };
    return {
      question: batch[b],
      ...source.candidates.choose(batch[b], ranking, score),
      bonus: ranking.hybrid?.bonus,
    };
  });
}

/** The questions of a batch, and its distinct blocks. */
interface Step {
  asked: readonly Asked[];
  /** Questions that are read: the first ones. */
  read: number;
  /** Positives and hard negatives: the first of `blocks`. */
  contrasted: readonly number[];
  /** All that the document tower embeds. */
  blocks: readonly number[];
}

/**
 * All losses of the batch, with their gradients with respect to the vectors of questions and blocks, and to the reader.
 * @param vectors of all questions [n, P] and of all blocks [U, P]
 */
async function vectorLosses(
  source: QaSource,
  readers: readonly Shape[],
  step: Step,
  [q, z]: readonly tf.Tensor2D[],
  rng: DropoutRng | undefined,
): Promise<VectorLoss> {
  const { model, config } = source;
  const { asked, read, blocks } = step;
  const variables = { queries: tf.variable(q), documents: tf.variable(z) };
  const rowOf = new Map(blocks.map((block, row) => [block, row]));
  const share = { questions: asked.length, read, distillation: config.qa.distillation };
  const { metrics, ...first } = await contrastiveGradients(source, step, variables);
  let gradients = first.gradients;
  for (const [at, end] of passes(asked.length, read, config.qa.microBatch)) {
    const input = scored(source, asked.slice(at, end), at < read, rowOf);
    const given = { ...variables, first: at };
    const result = await qaGradients(model, at < read ? readers : [], input, share, rng, given);
    disposeQaBatch(input);
    gradients = addGradients(gradients, result.gradients);
    addMetrics(metrics, result.metrics);
    await pause();
  }
  tf.dispose([variables.queries, variables.documents]);
  const { queries, documents, ...rest } = gradients;
  return { vectors: [queries, documents] as tf.Tensor2D[], gradients: rest, metrics };
}

/** Ranges of at most `size` questions; the first `read` and the others do not share one. */
function passes(n: number, read: number, size: number): [number, number][] {
  const ranges: [number, number][] = [];
  for (let at = 0; at < n; ) {
    const end = Math.min(at + size, at < read ? read : n);
    ranges.push([at, end]);
    at = end;
  }
  return ranges;
}

/** The contrastive loss of the whole batch, weighted, with its gradients with respect to both sets of vectors. */
async function contrastiveGradients(
  { model, config, hasAnswer }: QaSource,
  { asked, contrasted }: Step,
  { queries, documents }: Omit<GivenVectors, 'first'>,
): Promise<StepResult> {
  const U = contrasted.length;
  if (U === 0) {
    // No question of the batch has a positive or a hard negative.
    const gradients = { queries: tf.zerosLike(queries), documents: tf.zerosLike(documents) };
    return { gradients, metrics: { loss: 0 } };
  }
  const targets = contrastiveTargets(asked, contrasted, hasAnswer);
  const kept: tf.Tensor[] = [];
  const loss = () => {
    const z = documents.slice([0, 0], [U, -1]);
    const products = tf.matMul(queries as tf.Tensor, z, false, true);
    const scores = products.div(model.temperature) as tf.Tensor2D;
    const result = contrastiveLoss(scores, targets);
    kept.push(tf.keep(result.loss), tf.keep(result.correct));
    return result.loss.mul(config.qa.contrastive) as tf.Scalar;
  };
  const { value, gradients } = lossGradients(model, [], loss, { queries, documents });
  const [[weighted], [mean], [correct]] = await fetchValues(value, ...kept);
  tf.dispose([value, ...kept, targets.positives, targets.left]);
  const metrics = {
    loss: weighted,
    ...(targets.count > 0 ? { contrastiveLoss: mean, contrastiveAccuracy: correct / targets.count } : {}),
  };
  return { gradients, metrics };
}

/** Which block is right for which question, and which blocks are left out because they hold its answer too. */
function contrastiveTargets(
  asked: readonly Asked[],
  contrasted: readonly number[],
  hasAnswer: QaSource['hasAnswer'],
): ContrastiveTargets {
  const [B, U] = [asked.length, contrasted.length];
  const positives = new Float32Array(B * U);
  const left = new Float32Array(B * U);
  let count = 0;
  for (const [b, { question, positive }] of asked.entries()) {
    if (positive === undefined) continue;
    count++;
    for (let u = 0; u < U; u++) {
      if (contrasted[u] === positive) positives[b * U + u] = 1;
      else if (hasAnswer(contrasted[u], question)) left[b * U + u] = 1;
    }
  }
  return { positives: tf.tensor2d(positives, [B, U]), left: tf.tensor2d(left, [B, U]), count };
}

import * as tf from '@tensorflow/tfjs';
import { alone, gatherValues, type Ranks } from '../engine/ranks.ts';
import type { DropoutRng, Shape } from '../model/bert.ts';
import { type ContrastiveTargets, contrastiveLoss } from '../model/contrastive.ts';
import { fetchValues } from '../model/host-values.ts';
import { isRetriever, lossGradients, retrieverShapes } from '../model/model.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { pause } from '../system/stop.ts';
import { cachedGradients, type VectorLoss } from './gradient-cache.ts';
import { allPasses, type Pass } from './passes.ts';
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
import { addGradients, type StepResult, sumGradients } from './step.ts';

/** A question of this rank with all its blocks. */
interface Asked extends Chosen, Candidates {}

/** What every rank knows of each question of the batch. */
interface Known extends Pick<Candidates, 'positive' | 'negatives'> {
  /** The first blocks, which are read. */
  read: number[];
}

/** The questions [from, to) of the batch, which one rank reads, or scores without reading them. */
interface QuestionPass extends Pass {
  reads: boolean;
}

/**
 * A step with `qa.contrastive`: besides the losses of `qaGradients`, the softmax of DPR (Karpukhin et al. 2020, section
 * 3.2) over all positives and hard negatives of the batch, which trains both towers. A block of the batch that holds a
 * question's answer is none of its negatives; DPR leaves it among them. `qa.weakSupervision` weights what the other losses
 * teach the retriever. Only the first `qa.readQuestions` questions are
 * read; the blocks of the others in the loss over many blocks all have the index's vectors. All texts are embedded once
 * to score them, and once more for the gradients (`cachedGradients`), so that a large batch needs the memory of
 * `qa.microBatch`. Without dropout the vectors that the questions were searched with are used again. Of several ranks, each
 * searches for its part of the questions, reads them and embeds its part of the texts; all compute the contrastive loss.
 */
export async function contrastiveStep(
  source: QaSource,
  shapes: readonly Shape[],
  batch: readonly EncodedQuestion[],
  { rng, ranks = alone }: { rng?: DropoutRng; ranks?: Ranks },
): Promise<StepResult> {
  const { model, corpus, config } = source;
  const { microBatch, readQuestions, readerBlocks } = config.qa;
  const n = batch.length;
  const read = Math.min(readQuestions ?? n, n);
  const passes: QuestionPass[] = [
    ...allPasses(ranks, read, microBatch).map((pass) => ({ ...pass, reads: true })),
    ...allPasses(ranks, n - read, microBatch).map(({ rank, from, to }) => {
      return { rank, from: from + read, to: to + read, reads: false };
    }),
  ];
  const own = passes
    .filter(({ rank }) => rank === ranks.rank)
    .flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i));
  const questions = own.map((b) => batch[b]);
  const found = await questionVectors(model, corpus, questions, config);
  const asked = new Map(choose(source, questions, found).map((one, i) => [own[i], one]));
  const known = await knownOfAll(ranks, asked, readerBlocks);

  const contrasted = [
    ...new Set(known.flatMap(({ positive, negatives }) => [positive ?? [], negatives].flat())),
  ];
  const lists = known.slice(0, read).map((one) => one.read);
  const blocks = [...new Set([...contrasted, ...blocksRead(lists, readerBlocks)])];
  const sides = [
    {
      tower: model.queryTower,
      ...questionSequences(source, batch),
      ...(rng ? {} : { known: await vectorsOfAll(ranks, found, own, n) }),
    },
    { tower: model.documentTower, ...sequencesOf(source, blocks) },
  ];
  return cachedGradients(model, retrieverShapes(model), sides, { microBatch, rng, ranks }, ([q, z]) => {
    const readers = shapes.filter(({ name }) => !isRetriever(model, name));
    const step = { batch, known, asked, passes, read, contrasted, blocks };
    return vectorLosses(source, readers, step, [q, z], { rng, ranks });
  });
}

/** The vectors of all `n` questions, on every rank, of which this one has found those of `own`. */
async function vectorsOfAll(
  ranks: Ranks,
  found: Float32Array,
  own: readonly number[],
  n: number,
): Promise<Float32Array> {
  if (ranks.size === 1) return found;
  const P = found.length / own.length;
  const all = new Float32Array(n * P); // the sum with the zeros of the other ranks is exact
  for (const [i, b] of own.entries()) all.set(found.subarray(i * P, (i + 1) * P), b * P);
  await ranks.sum(all);
  return all;
}

/** What every rank must know of each question, in their order. */
async function knownOfAll(
  ranks: Ranks,
  asked: ReadonlyMap<number, Asked>,
  readerBlocks: number,
): Promise<Known[]> {
  const own = [...asked].map(([b, { positive, negatives, blocks }]): [number, Known] => {
    return [b, { positive, negatives, read: blocks.slice(0, readerBlocks) }];
  });
  const all = new Map((await gatherValues(ranks, own)).flat());
  return Array.from({ length: all.size }, (_, b) => all.get(b)!);
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
  batch: readonly EncodedQuestion[];
  known: readonly Known[];
  /** Those of this rank, by their place in the batch. */
  asked: ReadonlyMap<number, Asked>;
  /** Those of all ranks. */
  passes: readonly QuestionPass[];
  /** Questions that are read: the first ones. */
  read: number;
  /** Positives and hard negatives: the first of `blocks`. */
  contrasted: readonly number[];
  /** All that the document tower embeds. */
  blocks: readonly number[];
}

/**
 * All losses of the batch, with their gradients with respect to the vectors of questions and blocks, and this rank's part of those
 * with respect to the reader.
 * @param vectors of all questions [n, P] and of all blocks [U, P]
 */
async function vectorLosses(
  source: QaSource,
  readers: readonly Shape[],
  step: Step,
  [q, z]: readonly tf.Tensor2D[],
  { rng, ranks }: { rng?: DropoutRng; ranks: Ranks },
): Promise<VectorLoss> {
  const { model, config } = source;
  const { distillation, weakSupervision } = config.qa;
  const { batch, asked, read, blocks } = step;
  const variables = { queries: tf.variable(q), documents: tf.variable(z) };
  const rowOf = new Map(blocks.map((block, row) => [block, row]));
  const share = { questions: batch.length, read, distillation };
  const contrastive = await contrastiveGradients(source, step, variables);
  // Every rank has computed the same: its share of the sum over the ranks.
  const metrics: StepResult['metrics'] = { loss: 0 };
  for (const [name, value] of Object.entries(contrastive.metrics)) metrics[name] = value / ranks.size;

  let gradients: tf.NamedTensorMap | undefined;
  const drawn = rng?.random;
  const own = step.passes
    .map((pass) => ({ ...pass, random: drawn?.fork() }))
    .filter(({ rank }) => rank === ranks.rank);
  for (const { from, to, reads, random } of own) {
    if (rng) rng.random = random!;
    const part = Array.from({ length: to - from }, (_, i) => asked.get(from + i)!);
    const input = scored(source, part, reads, rowOf);
    const given = { ...variables, first: from };
    const result = await qaGradients(model, reads ? readers : [], input, share, rng, given);
    disposeQaBatch(input);
    gradients = addGradients(gradients, result.gradients);
    addMetrics(metrics, result.metrics);
    await pause();
  }
  if (rng) rng.random = drawn!;
  tf.dispose([variables.queries, variables.documents]);
  const { queries, documents, ...rest } = gradients!;
  // A block can hold an answer by chance, and a reader that knows nothing yet prefers any block: neither names the right one.
  const weak = { queries: scale(queries, weakSupervision), documents: scale(documents, weakSupervision) };
  const all = addGradients(contrastive.gradients, await sumGradients(ranks, weak));
  return { vectors: [all.queries, all.documents] as tf.Tensor2D[], gradients: rest, metrics };
}

/** `x` times `weight`; disposes `x`. */
function scale(x: tf.Tensor, weight: number): tf.Tensor {
  const result = x.mul(weight);
  x.dispose();
  return result;
}

/** The contrastive loss of the whole batch, weighted, with its gradients with respect to both sets of vectors. */
async function contrastiveGradients(
  { model, config, hasAnswer }: QaSource,
  { batch, known, contrasted }: Step,
  { queries, documents }: Omit<GivenVectors, 'first'>,
): Promise<StepResult> {
  const U = contrasted.length;
  if (U === 0) {
    // No question of the batch has a positive or a hard negative.
    const gradients = { queries: tf.zerosLike(queries), documents: tf.zerosLike(documents) };
    return { gradients, metrics: { loss: 0 } };
  }
  const targets = contrastiveTargets(batch, known, contrasted, hasAnswer);
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
  batch: readonly EncodedQuestion[],
  known: readonly Known[],
  contrasted: readonly number[],
  hasAnswer: QaSource['hasAnswer'],
): ContrastiveTargets {
  const [B, U] = [known.length, contrasted.length];
  const positives = new Float32Array(B * U);
  const left = new Float32Array(B * U);
  let count = 0;
  for (const [b, { positive }] of known.entries()) {
    if (positive === undefined) continue;
    count++;
    for (let u = 0; u < U; u++) {
      if (contrasted[u] === positive) positives[b * U + u] = 1;
      else if (hasAnswer(contrasted[u], batch[b])) left[b * U + u] = 1;
    }
  }
  return { positives: tf.tensor2d(positives, [B, U]), left: tf.tensor2d(left, [B, U]), count };
}

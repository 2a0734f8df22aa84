import * as tf from '@tensorflow/tfjs';
import { loadConfig } from '../src/config.ts';
import { type EncoderInput, encoderInput, gatherRows, type Shape } from '../src/model/bert.ts';
import { embedSequences, type Sequences } from '../src/model/embedder.ts';
import { vectorLength } from '../src/model/head.ts';
import {
  describeModel,
  disposeModel,
  initialise,
  type Model,
  modelShapes,
  pretrainedShapes,
} from '../src/model/model.ts';
import { blockTokens } from '../src/model/reader.ts';
import type { RealmBatch } from '../src/model/realm-batch.ts';
import { retrieverInput } from '../src/model/retriever.ts';
import { random } from '../src/random.ts';
import { qaShapes } from '../src/train/finetune-qa.ts';
import { batchGradients } from '../src/train/ict.ts';
import { createOptimizer, type Optimizer } from '../src/train/optimizer.ts';
import { realmGradients } from '../src/train/pretrain.ts';
import type { QaBatch } from '../src/train/qa-batch.ts';
import { qaGradients } from '../src/train/qa-losses.ts';
import type { StepResult } from '../src/train/step.ts';
import { type Batches, READ, RETRIEVED, type Size, VOCABULARY } from './batches.ts';

// Our side of the benchmark: a model of one size and a function for each kind of work.

export const STEPS = ['embed', 'ict', 'pretrain', 'qa'] as const;
export type Step = (typeof STEPS)[number];

/** What a step computed, to compare engines. */
export interface Computed {
  /** The loss; of embedding, which has none, the sum of the last vector with alternating signs. */
  value: number;
  /** Global norm of the gradients. */
  norm?: number;
}

export interface Ours {
  steps: Record<Step, () => Promise<Computed>>;
  /** What the peer must know about the model. */
  sizes: { positions: number; projection: number; spanHidden: number; maxSpanWidth: number };
  dispose(): void;
}

/** @param rate learning rate of the first step of each kind; with 0 the weights stay as they are */
export function ours({ layers, hidden, heads }: Size, batches: Batches, rate = 0): Ours {
  const sizes = { layers, hidden, heads, intermediate: 4 * hidden, dropout: 0 };
  const sets = Object.entries(sizes).map(([key, value]) => `model.${key}=${value}`);
  const config = loadConfig('configs/squad-open.yaml', sets);
  const { spanHidden, maxSpanWidth, positions } = config.model;
  const projection = vectorLength(config.model);
  const model = describeModel(config.model, VOCABULARY);
  initialise(model, modelShapes(model), random(1));
  const optimizers = new Map<string, { optimizer: Optimizer; steps: number }>();
  const schedule = { ...config.pretrain.optimizer, learningRate: rate, warmupSteps: 0 };
  /** Each kind of training has its own optimizer, created before its first gradients, as in the training loop. */
  const train = async (kind: Step, shapes: readonly Shape[], gradients: () => Promise<StepResult>) => {
    let own = optimizers.get(kind);
    if (!own) {
      const names = shapes.map(({ name }) => name);
      own = { optimizer: createOptimizer(model.params, names, schedule, 1000), steps: 0 };
      optimizers.set(kind, own);
    }
    const step = await gradients();
    return { value: step.metrics.loss, norm: await own.optimizer.apply(step.gradients, own.steps++) };
  };
  return {
    steps: ourSteps(model, batches, train),
    sizes: { positions, projection, spanHidden, maxSpanWidth },
    dispose() {
      for (const { optimizer } of optimizers.values()) optimizer.dispose();
      disposeModel(model);
    },
  };
}

function ourSteps(
  model: Model,
  batches: Batches,
  train: (kind: Step, shapes: readonly Shape[], gradients: () => Promise<StepResult>) => Promise<Computed>,
): Ours['steps'] {
  const input = ({ ids, firstSegment }: Sequences) => encoderInput(ids, firstSegment);
  const embedInput = input(batches.embed);
  const all = pretrainedShapes(model);
  const retriever = all.filter(({ name }) => !name.startsWith(model.readerTower));
  const qa = qaBatch(model, batches, input);
  const trained = qaShapes(model);
  const { pretrain } = loadConfig('configs/squad-open.yaml', [
    `pretrain.batch=${batches.pretrain.candidates.length}`,
    `pretrain.microBatch=${batches.pretrain.candidates.length}`,
  ]);
  const masks = batches.pretrain.targets.flat().length;
  return {
    async embed() {
      const vectors = embedSequences(model.params, model.documentTower, model.embedder, embedInput);
      const values = (await vectors.data()) as Float32Array;
      vectors.dispose();
      const last = values.subarray(values.length - vectorLength(model.embedder));
      return { value: last.reduce((sum, number, p) => sum + (p % 2 ? number : -number), 0) };
    },
    async ict() {
      const { ict } = batches;
      const options = { microBatch: ict.queries.ids.length };
      return train('ict', retriever, () => batchGradients(model, retriever, ict, options));
    },
    async pretrain() {
      const batch = realmBatch(model, batches, input);
      return train('pretrain', all, () => realmGradients(model, all, batch, pretrain, masks, undefined));
    },
    async qa() {
      const questions = batches.qa.queries.ids.length;
      const share = { questions, read: questions, distillation: 0 };
      return train('qa', trained, () => qaGradients(model, trained, qa, share));
    },
  };
}

function realmBatch(model: Model, { pretrain }: Batches, input: (b: Sequences) => EncoderInput): RealmBatch {
  const { candidates, positions, targets } = pretrain;
  const [B, K, M] = [candidates.length, candidates[0].length, positions[0].length];
  const perPair = (list: number[][]) => list.flatMap((row) => candidates[0].map(() => row));
  const joint = input(pretrain.joint);
  return {
    retriever: retrieverInput(model, pretrain.queries, pretrain.documents),
    candidates: tf.tensor2d(candidates, [B, K], 'int32'),
    present: tf.ones([B, K]),
    masks: tf.ones([B, M]),
    joint: [
      {
        input: joint,
        masks: gatherRows(joint, perPair(positions)),
        targets: tf.tensor1d(perPair(targets).flat(), 'int32'),
      },
    ],
    order: tf.range(1, B * K * M + 1, 1, 'int32'),
  };
}

function qaBatch(model: Model, { qa }: Batches, input: (b: Sequences) => EncoderInput): QaBatch {
  const B = qa.queries.ids.length;
  const joint = input(qa.joint);
  const W = model.reader.maxSpanWidth;
  const offsets = Int32Array.from(qa.joint.firstSegment);
  const lengths = Int32Array.from(qa.joint.ids, (ids, r) => ids.length - offsets[r] - 1);
  const blocks = blockTokens(joint, offsets, lengths);
  const T = blocks.longest;
  const spans = tf.buffer([B, READ * W * T]);
  qa.spans.forEach(([start, width], b) => {
    spans.set(1, b, (width - 1) * T + start - offsets[b * READ]);
  });
  const positives = tf.buffer([B, RETRIEVED]);
  for (let b = 0; b < B; b++) positives.set(1, b, 0);
  return {
    queries: input(qa.queries),
    vectors: tf.randomNormal([B, RETRIEVED, vectorLength(model.embedder)], 0, 1, 'float32', 1),
    absent: tf.zeros([B, RETRIEVED]),
    positives: positives.toTensor() as tf.Tensor2D,
    retrieved: B,
    reads: true,
    read: {
      questions: tf.eye(B),
      reading: {
        input: joint,
        blocks,
        torn: tf.zeros([B * READ, W, T]),
        B,
        R: READ,
        T,
      },
      spans: spans.toTensor() as tf.Tensor2D,
      found: B,
    },
  };
}

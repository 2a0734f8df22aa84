import type { Config } from '../config.ts';
import { dtypeOf } from '../retrieval/graph.ts';
import { timesDue } from '../schedule.ts';
import { about, indexBytes, REFRESHER_SHARE, TIME_FACTOR } from './rates.ts';
import type { Counts, Machine, StageNeeds } from './types.ts';

export function assumptions({ dense, attention, elementwise }: Machine, live: boolean): string[] {
  return [
    `time: products at the ${(dense / 1e9).toFixed(0)} GFLOPS (dense) and ${(attention / 1e9).toFixed(0)} GFLOPS (attention) measured just now on matrices of these sizes (lower on a busy machine), everything else at ${(elementwise / 1e9).toFixed(0)} GB/s; texts of mean length; accurate within a factor of ${TIME_FACTOR}`,
    'memory: the longest texts at every position of a batch',
    `disk: train.keep checkpoints a stage and its best, and one more while it is written${live ? '; refresh.keepIndexes indexes and the one being built' : ''}`,
  ];
}

/** A stage that takes longer gets a warning. */
const LONG_STAGE_SECONDS = 14 * 86_400;

export function warnings(
  config: Config,
  counts: Counts,
  machine: Machine,
  stages: readonly StageNeeds[],
  disk: number,
  buildSeconds: number,
): string[] {
  const found: string[] = [];
  const GB = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  if (config.text.ner !== null)
    found.push(
      'prepare takes much longer than estimated because text.ner names a model: BERT-base labels about 90 tokens a second and core and takes 1.7 GB for each core (with onnxruntime-node 400 tokens and 0.8 GB)',
    );
  for (const s of stages) {
    if (s.steps === 0) continue; // it does nothing
    const { weights, optimizer, gradients, activations } = s.of;
    const tensors = weights + optimizer + gradients + activations;
    const remedy = s.memoryRemedy;
    if (s.memory > machine.memory)
      found.push(
        `${s.stage} needs about ${GB(s.memory)} of memory, but the machine has ${GB(machine.memory)}: ${remedy}`,
      );
    else if (machine.gpuMemory !== undefined && tensors > machine.gpuMemory)
      found.push(
        `${s.stage} needs about ${GB(tensors)} on the GPU, which has ${GB(machine.gpuMemory)}: ${remedy}`,
      );
    else if (machine.engineMemory !== undefined && tensors > machine.engineMemory)
      found.push(
        `${s.stage} needs about ${GB(tensors)} for tensors, but this engine holds ${GB(machine.engineMemory)}: ${remedy}, or use a faster engine`,
      );
    if (s.seconds > LONG_STAGE_SECONDS)
      found.push(`${s.stage} takes about ${about(s.seconds)} on this machine: ${s.timeRemedy}`);
  }
  if (disk > machine.diskFree) {
    const index = indexBytes(config, counts.blocks);
    const remedy =
      dtypeOf(config.index.dtype, counts.blocks) === 'f32'
        ? 'set index.dtype to f16'
        : config.refresh.keepIndexes > 1
          ? 'lower refresh.keepIndexes'
          : undefined;
    found.push(
      `the run needs about ${GB(disk)} of disk, but ${GB(machine.diskFree)} are free: ${
        remedy && index.graph > disk / 20 ? `${remedy}, or ` : ''
      }choose a folder on another disk with --run`,
    );
  }
  const { mode } = config.refresh;
  const refreshed = buildSeconds / (mode === 'async' ? REFRESHER_SHARE : 1);
  for (const [stage, setting, given] of [
    ['pretrain', 'refresh.every', config.refresh.every],
    ['finetune-qa', 'qa.refreshEvery', config.qa.refreshEvery],
  ] as const) {
    if (mode === 'off' || given === null) continue;
    const { steps, stepSeconds } = stages.find((s) => s.stage === stage) as Required<StageNeeds>;
    const times = timesDue(given, steps);
    if (times === 0 || refreshed <= (steps / times) * stepSeconds) continue;
    const every = Math.ceil(refreshed / stepSeconds / 10) * 10;
    found.push(
      mode === 'sync'
        ? `refresh.mode sync waits longer for each index than it trains between refreshes: raise ${setting} (${given}) to ${every} or more`
        : `building an index takes as long as ${every} training steps, more than ${setting} (${given}), so refreshes will be less frequent than set: raise ${setting} to ${every}, or use fewer blocks`,
    );
  }
  return found;
}

/** The setting that most reduces what takes the most memory in a stage. */
export function memoryRemedy(
  stage: string,
  of: StageNeeds['of'],
  trains: boolean,
  config: Config,
  counts: Counts,
): string {
  const { weights, optimizer, gradients, activations, index, refresher } = of;
  const model = weights + optimizer + gradients;
  const most = Math.max(model, activations, index, refresher);
  if (most === refresher) return 'lower index.tokensPerBatch, or set refresh.mode to off';
  if (most === index)
    return dtypeOf(config.index.dtype, counts.blocks) === 'f32'
      ? 'set index.dtype to f16'
      : stage === 'build-index'
        ? 'raise index.subIndexes'
        : 'lower index.m or model.projection, or set index.kind to exact';
  if (most === activations)
    return `${ACTIVATION_REMEDY[stage]}${trains && !config.model.recompute ? ', or set model.recompute' : ''}`;
  return 'lower model.layers and model.hidden, or text.vocabularySize';
}

const ACTIVATION_REMEDY: Record<string, string> = {
  'ict-warmup': 'lower ict.microBatch',
  'build-index': 'lower index.tokensPerBatch',
  'reader-warmup': 'lower readerWarmup.microBatch',
  pretrain: 'lower pretrain.microBatch',
  'finetune-qa': 'lower qa.microBatch',
  eval: 'lower qa.readerTokens',
};

export const TIME_REMEDY: Record<string, string> = {
  prepare: 'set data.sentences to a file of sentences that has their spans',
  'ict-warmup': 'lower ict.steps or ict.batch',
  'build-index': 'use a smaller model, or fewer blocks',
  'reader-warmup': 'lower readerWarmup.steps or readerWarmup.batch',
  pretrain: 'lower pretrain.steps, pretrain.batch or pretrain.candidates',
  'finetune-qa': 'lower qa.steps, qa.readerBlocks or qa.retrieverBlocks',
  eval: 'use fewer questions',
};

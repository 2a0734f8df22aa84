import type { Config } from '../config.ts';
import { AT_ONCE } from '../eval/answer.ts';
import type { Shape } from '../model/bert.ts';
import { embedderShapes } from '../model/embedder.ts';
import {
  countParameters,
  describeModel,
  modelShapes,
  pretrainedShapes,
  readerTowerShapes,
  retrieverShapes,
} from '../model/model.ts';
import { type Schedule, timesDue } from '../schedule.ts';
import { qaShapes } from '../train/finetune-qa.ts';
import { BUCKET_FLOATS } from '../train/optimizer.ts';
import { indexBytes, REFRESHER_SHARE, sharing, TIME_FACTOR } from './rates.ts';
import type { Counts, Machine, Parameters, Preflight, StageNeeds } from './types.ts';
import { assumptions, memoryRemedy, TIME_REMEDY, warnings } from './warnings.ts';
import {
  add,
  encoderWork,
  forwardSeconds,
  ictWork,
  lengths,
  pretrainWork,
  qaWork,
  type StepWork,
  spanWork,
  stepSeconds,
  type WorkOf,
} from './work.ts';

// ---------------------------------------------------------------------------------------------- parameters

export function parametersOf(model: Config['model'], vocabulary: number): Parameters {
  const sizes = describeModel(model, vocabulary);
  const reader = readerTowerShapes(sizes);
  const spans = reader.filter(({ name }) => name.startsWith('span.'));
  return {
    retriever: countParameters(retrieverShapes(sizes)),
    reader: countParameters(reader) - countParameters(spans),
    spanScorer: countParameters(spans),
    total: countParameters(modelShapes(sizes)),
  };
}

// ---------------------------------------------------------------------------------------------- time

/** Blocks added to a graph a second and thread, of 128 numbers, at `connectivity` 16 and `expansionAdd` 128: measured 1,940 to 8,259 on 20,000 to 200,000 vectors. */
const ADDED = 4000;
/** Seconds that a search looks at one candidate of 128 numbers: 1.1 to 2 ms at 512 of them on 200,000 vectors. */
const LOOKED_AT = 3e-6;
/** Seconds that an exact search compares one query with one block of 128 numbers: 100,000 by 64 took 0.46 s. */
const COMPARED = 7e-8;
/** Seconds to read a block's text and to look for an answer in it. */
const MATCHED = 20e-6;
/** Word pieces prepared a second on two cores: 3.3 million in 7.7 s. More cores, up to 8, make it faster. */
const PREPARED = 430_000;

function embedSeconds(config: Config, counts: Counts, machine: Machine): number {
  const { block } = lengths(config, counts, 'mean');
  return forwardSeconds(encoderWork(config.model, machine.fused, counts.blocks, block, 1), machine);
}

function indexSeconds(config: Config, counts: Counts, machine: Machine): number {
  const { kind, connectivity, expansionAdd, threads } = config.index;
  if (kind === 'exact') return embedSeconds(config, counts, machine);
  const rate = (ADDED * threads * 128 * 128) / (config.model.projection * expansionAdd);
  return embedSeconds(config, counts, machine) + (counts.blocks * Math.sqrt(connectivity / 16)) / rate;
}

function searchSeconds({ index, model }: Config, counts: Counts, queries: number, wanted: number): number {
  const { blocks } = counts;
  const { rows, graphs } = sharing(index, blocks);
  const each =
    index.kind === 'exact'
      ? blocks * COMPARED
      : graphs * Math.min(Math.max(index.expansionSearch, wanted), rows) * LOOKED_AT;
  return (queries * each * model.projection) / 128;
}

// ---------------------------------------------------------------------------------------------- memory

/** Bytes of a process with the engine loaded and nothing computed: 450 MiB measured with the native engine. `prepare`, which loads none, takes 413 to 444 in all. */
const PROCESS = 450 * 2 ** 20;
/**
 * Bytes for each float that a pass keeps, or holds: what the process grew by (VmHWM of /proc/self/status; tf.memory counts
 * clones twice). Gradients come to the tensors kept, and the allocator keeps what was freed.
 *
 * Five to seven steps of `configs/world.yaml` grew it by 127 MiB (ict), 91 (pretrain) and 117 (qa) with kernels of our
 * own, predicted 136, 152 and 142; composed by 316, 304 and 370, predicted 338, 354 and 342. With four layers of 768, and
 * on SQuAD with `configs/squad-open.yaml`, measured over predicted was 0.4 to 1.3.
 */
const BYTES_KEPT = 4 * 1.8;
/** Copies of its largest bucket that the optimizer makes where no kernel does it in one. */
const UPDATE_COPIES = 15;
/** Bytes that a graph in memory takes beside its file, a node: 115 measured. */
const NODE_OVERHEAD = 115;

/** Bytes of a process that embeds and indexes all blocks. */
function buildingMemory(config: Config, counts: Counts, fused: boolean) {
  const { block } = lengths(config, counts, 'max');
  const model = describeModel(config.model, counts.vocabulary);
  const batch = encoderWork(config.model, fused, config.index.tokensPerBatch / block, block, 1);
  const { graphs, rows } = sharing(config.index, counts.blocks);
  const graph = graphs === 0 ? 0 : (indexBytes(config, counts.blocks).graph * rows) / counts.blocks;
  return {
    process: PROCESS,
    weights: 4 * countParameters(embedderShapes(model.documentTower, model.embedder)),
    activations: BYTES_KEPT * batch.held,
    index: graph + rows * NODE_OVERHEAD,
  };
}

/** Bytes of a training process. @param held parameters in memory, @param own those that the stage trains */
function trainingMemory(held: number, own: readonly Shape[], step: StepWork, fused: boolean) {
  const trained = countParameters(own);
  const largest = Math.max(...own.map((shape) => countParameters([shape])));
  const bucket = Math.max(largest, Math.min(trained, BUCKET_FLOATS));
  return {
    process: PROCESS,
    weights: 4 * held,
    optimizer: 8 * trained,
    // Twice: laid end to end for the update, or those of the passes so far beside those of this one.
    gradients: 8 * trained,
    activations: Math.max(BYTES_KEPT * step.pass.kept, fused ? 0 : 4 * UPDATE_COPIES * bucket),
  };
}

// ---------------------------------------------------------------------------------------------- disk

/** Bytes of a prepared corpus (src/corpus/store/layout.ts). */
export function corpusBytes(counts: Counts): number {
  const { documents, blocks, sentences, title, body, sentence } = counts;
  const id = counts.vocabulary <= 0x10000 ? 2 : 4;
  return (
    documents * (8 + 8 + counts.documentBytes + id * title.mean) +
    blocks * (40 + counts.blockBytes + id * body.mean + 2 * counts.blockSentences) +
    sentences * (24 + 4 * counts.spans + (counts.foreignSentences ? id * sentence.mean : 0))
  );
}

/** Weights and two moments of a checkpoint. */
const CHECKPOINT = 12;
/** Blocks retrieved for each question by `realm eval` (src/pipeline/evaluate.ts). */
const RETRIEVED = 100;
/** Bytes of one line of predictions without its passage. */
const PREDICTION = 280;

// ---------------------------------------------------------------------------------------------- all stages

/** What each stage of a run takes on this machine. */
export function preflight(config: Config, counts: Counts, machine: Machine): Preflight {
  const model = describeModel(config.model, counts.vocabulary);
  const parameters = parametersOf(config.model, counts.vocabulary);
  const index = indexBytes(config, counts.blocks);
  const building = buildingMemory(config, counts, machine.fused);
  const buildSeconds = indexSeconds(config, counts, machine);
  const embedder = countParameters(embedderShapes(model.documentTower, model.embedder));

  const stage = (
    name: string,
    needs: {
      memory: Partial<StageNeeds['of']>;
      disk: number;
      diskPeak?: number;
      seconds: number;
      steps?: number;
      stepSeconds?: number;
    },
  ): StageNeeds => {
    const { memory, seconds, ...rest } = needs;
    const of = {
      process: PROCESS,
      weights: 0,
      optimizer: 0,
      gradients: 0,
      activations: 0,
      index: 0,
      refresher: 0,
      ...memory,
    };
    return {
      stage: name,
      memoryRemedy: memoryRemedy(name, of, needs.steps !== undefined, config, counts),
      timeRemedy: TIME_REMEDY[name],
      memory: Object.values(of).reduce((a, b) => a + b, 0),
      of,
      diskPeak: needs.disk,
      ...rest,
      seconds,
      secondsRange: [seconds / TIME_FACTOR, seconds * TIME_FACTOR],
    };
  };
  const training = (
    name: string,
    steps: number,
    work: WorkOf,
    held: number,
    own: readonly Shape[],
    more: {
      step: number;
      disk?: number;
      diskPeak?: number;
      index?: number;
      refresher?: number;
      seconds?(training: number): number;
    },
  ): StageNeeds => {
    const trained = countParameters(own);
    const one = stepSeconds(work(config, counts, machine.fused, 'mean'), trained, machine) + more.step;
    const checkpoint = CHECKPOINT * trained;
    // The last ones and the best.
    const kept = Math.min(config.train.keep + 1, Math.ceil(steps / config.train.saveEvery));
    const disk = kept * checkpoint + (more.disk ?? 0);
    return stage(name, {
      memory: {
        ...trainingMemory(held, own, work(config, counts, machine.fused, 'max'), machine.fused),
        index: more.index ?? 0,
        refresher: more.refresher ?? 0,
      },
      disk,
      diskPeak: disk + checkpoint + (more.diskPeak ?? 0),
      seconds: steps * one + (more.seconds?.(steps * one) ?? 0),
      steps,
      stepSeconds: one,
    });
  };

  const tokens =
    counts.blocks * counts.body.mean +
    (counts.foreignSentences ? counts.sentences * counts.sentence.mean : 0);
  const { refresh } = config;
  const whole = index.vectors + index.graph + index.hashes;
  const searched = config.pretrain.batch;
  const noSpans = pretrainedShapes(model);
  const { readerBlocks, retrieverBlocks } = config.qa;
  const questions = counts.testQuestions;
  const answering = (n: number, which: 'mean' | 'max') => {
    const { question, reading } = lengths(config, counts, which);
    return add(
      encoderWork(config.model, machine.fused, n, question, 1),
      encoderWork(config.model, machine.fused, n * readerBlocks, reading),
      spanWork(config.model, machine.fused, n * readerBlocks, reading),
    );
  };
  /** What refreshing the index adds to a stage. */
  const refreshing = (every: Schedule, steps: number) => {
    if (refresh.mode === 'off') return {};
    const all = timesDue(every, steps) * buildSeconds;
    const beside = REFRESHER_SHARE / (1 - REFRESHER_SHARE);
    return {
      disk: refresh.keepIndexes * whole,
      diskPeak: whole + 2 * 4 * embedder,
      refresher: Object.values(building).reduce((a, b) => a + b, 0),
      seconds: (trained: number) => (refresh.mode === 'sync' ? all : Math.min(all, trained * beside)),
    };
  };
  const { refreshEvery } = config.qa;

  const stages = [
    stage('prepare', { memory: { index: 0 }, disk: corpusBytes(counts), seconds: tokens / PREPARED }),
    training('ict-warmup', config.ict.steps, ictWork, parameters.retriever, retrieverShapes(model), {
      step: 0,
    }),
    stage('build-index', { memory: building, disk: whole, seconds: buildSeconds }),
    training(
      'pretrain',
      config.pretrain.steps,
      pretrainWork,
      parameters.retriever + parameters.reader,
      noSpans,
      {
        step: searchSeconds(config, counts, searched, config.pretrain.candidates),
        index: index.graph,
        ...refreshing(refresh.every, config.pretrain.steps),
      },
    ),
    training(
      'finetune-qa',
      config.qa.steps,
      qaWork,
      parameters.total,
      qaShapes(model, refreshEvery !== null),
      {
        step:
          searchSeconds(config, counts, config.qa.batch, retrieverBlocks) +
          config.qa.batch * Math.min(retrieverBlocks, counts.blocks) * MATCHED,
        index: index.graph,
        // Of the indexes that pretraining leaves one is kept, with which it would go on.
        ...(refreshEvery === null ? {} : { ...refreshing(refreshEvery, config.qa.steps), disk: whole }),
      },
    ),
    ...(questions === 0
      ? []
      : [
          stage('eval', {
            memory: {
              weights: 4 * parameters.total,
              activations: BYTES_KEPT * answering(AT_ONCE / readerBlocks, 'max').held,
              index: index.graph,
            },
            disk: questions * (PREDICTION + counts.blockBytes),
            seconds:
              (questions / AT_ONCE) *
                readerBlocks *
                forwardSeconds(answering(AT_ONCE / readerBlocks, 'mean'), machine) +
              searchSeconds(config, counts, questions, RETRIEVED) +
              questions * RETRIEVED * MATCHED,
          }),
        ]),
  ];
  const disk =
    stages.reduce((sum, s) => sum + s.disk, 0) + Math.max(...stages.map((s) => s.diskPeak - s.disk));
  const seconds = stages.reduce((sum, s) => sum + s.seconds, 0);
  return {
    parameters,
    stages,
    disk,
    seconds,
    secondsRange: [seconds / TIME_FACTOR, seconds * TIME_FACTOR],
    assumptions: assumptions(machine, refresh.mode !== 'off'),
    warnings: warnings(config, counts, machine, stages, disk, buildSeconds),
  };
}

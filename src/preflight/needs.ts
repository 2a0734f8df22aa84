import type { Config } from '../config.ts';
import type { Shape } from '../model/bert.ts';
import { embedderShapes } from '../model/embedder.ts';
import {
  countParameters,
  describeModel,
  type Model,
  pretrainedShapes,
  retrieverShapes,
} from '../model/model.ts';
import type { Schedule } from '../schedule.ts';
import { qaShapes } from '../train/finetune-qa.ts';
import { readerWarmupShapes } from '../train/reader-warmup.ts';
import { checkpointBytes, corpusBytes, predictionBytes } from './disk.ts';
import { answeringMemory, buildingMemory, processMemory, totalBytes, trainingMemory } from './memory.ts';
import { parametersOf } from './parameters.ts';
import { indexBytes, TIME_FACTOR } from './rates.ts';
import {
  answerSeconds,
  devRecallSeconds,
  indexSeconds,
  matchSeconds,
  prepareSeconds,
  refreshSeconds,
  searchSeconds,
} from './time.ts';
import type { Counts, Machine, Parameters, Preflight, StageNeeds } from './types.ts';
import { assumptions, memoryRemedy, TIME_REMEDY, warnings } from './warnings.ts';
import { ictWork, pretrainWork, qaWork, readerWarmupWork, stepSeconds, type WorkOf } from './work.ts';

/** What each stage of a run takes on this machine. */
export function preflight(config: Config, counts: Counts, machine: Machine): Preflight {
  const plan = planOf(config, counts, machine);
  const stages = [
    prepareNeeds(plan),
    ictNeeds(plan),
    ...(config.readerWarmup.steps === 0 ? [] : [readerWarmupNeeds(plan)]),
    buildIndexNeeds(plan),
    pretrainNeeds(plan),
    finetuneNeeds(plan),
    ...(counts.testQuestions === 0 ? [] : [evalNeeds(plan)]),
  ];
  const kept = stages.reduce((sum, s) => sum + s.disk, 0);
  const disk = kept + Math.max(...stages.map((s) => s.diskPeak - s.disk));
  const seconds = stages.reduce((sum, s) => sum + s.seconds, 0);
  return {
    parameters: plan.parameters,
    stages,
    disk,
    seconds,
    secondsRange: secondsRange(seconds),
    assumptions: assumptions(machine, config.refresh.mode !== 'off'),
    warnings: warnings(config, counts, machine, stages, disk, plan.build.seconds),
  };
}

/** A run to estimate, with what several of its stages need. */
interface Plan {
  config: Config;
  counts: Counts;
  machine: Machine;
  model: Model;
  parameters: Parameters;
  /** Bytes of the graphs of an index, which a search holds in memory, and of its whole folder. */
  index: { graph: number; folder: number };
  /** Embedding and indexing all blocks: bytes of memory by part, and seconds. */
  build: { memory: StageNeeds['of']; seconds: number };
}

function planOf(config: Config, counts: Counts, machine: Machine): Plan {
  const { vectors, graph, hashes } = indexBytes(config, counts.blocks);
  return {
    config,
    counts,
    machine,
    model: describeModel(config.model, counts.vocabulary),
    parameters: parametersOf(config.model, counts.vocabulary),
    index: { graph, folder: vectors + graph + hashes },
    build: {
      memory: buildingMemory(config, counts, machine.fused),
      seconds: indexSeconds(config, counts, machine),
    },
  };
}

// ---------------------------------------------------------------------------------------------- stages

function prepareNeeds(plan: Plan): StageNeeds {
  const { counts } = plan;
  return stageNeeds(plan, 'prepare', {
    memory: {},
    disk: corpusBytes(counts),
    seconds: prepareSeconds(counts),
  });
}

function ictNeeds(plan: Plan): StageNeeds {
  const { config, counts, machine, model, parameters } = plan;
  const { steps } = config.ict;
  return trainingNeeds(plan, 'ict-warmup', {
    steps,
    work: ictWork,
    parameters: parameters.retriever,
    trained: retrieverShapes(model),
    besideSteps: steps === 0 ? 0 : devRecallSeconds(config, counts, machine),
  });
}

function buildIndexNeeds(plan: Plan): StageNeeds {
  const { build, index } = plan;
  return stageNeeds(plan, 'build-index', {
    memory: build.memory,
    disk: index.folder,
    seconds: build.seconds,
  });
}

function readerWarmupNeeds(plan: Plan): StageNeeds {
  const { config, model, parameters } = plan;
  return trainingNeeds(plan, 'reader-warmup', {
    steps: config.readerWarmup.steps,
    work: readerWarmupWork,
    parameters: parameters.reader,
    trained: readerWarmupShapes(model),
  });
}

function pretrainNeeds(plan: Plan): StageNeeds {
  const { config, counts, machine, model, parameters } = plan;
  const { refresh } = config;
  const { steps, batch, candidates } = config.pretrain;
  return trainingNeeds(plan, 'pretrain', {
    steps,
    work: pretrainWork,
    parameters: parameters.retriever + parameters.reader,
    trained: pretrainedShapes(model),
    besideSteps: steps === 0 ? 0 : devRecallSeconds(config, counts, machine),
    retrieval: {
      stepSeconds: searchSeconds(config, counts, batch, candidates),
      refreshEvery: refresh.every,
      indexesKept: refresh.mode === 'off' ? 0 : refresh.keepIndexes,
    },
  });
}

function finetuneNeeds(plan: Plan): StageNeeds {
  const { config, counts, machine, model, parameters, build } = plan;
  const { steps, batch, retrieverBlocks, refreshEvery, devQuestions } = config.qa;
  // The index of pretraining's last weights is built first, and that of a trained document tower at the end.
  const indexes =
    (config.pretrain.steps > 0 && config.qa.retriever === 'pretrain' ? 1 : 0) +
    (refreshEvery === null ? 0 : 1);
  const checkpoints = Math.floor(steps / config.train.saveEvery);
  const answered = checkpoints * Math.min(devQuestions, counts.devQuestions);
  return trainingNeeds(plan, 'finetune-qa', {
    steps,
    work: qaWork,
    parameters: parameters.total,
    trained: qaShapes(model, refreshEvery !== null),
    besideSteps:
      indexes * build.seconds +
      // A frozen document tower takes the blocks' vectors from the index.
      (refreshEvery === null ? 0 : devRecallSeconds(config, counts, machine)) +
      answerSeconds(config, counts, machine, answered),
    retrieval: {
      stepSeconds:
        searchSeconds(config, counts, batch, retrieverBlocks) +
        matchSeconds(batch, Math.min(retrieverBlocks, counts.blocks)),
      refreshEvery,
      // One index of those that pretraining leaves is kept: pretraining would resume with it.
      indexesKept: refreshEvery === null ? 0 : 1,
    },
  });
}

function evalNeeds(plan: Plan): StageNeeds {
  const { config, counts, machine, parameters, index } = plan;
  return stageNeeds(plan, 'eval', {
    memory: { ...answeringMemory(config, counts, machine.fused, parameters.total), index: index.graph },
    disk: predictionBytes(counts),
    seconds: answerSeconds(config, counts, machine, counts.testQuestions),
  });
}

// ---------------------------------------------------------------------------------------------- any stage

/** A training stage: what it computes and holds. */
interface Training {
  steps: number;
  work: WorkOf;
  /** Parameters in memory, and the tensors among them that the stage trains. */
  parameters: number;
  trained: readonly Shape[];
  /** Seconds of the stage outside its steps and refreshes: dev questions, an index before or after. */
  besideSteps?: number;
  retrieval?: Retrieving;
}

/** The index in a training stage: seconds that each step spends on it, and its refreshes. */
interface Retrieving {
  stepSeconds: number;
  /** Null where the document tower is frozen. */
  refreshEvery: Schedule | null;
  /** Index folders that the stage adds to the one that it starts with. */
  indexesKept: number;
}

function trainingNeeds(
  plan: Plan,
  stage: string,
  { steps, work, parameters, trained, besideSteps = 0, retrieval }: Training,
): StageNeeds {
  const { config, counts, machine, index } = plan;
  const { fused } = machine;
  const count = countParameters(trained);
  const computing = stepSeconds(work(config, counts, fused, 'mean'), count, machine);
  const oneStep = computing + (retrieval?.stepSeconds ?? 0);
  const refresh = refreshNeeds(plan, retrieval?.refreshEvery ?? null, steps, steps * oneStep);
  const checkpoint = checkpointBytes(config, steps, count);
  const disk = checkpoint.kept + (retrieval ? retrieval.indexesKept * index.folder : 0);
  return stageNeeds(plan, stage, {
    memory: {
      ...trainingMemory(parameters, trained, work(config, counts, fused, 'max'), fused),
      index: retrieval ? index.graph : 0,
      refresher: refresh.memory,
    },
    disk,
    diskPeak: disk + checkpoint.one + refresh.diskPeak,
    seconds: steps * oneStep + refresh.seconds + besideSteps,
    steps,
    stepSeconds: oneStep,
  });
}

/** What refreshing the index adds to a stage: bytes on disk while it runs, bytes of memory, and seconds. */
function refreshNeeds(
  { config, model, index, build }: Plan,
  every: Schedule | null,
  steps: number,
  trainingSeconds: number,
): { diskPeak: number; memory: number; seconds: number } {
  if (every === null || config.refresh.mode === 'off') return { diskPeak: 0, memory: 0, seconds: 0 };
  const tower = countParameters(embedderShapes(model.documentTower, model.embedder));
  return {
    // The index that is being built, and two snapshots of the tower as floats.
    diskPeak: index.folder + 2 * 4 * tower,
    memory: totalBytes(build.memory),
    seconds: refreshSeconds(config, every, steps, build.seconds, trainingSeconds),
  };
}

/** Fills in what every stage has. */
function stageNeeds(
  { config, counts }: Plan,
  stage: string,
  needs: Pick<StageNeeds, 'disk' | 'seconds'> &
    Partial<Pick<StageNeeds, 'diskPeak' | 'steps' | 'stepSeconds'>> & { memory: Partial<StageNeeds['of']> },
): StageNeeds {
  const { memory, ...rest } = needs;
  const of = processMemory(memory);
  return {
    stage,
    memoryRemedy: memoryRemedy(stage, of, needs.steps !== undefined, config, counts),
    timeRemedy: TIME_REMEDY[stage],
    memory: totalBytes(of),
    of,
    diskPeak: needs.disk,
    ...rest,
    secondsRange: secondsRange(needs.seconds),
  };
}

function secondsRange(seconds: number): [number, number] {
  return [seconds / TIME_FACTOR, seconds * TIME_FACTOR];
}

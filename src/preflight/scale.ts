import type { Config } from '../config.ts';
import { embedderShapes } from '../model/embedder.ts';
import { countParameters, describeModel } from '../model/model.ts';
import { SECTION } from '../run/stages.ts';
import { preflight } from './needs.ts';
import { indexBytes } from './rates.ts';
import { embedSeconds, graphSeconds } from './time.ts';
import type { Counts, Machine, StageNeeds } from './types.ts';

// What several machines make of an estimate: shards of an index embedded by workers, and steps trained by ranks. Each worker
// and each rank counts as a machine of its own that is like this one. And what one machine with more such cores makes of it.

/** Bytes a second between two machines (10 Gbit/s), and seconds of a message; and of the shared folder, for all machines together. */
const NETWORK = 1.25e9;
const LATENCY = 50e-6;
const FOLDER = 500e6;
/** Bytes moved in memory for each gradient that is summed: it is copied into one message, out of the engine, and back. */
const COPIED_BYTES = 24;

export const SCALE_ASSUMPTIONS = [
  'every worker and every rank is a machine like this one, with nothing else to do',
  'network: 10 Gbit/s between two machines, 50 µs a message; shared folder: 500 MB/s for all together',
  'the graph of an index is built on one machine; other parts of a stage than its steps are left out',
];

/** An index made by so many workers, in seconds: embedding, the shared folder, and the graph, one after the other. */
export interface ScaledIndex {
  workers: number;
  embedding: number;
  folder: number;
  graph: number;
  seconds: number;
  /** The part that takes longest. */
  limit: 'compute' | 'disk' | 'graph';
}

/** A training stage on so many ranks. */
export interface ScaledStage {
  stage: string;
  ranks: number;
  /** Seconds of a step, and of the sum over the ranks in it; undefined where the batch cannot be shared equally. */
  step?: number;
  sum?: number;
  /** Of all steps. */
  seconds?: number;
  limit: 'compute' | 'network' | 'batch';
}

export function scaledIndex(config: Config, counts: Counts, machine: Machine, workers: number): ScaledIndex {
  const embedding = embedSeconds(config, counts, machine, counts.blocks) / workers;
  const graph = graphSeconds(config, counts);
  const model = describeModel(config.model, counts.vocabulary);
  const tower = 4 * countParameters(embedderShapes(model.documentTower, model.embedder));
  // Each worker reads the weights; the vectors are written by the workers and read where the index is put together.
  const folder = (workers * tower + 2 * indexBytes(config, counts.blocks).vectors) / FOLDER;
  const most = Math.max(embedding, folder, graph);
  return {
    workers,
    embedding,
    folder,
    graph,
    seconds: embedding + folder + graph,
    limit: most === embedding ? 'compute' : most === folder ? 'disk' : 'graph',
  };
}

/** The stages of a run on a machine with so many cores, in seconds. */
export interface ScaledCores {
  cores: number;
  stages: { stage: string; seconds: number }[];
  seconds: number;
}

/** How many times as fast two cores are as one (assumed: docs/machines.md); each further doubling is taken to give as much. */
export const DOUBLING = 1.8;
/** `prepare` splits documents on no more cores than these. */
const PREPARING_CORES = 8;

/** @param here cores of the machine that `stages` were estimated for */
export function scaledCores(stages: readonly StageNeeds[], here: number, cores: number): ScaledCores {
  const factor = (n: number) => DOUBLING ** Math.log2(n / here);
  const scaled = stages
    .filter(({ steps }) => steps !== 0)
    .map(({ stage, seconds }) => ({
      stage,
      seconds:
        seconds / factor(stage === 'prepare' ? Math.min(cores, Math.max(here, PREPARING_CORES)) : cores),
    }));
  return { cores, stages: scaled, seconds: scaled.reduce((sum, s) => sum + s.seconds, 0) };
}

const TRAINED = ['ict-warmup', 'reader-warmup', 'pretrain', 'finetune-qa'] as const;

/** The steps of every stage on so many ranks. */
export function scaledStages(config: Config, counts: Counts, machine: Machine, ranks: number): ScaledStage[] {
  const part = (batch: number) => Math.max(1, Math.floor(batch / ranks));
  const ict = part(config.ict.batch);
  const own: Config = {
    ...config,
    // Several ranks embed their part of the warm-up's batch twice, however small it is: see train/gradient-cache.ts.
    ict: {
      ...config.ict,
      batch: ict,
      microBatch: ranks > 1 ? Math.min(config.ict.microBatch, Math.max(1, ict >> 1)) : config.ict.microBatch,
    },
    readerWarmup: { ...config.readerWarmup, batch: part(config.readerWarmup.batch) },
    pretrain: { ...config.pretrain, batch: part(config.pretrain.batch) },
    qa: { ...config.qa, batch: part(config.qa.batch) },
  };
  const { stages } = preflight(own, counts, machine);
  return TRAINED.filter((stage) => config[SECTION[stage]].steps > 0).map((stage) => {
    const { steps, stepSeconds, of } = stages.find((s) => s.stage === stage)!;
    const divides =
      config[SECTION[stage]].batch % ranks === 0 &&
      (ranks === 1 || stage !== 'finetune-qa' || config.qa.contrastive === 0);
    if (!divides) return { stage, ranks, limit: 'batch' };
    const sum = ranks === 1 ? 0 : sumSeconds(of.optimizer / 8, ranks, machine); // two moments of 4 bytes
    const step = stepSeconds! + sum;
    return {
      stage,
      ranks,
      step,
      sum,
      seconds: steps! * step,
      limit: sum > stepSeconds! ? 'network' : 'compute',
    };
  });
}

/**
 * A sum over all ranks: 2 (N − 1) / N of the bytes go over each machine's network (Rabenseifner's algorithm: Thakur et al. 2005,
 * "Optimization of Collective Communication Operations in MPICH", section 4.5), in 2 log N messages.
 */
function sumSeconds(parameters: number, ranks: number, { elementwise }: Machine): number {
  const bytes = 4 * parameters;
  const messages = 2 * Math.ceil(Math.log2(ranks));
  return (
    (2 * ((ranks - 1) / ranks) * bytes) / NETWORK +
    messages * LATENCY +
    (COPIED_BYTES * parameters) / elementwise
  );
}

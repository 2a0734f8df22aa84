import type { Config } from '../config.ts';
import { AT_ONCE } from '../eval/answer.ts';
import type { Shape } from '../model/bert.ts';
import { embedderShapes } from '../model/embedder.ts';
import { countParameters, describeModel } from '../model/model.ts';
import { BUCKET_FLOATS } from '../train/optimizer.ts';
import { indexBytes, sharing } from './rates.ts';
import type { Counts, StageNeeds } from './types.ts';
import { answerWork, encoderWork, lengths, type StepWork } from './work.ts';

// Peak bytes of each kind of process. The constants were measured (docs/engines.md, "Measured constants of the estimate").

/** A process with the native engine loaded and nothing computed. `prepare`, which loads no engine, takes about as much. */
const PROCESS_BYTES = 450 * 2 ** 20;
/** Resident bytes for each float that a pass keeps or holds: gradients and the allocator's reserve come on top of its 4. */
const BYTES_PER_FLOAT_KEPT = 4 * 1.8;
/** Copies of its largest bucket that the optimizer makes where no kernel of our own updates it in one call. */
const COMPOSED_UPDATE_COPIES = 15;
/** What a graph in memory takes in addition to its file, a node. */
const GRAPH_NODE_OVERHEAD_BYTES = 115;

type MemoryParts = StageNeeds['of'];

/** Bytes of a process that holds the parts given. */
export function processMemory(parts: Partial<MemoryParts>): MemoryParts {
  return {
    process: PROCESS_BYTES,
    weights: 0,
    optimizer: 0,
    gradients: 0,
    activations: 0,
    index: 0,
    refresher: 0,
    ...parts,
  };
}

export function totalBytes(parts: MemoryParts): number {
  return Object.values(parts).reduce((a, b) => a + b, 0);
}

/** Bytes of a process that embeds and indexes all blocks. */
export function buildingMemory(config: Config, counts: Counts, fused: boolean): MemoryParts {
  const { block } = lengths(config, counts, 'max');
  const model = describeModel(config.model, counts.vocabulary);
  const batch = encoderWork(config.model, fused, config.index.tokensPerBatch / block, block, 1);
  const { graphs, rows } = sharing(config.index, counts.blocks);
  const graph = graphs === 0 ? 0 : (indexBytes(config, counts.blocks).graph * rows) / counts.blocks;
  return processMemory({
    weights: 4 * countParameters(embedderShapes(model.documentTower, model.embedder)),
    activations: BYTES_PER_FLOAT_KEPT * batch.held,
    index: graph + rows * GRAPH_NODE_OVERHEAD_BYTES,
  });
}

/**
 * Bytes of a training process.
 * @param parameters all that are in memory
 * @param trained those that the stage trains
 * @param step work with the longest texts
 */
export function trainingMemory(
  parameters: number,
  trained: readonly Shape[],
  step: StepWork,
  fused: boolean,
): Partial<MemoryParts> {
  const count = countParameters(trained);
  const largest = Math.max(...trained.map((shape) => countParameters([shape])));
  const bucket = Math.max(largest, Math.min(count, BUCKET_FLOATS));
  return {
    weights: 4 * parameters,
    optimizer: 8 * count,
    // Twice: once more when packed for the update, or those of the passes so far together with those of this one.
    gradients: 8 * count,
    activations: Math.max(
      BYTES_PER_FLOAT_KEPT * step.pass.kept,
      fused ? 0 : 4 * COMPOSED_UPDATE_COPIES * bucket,
    ),
  };
}

/** Bytes of a process that answers questions with all `parameters`, without the index. */
export function answeringMemory(
  config: Config,
  counts: Counts,
  fused: boolean,
  parameters: number,
): Partial<MemoryParts> {
  const batch = answerWork(config, counts, fused, AT_ONCE / config.qa.readerBlocks, 'max');
  return { weights: 4 * parameters, activations: BYTES_PER_FLOAT_KEPT * batch.held };
}

import type { Corpus } from '../../src/corpus/store/reader.ts';
import type { Shape } from '../../src/model/bert.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import type { Context } from '../../src/pipeline/context.ts';
import type { Stage } from '../../src/run/stages.ts';
import { saveCheckpoint } from '../../src/train/checkpoints.ts';
import { tinyModel } from './tiny.ts';

/** Leaves large random weights in a run, as if a stage of one step had ended with them. */
export async function leaveUntrained(
  { run, config }: Context,
  corpus: Corpus,
  stage: Stage,
  shapesOf: (model: Model) => Shape[],
  seed?: number,
): Promise<void> {
  const model = tinyModel(config, corpus.tokenizer.size, seed);
  const state = {
    step: 1,
    steps: 1,
    vocabularySha256: corpus.tokenizer.sha256,
    corpusSha256: corpus.sha256,
    settings: {},
    index: null,
    score: null,
    averages: {},
    sinceSave: {},
    firstLoss: 1,
    skipped: 0,
  };
  await saveCheckpoint(run.checkpoint(stage), { model, shapes: shapesOf(model), moments: [], state }, 1);
  disposeModel(model);
}

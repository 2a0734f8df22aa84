import type { Corpus } from '../corpus/store/reader.ts';
import { modelFolder } from '../hub/cache.ts';
import type { Shape } from '../model/bert.ts';
import {
  countParameters,
  disposeModel,
  type Model,
  pretrainedShapes,
  retrieverShapes,
} from '../model/model.ts';
import type { RetrieverStage, Stage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { hasCheckpoint, saveCheckpoint } from '../train/checkpoints.ts';
import { qaShapes } from '../train/finetune-qa.ts';
import { openWeights } from '../weights/weight-folder.ts';
import { build } from './build-index.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus } from './context.ts';

export interface Imported {
  stage: RetrieverStage;
  /** Parameters imported. */
  parameters: number;
  /** Blocks whose vectors were imported; 0: `build-index` or the next stage embeds them. */
  blocks: number;
}

/** The tensors of each stage, which the weights of a published model can replace. */
const STAGE_SHAPES: Record<RetrieverStage, (model: Model) => Shape[]> = {
  'ict-warmup': retrieverShapes,
  pretrain: pretrainedShapes,
  'finetune-qa': qaShapes,
};

const PARTS: [RegExp, string][] = [
  [/projection\./, 'projection'],
  [/\bmlm\./, 'masked-LM head'],
  [/^span\./, 'span scorer'],
];

/**
 * Imports the weights in `model.initial` and `model.initialReader` as a stage's checkpoint at step 0: later stages start
 * from it, and the stage itself continues from it. The vectors `block_emb` of a `RealmForOpenQA` become the run's index if
 * the corpus has as many blocks (its block_records.npy, prepared with text.splitting as-is). Throws a `UserError` if the
 * folders lack a part that the stage would have trained.
 */
export async function importStage(context: Context, stage: RetrieverStage): Promise<Imported> {
  const { run, config } = context;
  const { initial, initialReader, temperature } = config.model;
  if (initial === null) {
    throw new UserError(
      `${run.config}: model.initial names no folder; pass the model's folder with --set model.initial=PATH`,
    );
  }
  if (temperature !== 1) {
    throw new UserError(
      `${run.config}: model.temperature is ${temperature}, but published retrievers were trained without it; set it to 1`,
    );
  }
  // A fine-tuned model has no document tower. In the released models, the query tower before fine-tuning made the vectors.
  const stages: RetrieverStage[] = stage === 'finetune-qa' ? ['ict-warmup', 'finetune-qa'] : [stage];
  for (const root of stages.map((s) => run.checkpoint(s))) {
    if (hasCheckpoint(root)) {
      throw new UserError(
        `${root}: already has weights; remove it to import others, or choose a new folder with --run`,
      );
    }
  }
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  try {
    const shapes = STAGE_SHAPES[stage](model);
    const wanted = new Map(stages.flatMap((s) => STAGE_SHAPES[s](model)).map((shape) => [shape.name, shape]));
    const missing = firstWeights(context, model, [...wanted.values()]);
    for (const [pattern, part] of PARTS) {
      if (!missing.some((name) => pattern.test(name))) continue;
      throw new UserError(
        `${pattern.source.startsWith('projection') ? initial : (initialReader ?? initial)}: has no ${part}, which ` +
          `stage ${stage} has; import it as an earlier stage, or start that one from it`,
      );
    }
    for (const s of stages) await save(context, s, corpus, model, STAGE_SHAPES[s](model));
    const blocks = await publishedIndex(context, stages[0], initial, model, corpus);
    return { stage, parameters: countParameters(shapes), blocks };
  } finally {
    disposeModel(model);
    corpus.close();
  }
}

async function save(
  context: Context,
  stage: Stage,
  corpus: Corpus,
  model: Model,
  shapes: readonly Shape[],
): Promise<void> {
  const { checkpoint, origin } = loopSettings(context, stage, corpus);
  const state = {
    step: 0,
    steps: 0,
    ...origin,
    index: null,
    score: null,
    averages: {},
    sinceSave: {},
    firstLoss: 0,
    skipped: 0,
  };
  await saveCheckpoint(checkpoint, { model, shapes, moments: [], state }, context.config.train.keep);
}

/** Blocks whose vectors are in memory at a time. */
const BLOCKS_AT_A_TIME = 4096;

async function publishedIndex(
  context: Context,
  stage: RetrieverStage,
  folder: string,
  model: Model,
  corpus: Corpus,
): Promise<number> {
  const { path, tensors, close } = openWeights(modelFolder(folder));
  try {
    const vectors = tensors.get('block_emb');
    if (!vectors) return 0;
    const [rows, P] = vectors.shape;
    if (rows !== corpus.blocks || P !== model.embedder.projection || vectors.shape.length !== 2) {
      say(
        `import: block_emb in ${path} is [${vectors.shape}], not the corpus's ${corpus.blocks} blocks of ${model.embedder.projection}: ` +
          'its vectors are not imported; to use them, prepare the block_records.npy that belongs to it with text.splitting as-is',
      );
      return 0;
    }
    await build(context, stage, model, corpus, 'latest', function* (first) {
      for (let at = first; at < rows; at += BLOCKS_AT_A_TIME)
        yield vectors.read(at * P, Math.min(rows, at + BLOCKS_AT_A_TIME) * P);
    });
    return rows;
  } finally {
    close();
  }
}

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
import type { RetrieverStage, Stage } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { hasCheckpoint, saveCheckpoint } from '../train/checkpoints.ts';
import { qaShapes } from '../train/finetune-qa.ts';
import { openWeights } from '../weights/weight-folder.ts';
import { build } from './build-index.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus } from './context.ts';

export interface Imported {
  stage: RetrieverStage;
  /** Parameters taken. */
  parameters: number;
  /** Blocks whose vectors came along; 0: `build-index` or the next stage embeds them. */
  blocks: number;
}

/** What each stage leaves that the weights of a published model can stand for. */
const SHAPES: Record<RetrieverStage, (model: Model) => Shape[]> = {
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
 * Takes the weights in `model.initial` and `model.initialReader` for what a stage of this run has trained, as a checkpoint
 * of no step: later stages start from it, the stage itself trains on from it. Of a `RealmForOpenQA` the vectors
 * `block_emb` become the run's index where the corpus has as many blocks (that of its block_records.npy, packed as it is).
 * A `UserError` where the folders lack a part that the stage would have trained.
 */
export async function importStage(context: Context, stage: RetrieverStage): Promise<Imported> {
  const { run, config } = context;
  const { initial, initialReader, temperature } = config.model;
  if (initial === null) {
    throw new UserError(`${run.config}: model.initial names no folder; give the model's with --set`);
  }
  if (temperature !== 1) {
    throw new UserError(
      `${run.config}: model.temperature is ${temperature}, published retrievers were trained without; set it to 1`,
    );
  }
  // Fine-tuning has no document tower; the one that made the vectors is, as released, the query tower before it.
  const stages: RetrieverStage[] = stage === 'finetune-qa' ? ['ict-warmup', 'finetune-qa'] : [stage];
  for (const root of stages.map((s) => run.checkpoint(s))) {
    if (hasCheckpoint(root)) {
      throw new UserError(`${root}: has weights already; remove it to import others, or name a new --run`);
    }
  }
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  try {
    const shapes = SHAPES[stage](model);
    const wanted = new Map(stages.flatMap((s) => SHAPES[s](model)).map((shape) => [shape.name, shape]));
    const lacking = firstWeights(context, model, [...wanted.values()]);
    for (const [pattern, part] of PARTS) {
      if (!lacking.some((name) => pattern.test(name))) continue;
      throw new UserError(
        `${pattern.source.startsWith('projection') ? initial : (initialReader ?? initial)}: has no ${part}, which ` +
          `stage ${stage} has; import it as an earlier stage, or start that one from it`,
      );
    }
    for (const s of stages) await save(context, s, corpus, model, SHAPES[s](model));
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

/** Blocks whose vectors are held at a time. */
const PIECE = 4096;

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
          'its vectors are left; prepare the block_records.npy that belongs to it with text.splitting as-is to use them',
      );
      return 0;
    }
    await build(context, stage, model, corpus, 'latest', function* (first) {
      for (let at = first; at < rows; at += PIECE) yield vectors.read(at * P, Math.min(rows, at + PIECE) * P);
    });
    return rows;
  } finally {
    close();
  }
}

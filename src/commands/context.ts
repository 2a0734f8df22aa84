import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { type Corpus, openCorpus } from '../corpus/store.ts';
import { type EngineName, startEngine } from '../engine.ts';
import { UserError } from '../errors.ts';
import type { Shape } from '../model/bert.ts';
import { loadWeights, WEIGHTS } from '../model/checkpoint.ts';
import { type ImportConfig, importBert } from '../model/import-bert.ts';
import { describeModel, initialise, type Model } from '../model/model.ts';
import { say } from '../progress.ts';
import { random } from '../random.ts';
import { type Run, runConfig, runFolder, type Stage } from '../run.ts';

/** Options that every command takes. */
export interface CommonOptions {
  config?: string;
  set: string[];
  run: string;
  seed?: number;
  engine: 'auto' | EngineName;
  json: boolean;
}

/** What every command works with. */
export interface Context {
  run: Run;
  config: Config;
  engine: EngineName;
}

/** Opens the run folder with its configuration, and starts the engine. */
export async function begin(options: CommonOptions): Promise<Context> {
  const run = runFolder(options.run);
  const set = options.seed === undefined ? options.set : [...options.set, `seed=${options.seed}`];
  needCorpus(run); // before a configuration is saved in a folder that may be a slip of the pen
  const config = runConfig(run, { config: options.config, set });
  return { run, config, engine: await announceEngine(options.engine) };
}

export async function announceEngine(choice: 'auto' | EngineName): Promise<EngineName> {
  const engine = await startEngine(choice);
  say(`engine: ${engine.description}${engine.hint ? ` (${engine.hint})` : ''}`);
  return engine.name;
}

function needCorpus(run: Run): void {
  if (existsSync(join(run.corpus, 'manifest.json'))) return;
  throw new UserError(
    `${run.corpus}: no prepared corpus in this run; make it with "realm prepare --run ${run.dir}"`,
  );
}

export function runCorpus({ run, config }: Context): Corpus {
  needCorpus(run);
  const corpus = openCorpus(run.corpus);
  if (corpus.tokenizer.lowercase !== config.text.lowercase) {
    throw new UserError(
      `${run.corpus}: was prepared with text.lowercase ${corpus.tokenizer.lowercase}; run "realm prepare" again`,
    );
  }
  return corpus;
}

/** The model's sizes, with the vocabulary of the corpus and no parameters yet. */
export function emptyModel({ config }: Context, corpus: Corpus): Model {
  return describeModel(config.model, corpus.tokenizer.size);
}

/** First values of `shapes`: from the BERT folder `model.initial` where it has them, else random. */
export function firstWeights({ config }: Context, model: Model, shapes: readonly Shape[]): void {
  const source = random(config.seed);
  if (config.model.initial === null) {
    initialise(model, shapes, source);
    return;
  }
  const { params } = importBert(config.model.initial, model.embedder satisfies ImportConfig);
  initialise(model, shapes, source, params);
}

/** True when the stage has left weights. */
export function hasWeights({ run }: Context, stage: Stage): boolean {
  return existsSync(join(run.checkpoint(stage), WEIGHTS));
}

const COMMAND: Record<Stage, string> = {
  ict: 'ict-warmup',
  pretrain: 'pretrain',
  qa: 'finetune-qa',
  'closed-book': 'demo',
};

/** Weights of `shapes` that a stage has left; a `UserError` names the command that makes them. */
export function stageWeights({ run }: Context, stage: Stage, model: Model, shapes: readonly Shape[]): void {
  loadWeights(run.checkpoint(stage), model, shapes, `run "realm ${COMMAND[stage]} --run ${run.dir}"`);
}

import { existsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { dirname } from 'node:path';
import type { Config } from '../config.ts';
import { type Corpus, openCorpus } from '../corpus/store.ts';
import { installOnFirstUse } from '../engine/install.ts';
import { type EngineName, obeySignals, startEngine } from '../engine.ts';
import { UserError } from '../errors.ts';
import { recoverFolders, removeFolder } from '../files.ts';
import type { Shape } from '../model/bert.ts';
import { loadWeights } from '../model/checkpoint.ts';
import { type ImportConfig, type ImportedBert, importBert, type Tower } from '../model/import-bert.ts';
import { countParameters, describeModel, initialise, type Model, modelShapes } from '../model/model.ts';
import { say } from '../progress.ts';
import { random } from '../random.ts';
import { lockRun, type Run, runConfig, runFolder, type Stage } from '../run.ts';
import { goBackTo, hasCheckpoint, openCheckpoint, type Which } from '../train/checkpoints.ts';
import type { Origin } from '../train/loop.ts';

/** Options that every command takes. */
export interface CommonOptions {
  config?: string;
  set: string[];
  run: string;
  seed?: number;
  engine: 'auto' | EngineName;
  /** Processor threads; all where it is not given. */
  threads?: number;
  json: boolean;
}

/** What every command works with. */
export interface Context {
  run: Run;
  config: Config;
  engine: EngineName;
  /** The command only reads: another process may be at work in the run, and nothing there is changed. */
  readOnly?: true;
}

/**
 * Opens the run folder with its configuration, and starts the engine.
 * @param work what the command does in the run folder, kept to itself meanwhile; undefined where it only reads
 */
export async function begin(options: CommonOptions, work?: string): Promise<Context> {
  const run = runFolder(options.run);
  const set = options.seed === undefined ? options.set : [...options.set, `seed=${options.seed}`];
  needCorpus(run); // before a configuration is saved in a folder that may be a slip of the pen
  if (!existsSync(run.config) && options.config === undefined) {
    throw new UserError(
      `${run.config}: is missing, though this run is prepared; put it back, or name the settings with --config`,
    );
  }
  const readOnly = work === undefined;
  const check = () => {
    if (work !== undefined) lockRun(run, work);
  };
  const config = runConfig(run, { config: options.config, set }, check, !readOnly);
  return { run, config, engine: await announceEngine(options), ...(readOnly && { readOnly }) };
}

export async function announceEngine({
  engine: choice,
  threads,
}: Pick<CommonOptions, 'engine' | 'threads'>): Promise<EngineName> {
  if (choice === 'auto' || choice === 'tensorflow') await installOnFirstUse();
  const engine = await startEngine(choice, { threads });
  await obeySignals();
  say(`engine: ${engine.description}${engine.hint ? ` (${engine.hint})` : ''}`);
  return engine.name;
}

function needCorpus(run: Run): void {
  if (existsSync(run.corpusManifest)) return;
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
export function emptyModel({ run, config }: Context, corpus: Corpus): Model {
  const model = describeModel(config.model, corpus.tokenizer.size);
  const bytes = 4 * countParameters(modelShapes(model));
  if (bytes > totalmem()) {
    const gib = (n: number) => `${(n / 2 ** 30).toPrecision(3)} GiB`;
    throw new UserError(
      `${run.config}: the settings under model make weights of ${gib(bytes)}, this machine has ${gib(totalmem())} of memory; lower model.hidden, model.intermediate or model.layers`,
    );
  }
  return model;
}

/**
 * First values of `shapes`: from the folders `model.initial` and `model.initialReader` where they have them, else random.
 * @returns the names of those that no folder had
 */
export function firstWeights({ config }: Context, model: Model, shapes: readonly Shape[]): string[] {
  const { initial, initialReader } = config.model;
  const imported = new Map<Tower, ImportedBert['params'] | undefined>();
  return initialise(model, shapes, random(config.seed), (tower) => {
    const folder = tower === 'reader' ? (initialReader ?? initial) : initial;
    if (folder !== null && !imported.has(tower)) {
      const sizes = { ...model.embedder, ...model.reader } satisfies ImportConfig;
      imported.set(tower, importBert(folder, sizes, tower).params);
    }
    return imported.get(tower);
  });
}

/** True when the stage has left weights. */
export function hasWeights({ run, readOnly }: Context, stage: Stage): boolean {
  return hasCheckpoint(run.checkpoint(stage), !readOnly);
}

/** The settings that a stage trains by, the first with its steps and optimizer. */
const SETTINGS = {
  ict: ['ict'],
  pretrain: ['pretrain', 'refresh'],
  qa: ['qa'],
  'closed-book': ['closedBook'],
} as const satisfies Record<Stage, (keyof Config)[]>;

/** What every training hands to the loop of its stage. */
export function loopSettings({ run, config }: Context, stage: Stage, corpus: Corpus) {
  const { use: _, ...settings } = config.train;
  const { steps, optimizer } = config[SETTINGS[stage][0]];
  const kept = (['seed', 'text', 'model', ...SETTINGS[stage]] as const).map((name) => [name, config[name]]);
  const origin: Origin = {
    corpusSha256: corpus.sha256,
    vocabularySha256: corpus.tokenizer.sha256,
    settings: Object.fromEntries(kept),
  };
  return {
    ...settings,
    steps,
    optimizer,
    checkpoint: run.checkpoint(stage),
    metrics: run.metrics(stage),
    events: run.events(stage),
    origin,
  };
}

/** `--resume`: back to an earlier checkpoint of the stage, or to its beginning. */
export function goBack({ run }: Context, stage: Stage, to: Which | 'none' | undefined): void {
  if (to === undefined || to === 'latest') return;
  const root = run.checkpoint(stage);
  if (to === 'none') {
    recoverFolders(dirname(root));
    removeFolder(root);
  } else goBackTo(root, to);
}

const COMMAND: Record<Stage, string> = {
  ict: 'ict-warmup',
  pretrain: 'pretrain',
  qa: 'finetune-qa',
  'closed-book': 'demo',
};

/** Weights of `shapes` that a stage has left; a `UserError` names the command that makes them. */
export function stageWeights(
  { run, config, readOnly }: Context,
  stage: Stage,
  corpus: Corpus,
  model: Model,
  shapes: readonly Shape[],
): void {
  const remedy = `run "realm ${COMMAND[stage]} --run ${run.dir}"`;
  const root = run.checkpoint(stage);
  if (!hasCheckpoint(root, !readOnly)) throw new UserError(`${root}: no such weights; ${remedy}`);
  const { dir, state } = openCheckpoint(root, config.train.use, !readOnly);
  if (state.vocabularySha256 !== corpus.tokenizer.sha256) {
    throw new UserError(
      `${dir}: was trained with another vocabulary than the corpus has now; ${remedy} --resume none`,
    );
  }
  loadWeights(dir, model, shapes, remedy);
}

import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Config } from '../config.ts';
import { NO_SPANS } from '../corpus/counts.ts';
import { type Corpus, openCorpus } from '../corpus/store/reader.ts';
import { hasFused } from '../engine/fused.ts';
import { installOnFirstUse } from '../engine/install.ts';
import { alone, gather, onFirst, type Ranks, ranksHere, threadsOf } from '../engine/ranks.ts';
import { type Engine, type EngineName, obeySignals, startEngine } from '../engine.ts';
import type { Shape } from '../model/bert.ts';
import { isWholeWithoutTraining } from '../model/head.ts';
import {
  countParameters,
  describeModel,
  type ImportedBert,
  initialise,
  type Model,
  modelShapes,
  setParam,
  type Tower,
} from '../model/model.ts';
import { queueAddress } from '../queue/address.ts';
import { random } from '../random.ts';
import {
  lockRun,
  prepareCommand,
  type Run,
  refuseOldRun,
  runConfig,
  runFolder,
  settingsOf,
  stepsOf,
} from '../run/folder.ts';
import { SECTION, type Stage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { recoverFolders, removeFolder } from '../system/files.ts';
import { memoryLimit } from '../system/memory.ts';
import { say } from '../system/progress.ts';
import { pause } from '../system/stop.ts';
import { goBackTo, hasCheckpoint, openCheckpoint, stateOf, type Which } from '../train/checkpoints.ts';
import type { LoopResult, Origin } from '../train/loop.ts';
import { isFinished, needResumable } from '../train/resume.ts';
import { loadWeights } from '../weights/checkpoint.ts';
import { type ImportConfig, importBert } from '../weights/import-bert.ts';
import { needTokenPooling } from './initial-weights.ts';
import { inputPath } from './inputs.ts';
import { narrowLayer } from './narrow-layer.ts';

/** How a run is opened. */
export interface RunOptions {
  /** A settings file, or the name of one that comes with realm. */
  config?: string;
  /** Settings as `name=value`. */
  set: readonly string[];
  /** Folder of the run. */
  run: string;
  seed?: number;
  engine: 'auto' | EngineName;
  /** Processor threads; all by default. */
  threads?: number;
  /** Address of a Redis server whose workers embed blocks, perhaps with a password; by default `refresh.queue`. */
  queue?: string;
}

/** The options of a command that works in a run. */
export interface CommonOptions extends RunOptions {
  set: string[];
  /** Print one JSON document on stdout. */
  json: boolean;
}

/** What every command works with. */
export interface Context {
  run: Run;
  config: Config;
  engine: EngineName;
  /** The processes that train together; undefined: this one alone. */
  ranks?: Ranks;
  /** The command only reads: another process may be at work in the run, and nothing there is changed. */
  readOnly?: true;
  /** Threads of a search; undefined: all. */
  threads?: number;
  /** See `RunOptions`; it may hold a password, and is not saved. */
  queue?: string;
}

/**
 * Opens a prepared run for a command that trains nothing, and starts the engine. What `--set` changes counts for
 * this command alone.
 * @param work what the command writes in the run folder, kept to itself meanwhile; undefined where it only reads
 */
export async function openRun(options: RunOptions, work?: string): Promise<Context> {
  const run = preparedRun(options);
  const config = runConfig(run, settingsOf(options), () => {}, false);
  if (work !== undefined) lockRun(run, work);
  const engine = await announceEngine(options);
  return work === undefined ? { run, config, engine, readOnly: true } : { run, config, engine };
}

/**
 * Opens a prepared run for a stage, which keeps it to itself, and starts the engine. Changed settings are saved with the run.
 * Of several ranks, rank 0 does this, and the others take its settings.
 * @param checks throw where the stage cannot work with the settings: then none is saved
 */
export async function openRunForWork(
  options: RunOptions,
  work: string,
  checks: WorkChecks = {},
  ranks: Ranks = alone,
): Promise<Context> {
  if (options.queue !== undefined) queueAddress(options.queue); // throws if it is none
  const run = preparedRun(options, 'put it back, or name the settings with --config');
  const settings = settingsOf(options);
  const lockAndCheck = (config: Config) => {
    lockRun(run, work);
    checks.settings?.(run, config);
  };
  const config = await onFirst(ranks, () => runConfig(run, settings, lockAndCheck, false));
  const context = { run, config, ranks, engine: await announceEngine(options, ranks), queue: options.queue };
  const here = await ranksHere(ranks);
  await onFirst(ranks, () => checks.needs?.(context, here));
  return { ...context, config: await onFirst(ranks, () => runConfig(run, settings)) };
}

/** What a stage looks at before its settings are saved. */
export interface WorkChecks {
  /** Before the engine starts. */
  settings?(run: Run, config: Config): void;
  /** With the engine: whether the stage needs more than the machine has, of which `ranksHere` ranks have a part each. */
  needs?(context: Context, ranksHere: number): Promise<void>;
}

/** The run folder, which must be prepared: a folder named by mistake is not to get a configuration. */
function preparedRun({ run: dir, config }: RunOptions, remedy = 'put it back'): Run {
  const run = runFolder(dir);
  refuseOldRun(run);
  needCorpus(run);
  if (existsSync(run.config) || config !== undefined) return run;
  throw new UserError(`${run.config}: is missing, though this run is prepared; ${remedy}`);
}

/** Starts the engine and says which. By default each of several ranks gets its share of the machine's threads. */
export async function announceEngine(
  { engine: choice, threads }: Pick<RunOptions, 'engine' | 'threads'>,
  ranks: Ranks = alone,
): Promise<EngineName> {
  if (choice === 'auto' || choice === 'tensorflow') await installOnFirstUse();
  if (ranks.size > 1) threads ??= await threadsOf(ranks);
  const engine = await startEngine(choice, { threads });
  obeySignals();
  await pause(); // loading modules and the engine may have taken no turn of the event loop: signals come now
  say(engineLine(engine));
  if (ranks.size > 1) {
    say(
      `ranks: ${ranks.size} processes train together; this one has ${threads === 1 ? '1 thread' : `${threads} threads`}`,
    );
    await needSameEngine(ranks, engine.name);
  }
  return engine.name;
}

/** The line that says which engine computes. */
export function engineLine({ description, hint }: Engine): string {
  return `engine: ${description}${hint ? ` (${hint})` : ''}`;
}

/** Engines differ in the last digits of their results: the weights of the ranks would drift apart. */
async function needSameEngine(ranks: Ranks, name: EngineName): Promise<void> {
  const engines = ['tensorflow', 'webgpu', 'wasm', 'cpu'];
  const kinds = await gather(ranks, 2 * engines.indexOf(name) + (hasFused() ? 1 : 0));
  const other = kinds.findIndex((kind) => kind !== kinds[0]);
  if (other < 0) return;
  const text = (kind: number) =>
    `${engines[Math.floor(kind / 2)]}${kind === 0 ? " without realm's own kernels" : ''}`;
  throw new UserError(
    `--engine: rank ${other} computes with ${text(kinds[other])} and rank 0 with ${text(kinds[0])}; choose one that all have, or install it on every machine with: realm engine install`,
  );
}

/** A `UserError` where a stage cannot be divided among the ranks. */
export function needDivisible(config: Config, stage: Stage, { size }: Ranks): void {
  const shared: [string, number][] = [[`${SECTION[stage]}.batch`, config[SECTION[stage]].batch]];
  const { contrastive, readQuestions } = config.qa;
  if (stage === 'finetune-qa' && contrastive > 0 && readQuestions !== null)
    shared.push(['qa.readQuestions', readQuestions]);
  for (const [name, value] of shared) {
    if (value % size === 0) continue;
    throw new UserError(
      `${name}: is ${value}, which ${size} ranks cannot share equally; set it to ${size * Math.ceil(value / size)}, or start another number of ranks`,
    );
  }
}

/**
 * Fills in weights of `shapes` that `give` reads or draws. Only rank 0 does so; the loop gives its weights to the others, which
 * have zeros until then.
 */
export async function giveWeights(
  { ranks = alone }: Context,
  model: Model,
  shapes: readonly Shape[],
  give: () => unknown,
): Promise<void> {
  if (ranks.rank === 0) await give();
  else
    for (const shape of shapes)
      setParam(model.params, shape.name, shape.shape, new Float32Array(countParameters([shape])));
}

function needCorpus(run: Run): void {
  if (existsSync(run.corpusManifest)) return;
  throw new UserError(`${run.corpus}: no prepared corpus in this run; make it with "${prepareCommand(run)}"`);
}

export function runCorpus({ run, config }: Context): Corpus {
  needCorpus(run);
  const corpus = openCorpus(run.corpus);
  const { lowercase } = config.text; // null: as the encoder's tokenizer, by which it was prepared
  if (lowercase !== null && corpus.tokenizer.lowercase !== lowercase) {
    throw new UserError(
      `${run.corpus}: was prepared with text.lowercase ${corpus.tokenizer.lowercase}; run "realm prepare" again`,
    );
  }
  return corpus;
}

/** A `UserError` if the corpus has no sentence with a salient span, which masking needs; the corpus is closed then. */
export function needSentences({ run }: Context, corpus: Corpus): void {
  if (corpus.sentences.count > 0) return;
  corpus.close();
  throw new UserError(`${run.corpus}: ${NO_SPANS}, and prepare again`);
}

/** The model's sizes, with the vocabulary of the corpus and no parameters yet. */
export function emptyModel({ run, config }: Context, corpus: Corpus): Model {
  needTokenPooling(run.config, config.model);
  const model = describeModel(config.model, corpus.tokenizer.size);
  const bytes = 4 * countParameters(modelShapes(model));
  if (bytes > memoryLimit()) {
    const gib = (n: number) => `${(n / 2 ** 30).toPrecision(3)} GiB`;
    throw new UserError(
      `${run.config}: the settings under model make weights of ${gib(bytes)}, this machine has ${gib(memoryLimit())} of memory; lower model.hidden, model.intermediate or model.layers`,
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
      // The layer of model.width is in no folder.
      const sizes = { ...model.embedder, ...model.reader, dense: config.model.dense } satisfies ImportConfig;
      imported.set(tower, importBert(folder, sizes, tower).params);
    }
    return imported.get(tower);
  });
}

/**
 * First values of the retriever, `shapes` of its towers: as `firstWeights`, and with `model.width` the principal components.
 * @returns the names of those that neither a folder nor the components had
 */
export async function firstRetriever(
  context: Context,
  model: Model,
  corpus: Corpus,
  shapes: readonly Shape[],
): Promise<string[]> {
  const { run, config, readOnly } = context;
  const random = firstWeights(context, model, shapes);
  if (config.model.width === null) return random;
  const tuned = hasWeights(context, 'finetune-qa');
  const remedy = readOnly
    ? `make it with "realm build-index --run ${run.dir}"`
    : tuned
      ? `put back the file or the settings that this run was fine-tuned with, or fine-tune it again with "realm finetune-qa --run ${run.dir} --resume none"`
      : undefined;
  const layer = await narrowLayer(run.components, model, corpus, config, remedy);
  for (const { name, shape } of shapes)
    if (layer.kernels.includes(name)) setParam(model.params, name, shape, layer.values);
  return random.filter((name) => !layer.names.includes(name));
}

/** True when the stage has left weights. */
export function hasWeights({ run, readOnly }: Context, stage: Stage): boolean {
  return hasCheckpoint(run.checkpoint(stage), !readOnly);
}

/** The setting that says how many steps a stage has. */
const stepsSetting = (stage: Stage) => `${SECTION[stage]}.steps`;

/** The settings that a checkpoint of the stage records. */
function trainedSettings(config: Config, stage: Stage): Record<string, unknown> {
  const refresh = stage === 'pretrain' ? (['refresh'] as const) : [];
  const names = ['seed', 'text', 'model', SECTION[stage], ...refresh] as const;
  return Object.fromEntries(names.map((name) => [name, config[name]]));
}

/** What every training hands to the loop of its stage. */
export function loopSettings({ run, config, ranks }: Context, stage: Stage, corpus: Corpus) {
  const { use: _, bestBy: __, ...settings } = config.train;
  const { steps, batch, optimizer } = config[SECTION[stage]];
  const origin: Origin = {
    corpusSha256: corpus.sha256,
    vocabularySha256: corpus.tokenizer.sha256,
    settings: trainedSettings(config, stage),
  };
  return {
    ...settings,
    steps,
    batch,
    optimizer,
    ranks,
    checkpoint: run.checkpoint(stage),
    metrics: run.metrics(stage),
    events: run.events(stage),
    origin,
  };
}

/**
 * Throws where a stage cannot start, or continue from the checkpoint `from`, with these settings: known before they are
 * saved and any weights are read.
 */
export function needStage(run: Run, config: Config, stage: Stage, from: Which | 'none'): void {
  if (stage === 'finetune-qa') {
    inputPath(run, config, 'data.train');
    if (config.data.dev !== null) inputPath(run, config, 'data.dev');
  }
  if (config.train.bestBy === 'recall' && stage !== 'closed-book') inputPath(run, config, 'data.dev');
  const root = run.checkpoint(stage);
  const state = from === 'none' ? undefined : stateOf(root, from);
  if (state)
    needResumable(root, state, stepsOf(config, stage), trainedSettings(config, stage), stepsSetting(stage));
}

/**
 * The result of a stage that has all its steps behind it, and is not trained again; undefined for any other. It is said, and
 * costs no more than a look at the checkpoint.
 */
export async function finished(
  context: Context,
  stage: Stage,
  corpus: Corpus,
): Promise<LoopResult | undefined> {
  return onFirst(context.ranks ?? alone, () => finishedResult(context, stage, corpus));
}

function finishedResult({ run, config }: Context, stage: Stage, corpus: Corpus): LoopResult | undefined {
  const root = run.checkpoint(stage);
  const steps = stepsOf(config, stage);
  if (!hasCheckpoint(root)) return undefined;
  const { state } = openCheckpoint(root, 'latest');
  // Of another vocabulary: loading its weights refuses them.
  if (!isFinished(state, steps) || state.vocabularySha256 !== corpus.tokenizer.sha256) return undefined;
  needResumable(root, state, steps, trainedSettings(config, stage), stepsSetting(stage));
  say(
    `${commandOf(stage)}: already finished at step ${state.step}; nothing to do (--resume none trains it again)`,
  );
  return { metrics: {}, seconds: 0, stopped: false, step: state.step };
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

/** The command that trains a stage. */
const commandOf = (stage: Stage) => (stage === 'closed-book' ? 'demo' : stage);

/** Whether the encoder that a run starts from retrieves as it is: all weights of its head came with it. */
export function retrievesUntrained({ model }: Config): boolean {
  return model.initial !== null && isWholeWithoutTraining(model);
}

/**
 * Weights of `shapes` that a stage has left, or `initial`, those of the encoder as it was published; a `UserError` names
 * the command that makes them.
 */
export async function stageWeights(
  context: Context,
  stage: Stage | 'initial',
  corpus: Corpus,
  model: Model,
  shapes: readonly Shape[],
): Promise<void> {
  const { run, config, readOnly } = context;
  if (stage === 'initial') {
    const [missing] = await firstRetriever(context, model, corpus, shapes);
    if (missing === undefined) return;
    throw new UserError(
      `${config.model.initial ?? 'model.initial'}: lacks ${missing}, which a retriever needs; train one with "realm ict-warmup --run ${run.dir}"`,
    );
  }
  const remedy = `run "realm ${commandOf(stage)} --run ${run.dir}"`;
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

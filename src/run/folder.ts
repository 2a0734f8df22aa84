import { appendFileSync, existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type Config, loadConfig, saveConfig } from '../config.ts';
import { withCommitOf } from '../hub/name.ts';
import { HEAD_SETTINGS } from '../settings.ts';
import { UserError } from '../system/errors.ts';
import { explainWrite, makeFolder, readText, recoverFolders, writeFileAtomic } from '../system/files.ts';
import { openJournal } from '../system/journal.ts';
import { takeLock } from '../system/lock.ts';
import { type RefreshedStage, SECTION, STAGES, type Stage } from './stages.ts';

/** Every path in a run folder. */
export interface Run {
  dir: string;
  config: string;
  corpus: string;
  /** Written last by `realm prepare`. */
  corpusManifest: string;
  /** Folder of a stage's checkpoints. */
  checkpoint(stage: Stage): string;
  /** Folder of indexes; its file `current` names the one in use. */
  index: string;
  /** BM25's index of the corpus. */
  bm25: string;
  /** Weights for the refresher. */
  snapshots: string;
  /** Vectors of parts of the blocks, which `realm embed` makes; a folder for each retriever's weights. */
  shards: string;
  /** The principal components that `model.width` starts from. */
  components: string;
  metrics(stage: Stage): string;
  /** Folder of the stage's event files for TensorBoard. */
  events(stage: Stage): string;
  /** One line for each index that the stage swapped in. */
  refreshes(stage: RefreshedStage): string;
  /** One line for the first index of the stage and for each one that it swapped in: what it finds for the same queries. */
  probes(stage: RefreshedStage): string;
  predictions: string;
  /** One line for each evaluation. */
  evaluations: string;
  summary: string;
  /** Table of a grid of ablations; the run folders of its rows are in the folder of the grid. */
  ablation: string;
}

/** Number of steps of a stage in the settings. */
export function stepsOf(config: Config, stage: Stage): number {
  return config[SECTION[stage]].steps;
}

export function runFolder(dir: string): Run {
  return {
    dir,
    config: join(dir, 'config.yaml'),
    corpus: join(dir, 'corpus'),
    corpusManifest: join(dir, 'corpus', 'manifest.json'),
    checkpoint: (stage) => join(dir, 'checkpoints', stage),
    index: join(dir, 'index'),
    bm25: join(dir, 'bm25'),
    snapshots: join(dir, 'snapshots'),
    shards: join(dir, 'shards'),
    components: join(dir, 'components.safetensors'),
    metrics: (stage) => join(dir, 'metrics', `${stage}.jsonl`),
    events: (stage) => join(dir, 'metrics', 'tensorboard', stage),
    refreshes: (stage) => join(dir, 'metrics', `${stage}-refreshes.jsonl`),
    probes: (stage) => join(dir, 'metrics', `${stage}-probes.jsonl`),
    predictions: join(dir, 'predictions.jsonl'),
    evaluations: join(dir, 'metrics', 'evaluations.jsonl'),
    summary: join(dir, 'summary.json'),
    ablation: join(dir, 'ablation', 'table.json'),
  };
}

/** The command that prepares the run. A run without settings needs a file of them. */
export function prepareCommand({ dir, config }: Run): string {
  return `realm prepare${existsSync(config) ? '' : ' --config FILE'} --run ${dir}`;
}

/**
 * The run's configuration. A new run saves the one it starts with. A later command reads that file and refuses a different
 * `--config`, so that two commands cannot disagree. Until something was made with it, for example if the first `prepare`
 * failed, a `--config` replaces it. `--set` changes single settings and is saved, too.
 * @param check throws if the command cannot work with the configuration; then nothing is saved
 * @param save false for a command that trains nothing: its `--set` applies to this command only
 */
export function runConfig(
  run: Run,
  options: { config?: string; set: readonly string[] },
  check: (config: Config) => void = () => {},
  save = true,
): Config {
  const { config: file, set } = options;
  const given = file === undefined ? undefined : loadConfig(file, set);
  let config: Config;
  if (existsSync(run.config) && (given === undefined || isInUse(run))) {
    const saved = loadConfig(run.config, []);
    config = withSavedChoices(loadConfig(run.config, set), saved);
    if (given && JSON.stringify(withSavedChoices(given, saved)) !== JSON.stringify(saved))
      throw new UserError(
        `${run.config}: this run already has a configuration, and it differs from ${file}; ` +
          'leave out --config, change single settings with --set, or choose another folder with --run',
      );
    if (save && set.length === 0) save = false;
  } else config = given ?? loadConfig(undefined, set);
  check(config);
  if (save) saveConfig(run.config, config);
  return config;
}

/**
 * `given` with what the run chose where it leaves a choice open: the commit of a model on the Hub that is asked for by its
 * name alone, and the head of its encoder.
 */
function withSavedChoices(given: Config, saved: Config): Config {
  const keep = (a: string | null, b: string | null) => (a === null || b === null ? a : withCommitOf(a, b));
  return {
    ...given,
    text: { ...given.text, ner: keep(given.text.ner, saved.text.ner) },
    model: {
      ...given.model,
      ...Object.fromEntries(HEAD_SETTINGS.map((name) => [name, given.model[name] ?? saved.model[name]])),
      initial: keep(given.model.initial, saved.model.initial),
      initialReader: keep(given.model.initialReader, saved.model.initialReader),
    },
  };
}

/** Names of stages in runs of earlier versions. */
const OLD_NAMES: Partial<Record<Stage, string>> = { 'ict-warmup': 'ict', 'finetune-qa': 'qa' };

/** Throws a `UserError` for a run of an earlier version, in which stages had other names. */
export function refuseOldRun({ dir }: Run): void {
  for (const [stage, old] of Object.entries(OLD_NAMES)) {
    const path = join(dir, 'checkpoints', old);
    if (existsSync(path))
      throw new UserError(
        `${path}: was trained by an older version of realm, which named the stage ${stage} "${old}"; ` +
          'train a new run in another folder with --run',
      );
  }
}

/** The settings from a command's options, in the form that `runConfig` takes. */
export function settingsOf({
  config,
  set,
  seed,
}: {
  config?: string;
  set: readonly string[];
  seed?: number;
}) {
  return { config, set: seed === undefined ? set : [...set, `seed=${seed}`] };
}

/** Whether anything has been made with the run's configuration. */
export function isInUse(run: Run): boolean {
  return existsSync(run.corpusManifest) || STAGES.some((stage) => existsSync(run.checkpoint(stage)));
}

/**
 * Keeps other processes from working in the run folder until this one ends. `UserError` if another one works there already.
 * @returns a function that releases the lock earlier
 */
export function lockRun(run: Run, work: string): () => void {
  try {
    makeFolder(run.dir);
    let closeJournal = () => {};
    const lock = takeLock(join(run.dir, 'lock'), work, () => closeJournal());
    if (!lock.holder) {
      recoverFolders(run.dir); // what a killed command left half written there, or one whose folder was moved away
      closeJournal = openJournal(run.dir, work);
      return lock.release;
    }
    const { holder } = lock;
    throw new UserError(
      `${run.dir}: "realm ${holder.work}" is already running in this run folder (process ${holder.pid} on ${holder.host}); ` +
        `wait for it or stop it, or choose another folder with --run${
          holder.host === hostname() ? '' : `; if it has ended, remove ${join(run.dir, 'lock')}`
        }`,
    );
  } catch (error) {
    throw explainWrite(run.dir, error);
  }
}

/**
 * Adds a line to a JSONL file, which is created if needed. Its folder must exist and is not created: otherwise a stage would
 * continue in a new folder after its run folder was moved away.
 */
export function appendRecord(path: string, record: object): void {
  try {
    appendFileSync(path, `${JSON.stringify(record)}\n`);
  } catch (error) {
    throw explainWrite(path, error);
  }
}

/** A JSONL file that grows by one line for each call, such as a stage's metrics. */
export interface JsonLines {
  write(record: object): void;
}

const MAX_METRICS_BYTES = 128 << 20;

/**
 * Opens a metrics log as it was after `done` steps. Lines that a killed process wrote after its last checkpoint are removed,
 * since those steps are repeated. The step of a line is its `inUseAt`, else its `step`.
 */
export function jsonLines(path: string, done: number): JsonLines {
  const kept = [];
  const text =
    done > 0 && existsSync(path) ? readText(path, 'log of metrics', `remove ${path}`, MAX_METRICS_BYTES) : '';
  for (const line of text.split('\n')) {
    try {
      const { inUseAt, step } = JSON.parse(line);
      if ((inUseAt ?? step) <= done) kept.push(`${line}\n`);
    } catch {} // an incomplete line of a killed process
  }
  writeFileAtomic(path, kept.join(''));
  return { write: (record) => appendRecord(path, record) };
}

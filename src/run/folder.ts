import { appendFileSync, existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type Config, loadConfig, saveConfig } from '../config.ts';
import { withCommitOf } from '../hub/name.ts';
import { UserError } from '../system/errors.ts';
import { explainWrite, makeFolder, readText, writeFileAtomic } from '../system/files.ts';
import { openJournal } from '../system/journal.ts';
import { takeLock } from '../system/lock.ts';

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
  /** Weights handed to the refresher. */
  snapshots: string;
  metrics(stage: Stage): string;
  /** Folder of the stage's event files for TensorBoard. */
  events(stage: Stage): string;
  /** One line for each index that the stage took up. */
  refreshes(stage: RefreshedStage): string;
  /** One line for the index that the stage began with and for each that it took up: what it finds for the same queries. */
  probes(stage: RefreshedStage): string;
  predictions: string;
  /** One line for each evaluation. */
  evaluations: string;
  summary: string;
  /** Table of a grid of ablations, which has its rows' run folders below it. */
  ablation: string;
}

/** The stages that train something, in their order. */
export const STAGES = ['ict', 'pretrain', 'qa', 'closed-book'] as const;
export type Stage = (typeof STAGES)[number];

/** Those that take up indexes while they train. */
export const REFRESHED_STAGES = ['pretrain', 'qa'] as const satisfies readonly Stage[];
export type RefreshedStage = (typeof REFRESHED_STAGES)[number];

/** Steps that the settings ask of a stage. */
export function stepsOf(config: Config, stage: Stage): number {
  return config[stage === 'closed-book' ? 'closedBook' : stage].steps;
}

export function runFolder(dir: string): Run {
  return {
    dir,
    config: join(dir, 'config.yaml'),
    corpus: join(dir, 'corpus'),
    corpusManifest: join(dir, 'corpus', 'manifest.json'),
    checkpoint: (stage) => join(dir, 'checkpoints', stage),
    index: join(dir, 'index'),
    snapshots: join(dir, 'snapshots'),
    metrics: (stage) => join(dir, 'metrics', `${stage}.jsonl`),
    events: (stage) => join(dir, 'metrics', 'tensorboard', stage),
    refreshes: (stage) => join(dir, 'metrics', stage === 'qa' ? 'qa-refreshes.jsonl' : 'refreshes.jsonl'),
    probes: (stage) => join(dir, 'metrics', stage === 'qa' ? 'qa-probes.jsonl' : 'probes.jsonl'),
    predictions: join(dir, 'predictions.jsonl'),
    evaluations: join(dir, 'metrics', 'evaluations.jsonl'),
    summary: join(dir, 'summary.json'),
    ablation: join(dir, 'ablation', 'table.json'),
  };
}

/**
 * The run's configuration. A new run saves the one it is started with; a later command reads that file, and refuses a
 * different `--config`, so that two commands cannot disagree. Until something is made with it, as after a first `prepare`
 * that failed, a `--config` replaces it. `--set` changes single settings and is saved again.
 * @param check throws where the command cannot work with the configuration: then nothing is saved
 * @param save false for a command that trains nothing: its `--set` counts for it alone
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
    config = withCommits(loadConfig(run.config, set), saved);
    if (given && JSON.stringify(withCommits(given, saved)) !== JSON.stringify(saved))
      throw new UserError(
        `${run.config}: this run has its own configuration already, and it differs from ${file}; ` +
          'leave --config out, change single settings with --set, or choose another folder with --run',
      );
    if (save && set.length === 0) save = false;
  } else config = given ?? loadConfig(undefined, set);
  check(config);
  if (save) saveConfig(run.config, config);
  return config;
}

/** A model on the Hub that is asked for by its name alone is the one whose commit the run keeps. */
function withCommits(asked: Config, saved: Config): Config {
  const keep = (a: string | null, b: string | null) => (a === null || b === null ? a : withCommitOf(a, b));
  return {
    ...asked,
    text: { ...asked.text, ner: keep(asked.text.ner, saved.text.ner) },
    model: {
      ...asked.model,
      initial: keep(asked.model.initial, saved.model.initial),
      initialReader: keep(asked.model.initialReader, saved.model.initialReader),
    },
  };
}

/** The settings that a command's options name, as `runConfig` takes them. */
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
function isInUse(run: Run): boolean {
  return existsSync(run.corpusManifest) || STAGES.some((stage) => existsSync(run.checkpoint(stage)));
}

/**
 * Keeps other processes from working in the run folder until this one ends; a `UserError` where one is at it already.
 * @returns ends it before that
 */
export function lockRun(run: Run, work: string): () => void {
  try {
    makeFolder(run.dir);
    const lock = takeLock(join(run.dir, 'lock'), work);
    if (!lock.holder) {
      const close = openJournal(run.dir, work);
      process.once('exit', close);
      return () => {
        close();
        process.off('exit', close);
        lock.release();
      };
    }
    const { holder } = lock;
    throw new UserError(
      `${run.dir}: "realm ${holder.work}" is at work in this run folder (process ${holder.pid} on ${holder.host}); ` +
        `wait for it or stop it, or choose another folder with --run${
          holder.host === hostname() ? '' : `; if it has ended, remove ${join(run.dir, 'lock')}`
        }`,
    );
  } catch (error) {
    throw explainWrite(run.dir, error);
  }
}

/**
 * Adds a line to a JSONL file, which is begun where there is none. Its folder must stand: made here, a run folder that was
 * moved away under a stage would come again, and the stage go on in it.
 */
export function appendRecord(path: string, record: object): void {
  try {
    appendFileSync(path, `${JSON.stringify(record)}\n`);
  } catch (error) {
    throw explainWrite(path, error);
  }
}

/** A JSONL file that grows by one line a call, such as a stage's metrics. */
export interface JsonLines {
  write(record: object): void;
}

/** Bytes. */
const LONGEST_LOG = 128 << 20;

/**
 * Opens a metrics log as it was after `done` steps: what a killed process wrote beyond its last checkpoint goes, since
 * the steps are done again. A line tells its step as `inUseAt`, else as `step`.
 */
export function jsonLines(path: string, done: number): JsonLines {
  const kept = [];
  const text =
    done > 0 && existsSync(path) ? readText(path, 'log of metrics', `remove ${path}`, LONGEST_LOG) : '';
  for (const line of text.split('\n')) {
    try {
      const { inUseAt, step } = JSON.parse(line);
      if ((inUseAt ?? step) <= done) kept.push(`${line}\n`);
    } catch {} // a line that a kill cut short
  }
  writeFileAtomic(path, kept.join(''));
  return { write: (record) => appendRecord(path, record) };
}

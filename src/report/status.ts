import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { corpusSummary } from '../corpus/store/reader.ts';
import { prepareCommand, type Run, refuseOldRun, runFolder } from '../run/folder.ts';
import type { RetrieverSource, Stage } from '../run/stages.ts';
import { errorCode, UserError } from '../system/errors.ts';
import type { LogLine } from '../system/journal.ts';
import { logFile } from '../system/journal.ts';
import { checkpointed, type Evaluated, type Evaluation, isRun, type RunRecord, readRun } from './record.ts';
import { lastTrouble, type UnderWay, underWay } from './under-way.ts';

// What `realm status` shows of a run folder, which may be incomplete, damaged, or in use at this moment. Only reads.

export interface StageState {
  stage: Stage;
  state: 'not started' | 'unfinished' | 'finished' | 'running';
  step: number;
  /** Total steps; null if the settings cannot be read. */
  steps: number | null;
  /** The last line of its metrics. */
  figures: Record<string, number>;
  /** Metrics on dev questions before its first step, and after its last. */
  evaluated: Evaluated;
  /** Names of checkpoints; null if there is none. */
  latest: string | null;
  best: string | null;
  /** ISO 8601: when the latest was written. */
  saved: string | null;
}

export interface IndexState {
  name: string;
  rows: number;
  /** Stage whose document tower embedded the blocks, and its step; initial: the encoder as it was published. */
  stage: RetrieverSource;
  step: number;
  createdAt: string;
  /** Bytes on disk. */
  bytes: number;
  inUse: boolean;
  /** Steps that the stage's latest checkpoint is ahead of this index: 0 if the index was made from these weights. */
  stepsBehind: number;
  /** False if it was made of another corpus than the run has now: nothing can be searched with it. */
  ofThisCorpus: boolean;
}

/** What a run folder holds, and what is running in it. */
export interface RunStatus {
  run: string;
  corpus: { documents: number; blocks: number } | null;
  /** True if `prepare` was stopped and can resume. */
  prepareUnfinished: boolean;
  stages: StageState[];
  indexes: IndexState[];
  evaluations: Evaluation[];
  /** Bytes of all files in the folder. */
  bytes: number;
  underWay: UnderWay | null;
  /** The last warning or error in the run's log. */
  trouble: LogLine | null;
  /** Files that could not be read, as sentences. */
  unreadable: string[];
  /** The command to run next; null while one is running. */
  next: string | null;
}

/** Throws a `UserError` if the folder does not exist or holds no run. */
export function statusOf(run: Run): RunStatus {
  if (!statSync(run.dir, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UserError(`${run.dir}: no such folder; pass the folder of a run`);
  }
  refuseOldRun(run);
  if (!holdsRun(run)) {
    throw new UserError(
      `${run.dir}: holds no run; pass another folder, or create a run here with "${prepareCommand(run)}"`,
    );
  }
  const record = readRun(run);
  const working = underWay(run);
  const stages = record.stages.map((stage) => stageState(run, record, stage.stage, working));
  const indexes = indexStates(run, stages);
  return {
    run: run.dir,
    corpus:
      record.documents === undefined || record.blocks === undefined
        ? null
        : { documents: record.documents, blocks: record.blocks },
    prepareUnfinished: existsSync(`${run.corpus}.part`),
    stages,
    indexes,
    evaluations: record.evaluations,
    bytes: bytesIn(run.dir),
    underWay: working ?? null,
    trouble: lastTrouble(run) ?? null,
    unreadable: record.troubles,
    next: working && working.alive !== false ? null : next(run, record, stages, indexes),
  };
}

/** True of a folder in which a command has started a run, even if it did little. */
export function holdsRun(run: Run): boolean {
  const traces = [
    join(run.dir, 'lock'),
    logFile(run.dir),
    join(run.dir, 'checkpoints'),
    run.index,
    `${run.corpus}.part`,
  ];
  return isRun(run) || traces.some((path) => existsSync(path));
}

/** The runs in a folder of runs. */
export function runsIn(folder: string): Run[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return [];
    throw error;
  }
  return names
    .sort()
    .map((name) => runFolder(join(folder, name)))
    .filter(holdsRun);
}

function stageState(run: Run, record: RunRecord, stage: Stage, working: UnderWay | undefined): StageState {
  const { steps: done, of, last, evaluated } = record.stages.find((s) => s.stage === stage)!;
  const root = run.checkpoint(stage);
  const saved = checkpointed(root);
  const latest = pointer(root, 'latest');
  const running =
    working?.alive !== false && working?.progress?.name === (stage === 'closed-book' ? 'closed book' : stage);
  const finished = saved !== undefined && saved.step >= saved.steps;
  return {
    stage,
    state: running ? 'running' : finished ? 'finished' : done > 0 || saved ? 'unfinished' : 'not started',
    step: running ? working!.progress!.done : done,
    steps: of ?? null,
    figures: last?.figures ?? {},
    evaluated,
    latest,
    best: pointer(root, 'best'),
    saved: latest === null ? null : timeOf(join(root, latest, 'state.json')),
  };
}

function pointer(root: string, name: string): string | null {
  try {
    const checkpoint = readFileSync(join(root, name), 'utf8').trim();
    return /^step-\d+$/.test(checkpoint) ? checkpoint : null;
  } catch {
    return null;
  }
}

function timeOf(path: string): string | null {
  return statSync(path, { throwIfNoEntry: false })?.mtime.toISOString() ?? null;
}

const manifest = z.object({
  rows: z.number(),
  step: z.number(),
  createdAt: z.string(),
  corpusSha256: z.string().optional(),
});

function indexStates(run: Run, stages: readonly StageState[]): IndexState[] {
  const of = (name: Stage) => stages.find(({ stage }) => stage === name);
  const retrieverOf = (name: string, step: number): RetrieverSource => {
    if (name.startsWith('finetune-qa-')) return 'finetune-qa';
    if (step > 0) return 'pretrain';
    return of('ict-warmup')?.state === 'not started' ? 'initial' : 'ict-warmup';
  };
  const corpus = corpusSummary(run.corpus)?.sha256;
  let current = '';
  try {
    current = readFileSync(join(run.index, 'current'), 'utf8').trim();
  } catch {} // no index is in use
  return listed(run.index).flatMap((name): IndexState[] => {
    if (!/^(finetune-qa-)?step-\d+$/.test(name)) return [];
    const dir = join(run.index, name);
    try {
      const {
        rows,
        step,
        createdAt,
        corpusSha256 = corpus,
      } = manifest.parse(JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8')));
      const stage = retrieverOf(name, step);
      const weights = stage === 'initial' ? undefined : of(stage);
      const latest = Number(/\d+/.exec(weights?.latest ?? '')?.[0] ?? step);
      // The warm-up's index is always named step 0, whatever its last step was.
      const newer = (weights?.saved ?? '') > createdAt;
      const stepsBehind = stage !== 'ict-warmup' ? Math.max(0, latest - step) : newer ? latest : 0;
      const bytes = bytesIn(dir);
      const inUse = name === current;
      const ofThisCorpus = corpus === undefined || corpusSha256 === corpus;
      return [{ name, rows, stage, step, createdAt, bytes, inUse, stepsBehind, ofThisCorpus }];
    } catch {
      return []; // it is being written or removed
    }
  });
}

function listed(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return [];
  }
}

/** A file that is removed while it is counted counts as 0. */
function bytesIn(dir: string): number {
  let bytes = 0;
  for (const entry of entriesOf(dir)) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) bytes += bytesIn(path);
    else if (entry.isFile()) bytes += statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }
  return bytes;
}

function entriesOf(dir: string) {
  try {
    return readdirSync(dir, { withFileTypes: true });
  } catch {
    return [];
  }
}

function next(
  run: Run,
  record: RunRecord,
  stages: readonly StageState[],
  indexes: readonly IndexState[],
): string {
  const command = (name: string) => `realm ${name} --run ${run.dir}`;
  if (record.ablation) return `realm report ${run.dir}`;
  if (existsSync(join(run.dir, 'demo.json')) && !record.summary) return command('demo');
  if (record.blocks === undefined) return prepareCommand(run);
  if (indexes.some(({ inUse, ofThisCorpus }) => inUse && !ofThisCorpus)) return command('build-index');
  const order = stages.filter(
    ({ stage, steps }) => stage !== 'closed-book' && (stage !== 'reader-warmup' || (steps ?? 0) > 0),
  );
  // If a later stage has started, stages before it were left out on purpose.
  const latest = order.findLastIndex(({ state }) => state !== 'not started');
  const todo = order.find(({ state, steps }, i) => i >= latest && state !== 'finished' && steps !== 0);
  // Both could build the index themselves; the command of its own says so, and how long it takes.
  const needsIndex = todo?.stage === 'pretrain' || todo?.stage === 'finetune-qa';
  if (needsIndex && indexes.length === 0 && todo.state === 'not started') return command('build-index');
  if (todo) return command(todo.stage);
  if (!record.evaluations.some(({ stage }) => stage === 'finetune-qa')) return command('eval exact-match');
  return command('ask');
}

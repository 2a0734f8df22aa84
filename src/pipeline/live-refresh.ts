import { existsSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Corpus } from '../corpus/store/reader.ts';
import { alone, meet, onFirst } from '../engine/ranks.ts';
import { BLOCKS_PER_PROBE, type Probes, probeRecall, probeRecords } from '../eval/probes.ts';
import { type Model, retrieverShapes } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { type Published, type Refresher, startRefresher } from '../refresher/client.ts';
import { configSha256, writeSnapshot } from '../refresher/snapshot.ts';
import { indexName, isQaIndex } from '../retrieval/ensure-index.ts';
import type { Found } from '../retrieval/graph.ts';
import { readManifest } from '../retrieval/manifest.ts';
import { overlapAt } from '../retrieval/overlap.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { type JsonLines, jsonLines } from '../run/folder.ts';
import type { RefreshedStage, RetrieverSource } from '../run/stages.ts';
import { dueAt, type Schedule } from '../schedule.ts';
import { UserError } from '../system/errors.ts';
import { inside } from '../system/files.ts';
import { say, warn } from '../system/progress.ts';
import { latestState, openCheckpoint, stepsDone } from '../train/checkpoints.ts';
import type { LoopOptions } from '../train/loop.ts';
import { needSameCorpus } from '../train/resume.ts';
import { eventFile } from '../train/tensorboard.ts';
import { loadWeights } from '../weights/checkpoint.ts';
import { findIndex, forgetIndexes, matchingIndex, openRunIndex } from './build-index.ts';
import type { Context } from './context.ts';

/** A stage that trains the document tower, so that its index must follow. */
export interface Refreshed {
  stage: RefreshedStage;
  /** Length of the whole schedule. */
  steps: number;
  /** When a refresh is requested. */
  every: Schedule;
  /** Queries whose best blocks are recorded for every index. */
  probes: Probes;
  /** Questions on which the recall of every index is measured. */
  dev: readonly EncodedQuestion[];
}

/** The index that a stage starts with, on every rank; rank 0 finds or makes it. */
export async function firstIndex(
  context: Context,
  stage: RefreshedStage,
  before: RetrieverSource,
  model: Model,
  corpus: Corpus,
): Promise<SearchIndex> {
  let index: SearchIndex | undefined;
  const name = await onFirst(context.ranks ?? alone, async () => {
    index = await indexOfFirst(context, stage, before, model, corpus);
    return basename(index.dir);
  });
  return index ?? openRunIndex(context, corpus, inside(context.run.index, name));
}

/**
 * The index that a stage starts with: that of the retriever of the stage `before`. A resumed stage uses the index that its
 * checkpoint was trained with, so that the result is the same as without the stop. If that index is gone, it is rebuilt
 * from the checkpoint's weights. A finished stage that gets more steps uses the index of its last weights if it has one.
 */
async function indexOfFirst(
  context: Context,
  stage: RefreshedStage,
  before: RetrieverSource,
  model: Model,
  corpus: Corpus,
): Promise<SearchIndex> {
  const { run } = context;
  const root = run.checkpoint(stage);
  const state = latestState(root);
  if (!state || state.index === null) return matchingIndex(context, before, model, corpus);
  const saved = openCheckpoint(root, 'latest');
  needSameCorpus(root, saved, corpus.sha256); // before hours are spent on an index
  const dir = inside(run.index, state.index);
  const isThere = existsSync(dir) && readManifest(dir).corpusSha256 === corpus.sha256;
  if (isThere && state.step < state.steps) return openRunIndex(context, corpus, dir);
  loadWeights(saved.dir, model, retrieverShapes(model), `remove ${root} to train the stage again`);
  const newest = await findIndex(context, model, corpus);
  if (newest !== undefined || isThere) return openRunIndex(context, corpus, newest ?? dir);
  warn(`${stage}: the index of step ${state.step} is missing; rebuilding it from the checkpoint's weights`);
  return matchingIndex(context, stage, model, corpus, 'latest');
}

/** What the training loop calls to keep the index fresh, and how to end the refresher. */
export interface LiveRefresh {
  hooks: Required<Pick<LoopOptions, 'index' | 'begin' | 'between'>>;
  /** Stops the child process and removes all snapshots. */
  stop(): Promise<void>;
}

/**
 * The trainer's side of the refresh: writes snapshots, swaps indexes in, and logs the age of the current one. Of several
 * ranks, rank 0 does so; the others swap in what it has, before the same step.
 */
export function liveRefresh(
  context: Context,
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  refreshed: Refreshed,
): LiveRefresh {
  const { ranks = alone } = context;
  const following = async <T>(work: () => Promise<T>): Promise<T> => {
    const before = index.dir;
    const result = await work();
    const name = await onFirst(ranks, () => basename(index.dir));
    const dir = join(context.run.index, name);
    if (ranks.rank > 0 && basename(before) !== name) index.swap(dir, { hash: false });
    if (index.dir === before) return result;
    await meet(ranks); // no rank uses the index before any more
    if (ranks.rank === 0) forgetIndexes(context);
    return result;
  };
  if (ranks.rank > 0)
    return {
      hooks: {
        index: () => basename(index.dir),
        begin: () => following(async () => {}),
        between: () => following(async () => ({})),
      },
      async stop() {},
    };
  const live = liveIndex(context, model, corpus, index, refreshed);
  // The child of an earlier process wrote for nobody: no child of this one reads its snapshots.
  rmSync(context.run.snapshots, { recursive: true, force: true });
  return {
    hooks: {
      index: () => basename(index.dir),
      begin: (done, stop) => following(() => beforeFirstStep(live, done, stop)),
      between: (step, seconds, stop) => following(() => betweenSteps(live, step, seconds, stop)),
    },
    async stop() {
      await live.refresher?.stop();
      removeSnapshots(live, Infinity);
    },
  };
}

/** The index that a stage trains with, its refresher, and the logs of both. */
interface LiveIndex extends Refreshed {
  readonly context: Context;
  readonly model: Model;
  readonly corpus: Corpus;
  readonly index: SearchIndex;
  readonly due: (step: number) => boolean;
  readonly log: JsonLines;
  readonly probeLog: JsonLines;
  readonly events: JsonLines;
  /** Durations of the steps taken while the refresher worked, and of the others, since the last swap. */
  readonly stepTimes: { during: StepTimes; outside: StepTimes };
  /** Step of this stage whose weights made the current index; 0 if an earlier stage's did. */
  indexStep: number;
  /** When the snapshot of the current index was written, in milliseconds of `performance.now()`. */
  snapshotAt: number;
  /** Snapshots on disk: step of each, and when it was written. */
  readonly snapshots: Map<number, number>;
  /** The child process, once it has started. */
  refresher: Refresher | undefined;
  /** The index that it has published and that is not swapped in yet. */
  published: Published | undefined;
  /** Why it will not be started again. */
  givenUp: string | undefined;
}

function liveIndex(
  context: Context,
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  refreshed: Refreshed,
): LiveIndex {
  const { run } = context;
  const { stage, every } = refreshed;
  const before = stepsDone(run.checkpoint(stage)) ?? 0;
  return {
    ...refreshed,
    context,
    model,
    corpus,
    index,
    due: dueAt(every),
    log: jsonLines(run.refreshes(stage), before),
    probeLog: jsonLines(run.probes(stage), before),
    // A folder of its own: TensorBoard reads one file of a folder at a time, and the loop writes the stage's.
    events: eventFile(join(run.events(stage), 'probes'), before),
    stepTimes: { during: stepTimes(), outside: stepTimes() },
    indexStep: isQaIndex(basename(index.dir)) === (stage === 'finetune-qa') ? index.manifest.step : 0,
    snapshotAt: performance.now(),
    snapshots: new Map(),
    refresher: undefined,
    published: undefined,
    givenUp: undefined,
  };
}

// ---------------------------------------------------------------------------------------------- hooks

/** Requests the last refresh that was due before the checkpoint, if its index was never swapped in. */
async function beforeFirstStep(live: LiveIndex, done: number, stop: AbortSignal): Promise<void> {
  if (done === 0)
    await logProbes(live, done, live.index.search(await live.probes.vectors(), BLOCKS_PER_PROBE));
  if (live.context.config.refresh.mode === 'off') return;
  let last = done;
  while (last > 0 && !live.due(last)) last--;
  if (last > live.indexStep && done < live.steps) await refresh(live, done, stop);
  else live.refresher ??= startChild(live);
}

/** Swaps in what the refresher has published, and requests a refresh where one is due. */
async function betweenSteps(
  live: LiveIndex,
  step: number,
  seconds: number,
  stop: AbortSignal,
): Promise<Record<string, number>> {
  const { mode, onFailure } = live.context.config.refresh;
  const done = step + 1;
  const refreshing = live.refresher?.busy ?? false;
  (refreshing ? live.stepTimes.during : live.stepTimes.outside).add(seconds);
  if (live.givenUp !== undefined && onFailure === 'stop') {
    throw new UserError(
      `refresher: ${live.givenUp}; set refresh.onFailure=continue to train without refreshes`,
    );
  }
  // Of the index that the step was taken with: a signal that ends the wait for the next one does not change them.
  const metrics = {
    indexAgeSteps: step - live.indexStep,
    indexAgeSeconds: (performance.now() - live.snapshotAt) / 1000,
    refreshing: refreshing ? 1 : 0,
  };
  await swapIn(live, done);
  if (mode !== 'off' && live.due(done)) await refresh(live, done, stop);
  return metrics;
}

// ---------------------------------------------------------------------------------------------- refresh

/** Requests a new index; with `refresh.mode` sync it also waits for it and swaps it in. */
async function refresh(live: LiveIndex, done: number, stop: AbortSignal): Promise<void> {
  const { mode, onLate } = live.context.config.refresh;
  if (onLate === 'wait' && live.refresher?.busy) {
    await untilIdle(live, stop);
    await swapIn(live, done);
  }
  await request(live, done);
  if (mode !== 'sync') return;
  await untilIdle(live, stop);
  if (!live.published && !stop.aborted) {
    throw new UserError(
      "no new index was built, and refresh.mode sync cannot continue without one: see the refresher's message above",
    );
  }
  await swapIn(live, done);
}

/** Writes a snapshot of the document tower and passes it to the child. */
async function request(live: LiveIndex, done: number): Promise<void> {
  const { context, model, corpus, stage } = live;
  live.refresher ??= startChild(live);
  const snapshot = join(context.run.snapshots, indexName(done, stage));
  await writeSnapshot(snapshot, model, {
    step: done,
    configSha256: configSha256(context.config),
    corpusSha256: corpus.sha256,
  });
  live.snapshots.set(done, performance.now());
  const dropped = live.refresher.request({ snapshot, step: done });
  if (dropped) removeSnapshot(live, dropped.step);
}

async function untilIdle({ refresher }: LiveIndex, stop: AbortSignal): Promise<void> {
  while (refresher?.busy && !stop.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Swaps in the index that the child has published, if there is one, and logs how it differs from the one before. */
async function swapIn(live: LiveIndex, done: number): Promise<void> {
  if (!live.published) return;
  const { context, index, probes } = live;
  const { name, step, seconds, rows } = live.published;
  live.published = undefined;
  const queries = await probes.vectors();
  const old = index.search(queries, BLOCKS_PER_PROBE);
  try {
    index.swap(join(context.run.index, name), { hash: false });
  } catch (error) {
    if (!(error instanceof UserError) || context.config.refresh.mode === 'sync') throw error;
    warn(`refresher: ${error.message}; training continues with the current index`);
    return;
  }
  live.indexStep = step;
  live.snapshotAt = live.snapshots.get(step) ?? live.snapshotAt;
  removeSnapshots(live, step);
  const found = index.search(queries, BLOCKS_PER_PROBE);
  const { during, outside } = live.stepTimes;
  live.log.write({
    name,
    step,
    seconds,
    rows,
    inUseAt: done,
    [`overlap${BLOCKS_PER_PROBE}`]: overlapAt(old, found, BLOCKS_PER_PROBE),
    stepSeconds: { during: during.take(), outside: outside.take() },
  });
  await logProbes(live, done, found);
}

/** Logs what the current index finds. @param found for the probes */
async function logProbes(live: LiveIndex, done: number, found: Found): Promise<void> {
  const { context, model, corpus, index, dev, probes } = live;
  const recall = await probeRecall(model, corpus, index, dev, context.config);
  live.probeLog.write({
    step: live.indexStep,
    inUseAt: done,
    questions: dev.length,
    recall,
    probes: probeRecords(corpus, probes, found),
  });
  if (!recall) return;
  const scalars = Object.entries(recall).map(([k, share]) => [`recall@${k}`, share]);
  live.events.write({ step: done, ...Object.fromEntries(scalars) });
}

function startChild(live: LiveIndex): Refresher {
  const { context, index } = live;
  const { run, config, engine } = context;
  const { nice, threads, maxFailures } = config.refresh;
  return startRefresher(run.dir, {
    engine: config.refresh.engine ?? engine,
    nice,
    threads,
    maxFailures,
    queue: context.queue ?? config.refresh.queue,
    rows: index.manifest.rows,
    dimensions: index.manifest.dimensions,
    onPublished: (published) => {
      live.published = published;
    },
    onNote: say,
    onFailure: (message) => warn(`refresher: ${message}; training continues with the current index`),
    onGivenUp: (message) => {
      live.givenUp = message;
    },
  });
}

/** Each snapshot is as large as the tower. Those up to the step of the current index are not needed any more. */
function removeSnapshots(live: LiveIndex, upToStep: number): void {
  for (const step of [...live.snapshots.keys()]) if (step <= upToStep) removeSnapshot(live, step);
}

function removeSnapshot({ context, stage, snapshots }: LiveIndex, step: number): void {
  rmSync(join(context.run.snapshots, indexName(step, stage)), { recursive: true, force: true });
  snapshots.delete(step);
}

type StepTimes = ReturnType<typeof stepTimes>;

/** Collects the seconds of steps; `take` gives their number and percentiles and starts over. */
function stepTimes() {
  let seconds: number[] = [];
  return {
    add: (s: number) => seconds.push(s),
    take() {
      const sorted = seconds.sort((a, b) => a - b);
      seconds = [];
      const at = (share: number) =>
        sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? null;
      return { steps: sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99) };
    },
  };
}

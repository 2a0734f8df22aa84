import { existsSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Corpus } from '../corpus/store/reader.ts';
import { BLOCKS_PER_PROBE, type Probes, probeRecall, probeRecords } from '../eval/probes.ts';
import { type Model, retrieverShapes } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { type Published, type Refresher, startRefresher } from '../refresher/client.ts';
import { configSha256, writeSnapshot } from '../refresher/snapshot.ts';
import { indexName, isQaIndex } from '../retrieval/ensure-index.ts';
import type { Found } from '../retrieval/graph.ts';
import { overlapAt } from '../retrieval/overlap.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { jsonLines, type RefreshedStage, type RetrieverStage } from '../run/folder.ts';
import { dueAt, type Schedule } from '../schedule.ts';
import { UserError } from '../system/errors.ts';
import { inside } from '../system/files.ts';
import { warn } from '../system/progress.ts';
import { latestState, openCheckpoint, stepsDone } from '../train/checkpoints.ts';
import { eventFile } from '../train/tensorboard.ts';
import { loadWeights } from '../weights/checkpoint.ts';
import { forgetIndexes, matchingIndex, openRunIndex } from './build-index.ts';
import type { Context } from './context.ts';

/** A stage that trains the document tower, so that its index must follow. */
export interface Refreshed {
  stage: RefreshedStage;
  /** Length of the whole schedule. */
  steps: number;
  /** When a new index is asked for. */
  every: Schedule;
  /** Asked of the old and the new index. */
  probes: Probes;
  /** Questions by which the recall of every index is told. */
  dev: readonly EncodedQuestion[];
}

/**
 * The index that a stage begins with: that of the retriever of the stage `before`. A resumed one goes on with the index
 * that its checkpoint was trained with, so that nothing differs from a run that was never stopped; where that one is gone,
 * it is made again from the checkpoint's weights.
 */
export async function firstIndex(
  context: Context,
  stage: RefreshedStage,
  before: RetrieverStage,
  model: Model,
  corpus: Corpus,
): Promise<SearchIndex> {
  const { run } = context;
  const root = run.checkpoint(stage);
  const state = latestState(root);
  if (!state || state.index === null) return matchingIndex(context, before, model, corpus);
  const dir = inside(run.index, state.index);
  if (existsSync(dir)) return openRunIndex(context, corpus, dir);
  warn(`${stage}: the index of step ${state.step} is gone and made again from the checkpoint's weights`);
  loadWeights(
    openCheckpoint(root, 'latest').dir,
    model,
    retrieverShapes(model),
    `remove ${root} to train the stage again`,
  );
  return matchingIndex(context, stage, model, corpus, 'latest');
}

/** The trainer's side of the refresh: hands out snapshots, takes up indexes, and tells how old the one in use is. */
export function liveRefresh(
  context: Context,
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  { stage, steps, every, probes, dev }: Refreshed,
) {
  const { run, config, engine } = context;
  const { mode, onLate, onFailure, maxFailures, nice, threads } = config.refresh;
  const due = dueAt(every);
  const before = stepsDone(run.checkpoint(stage)) ?? 0;
  const log = jsonLines(run.refreshes(stage), before);
  const probeLog = jsonLines(run.probes(stage), before);
  // A folder of its own: TensorBoard reads one file of a folder at a time, and the loop writes the stage's.
  const events = eventFile(join(run.events(stage), 'probes'), before);
  const asked = new Map<number, number>(); // when the snapshot of each step was written
  const times = { during: stepTimes(), outside: stepTimes() };
  /** Step of this stage whose weights made the index in use; 0 where an earlier stage's did. */
  let indexStep = isQaIndex(basename(index.dir)) === (stage === 'finetune-qa') ? index.manifest.step : 0;
  let published: Published | undefined;
  let givenUp: string | undefined;
  let snapshotAt = performance.now();
  let child: Refresher | undefined;
  // What an earlier process handed out, no child of this one will read.
  rmSync(run.snapshots, { recursive: true, force: true });
  // Each is as large as the tower: those up to the one that made the index in use are of no use any more.
  const forgetSnapshot = (step: number) => {
    rmSync(join(run.snapshots, indexName(step, stage)), { recursive: true, force: true });
    asked.delete(step);
  };
  const forgetSnapshots = (step: number) => {
    for (const older of [...asked.keys()]) if (older <= step) forgetSnapshot(older);
  };
  const start = () =>
    startRefresher(run.dir, {
      engine: config.refresh.engine ?? engine,
      nice,
      threads,
      maxFailures,
      rows: index.manifest.rows,
      dimensions: index.manifest.dimensions,
      onPublished: (p) => {
        published = p;
      },
      onFailure: (message) => warn(`refresher: ${message}; training goes on with the index at hand`),
      onGivenUp: (message) => {
        givenUp = message;
      },
    });

  const request = async (done: number) => {
    child ??= start();
    const snapshot = join(run.snapshots, indexName(done, stage));
    await writeSnapshot(snapshot, model, {
      step: done,
      configSha256: configSha256(config),
      corpusSha256: corpus.sha256,
    });
    asked.set(done, performance.now());
    const idle = child.request({ snapshot, step: done });
    if (idle) forgetSnapshot(idle.step);
  };

  const settle = async (stop: AbortSignal) => {
    while (child?.busy && !stop.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
  };

  /** Logs what the index in use finds. @param found for the probes */
  const logProbes = async (done: number, found: Found) => {
    const recall = await probeRecall(model, corpus, index, dev, config);
    probeLog.write({
      step: indexStep,
      inUseAt: done,
      questions: dev.length,
      recall,
      probes: probeRecords(corpus, probes, found),
    });
    if (!recall) return;
    const scalars = Object.entries(recall).map(([k, share]) => [`recall@${k}`, share]);
    events.write({ step: done, ...Object.fromEntries(scalars) });
  };

  /** Takes up what the child has made, if there is anything. */
  const takeUp = async (done: number) => {
    if (!published) return;
    const { name, step, seconds, rows } = published;
    published = undefined;
    const queries = await probes.vectors();
    const old = index.search(queries, BLOCKS_PER_PROBE);
    try {
      index.swap(join(run.index, name), { hash: false });
    } catch (error) {
      if (!(error instanceof UserError) || mode === 'sync') throw error;
      warn(`refresher: ${error.message}; training goes on with the index at hand`);
      return;
    }
    indexStep = step;
    snapshotAt = asked.get(step) ?? snapshotAt;
    forgetSnapshots(step);
    const found = index.search(queries, BLOCKS_PER_PROBE);
    log.write({
      name,
      step,
      seconds,
      rows,
      inUseAt: done,
      [`overlap${BLOCKS_PER_PROBE}`]: overlapAt(old, found, BLOCKS_PER_PROBE),
      stepSeconds: { during: times.during.take(), outside: times.outside.take() },
    });
    forgetIndexes(context);
    await logProbes(done, found);
  };

  const refresh = async (done: number, stop: AbortSignal) => {
    if (onLate === 'wait' && child?.busy) {
      await settle(stop);
      await takeUp(done);
    }
    await request(done);
    if (mode !== 'sync') return;
    await settle(stop);
    if (!published && !stop.aborted) {
      throw new UserError(
        "no new index, and refresh.mode sync cannot go on without: see the refresher's message above",
      );
    }
    await takeUp(done);
  };

  /** What the training loop is to call. */
  const hooks = {
    /** Folder of the index in use. */
    index: () => basename(index.dir),
    /** A refresh that was due before the checkpoint, and whose index is not there, is asked for now. */
    async begin(done: number, stop: AbortSignal): Promise<void> {
      if (done === 0) await logProbes(done, index.search(await probes.vectors(), BLOCKS_PER_PROBE));
      if (mode === 'off') return;
      let last = done;
      while (last > 0 && !due(last)) last--;
      if (last > indexStep && done < steps) await refresh(done, stop);
      else child ??= start();
    },
    async between(step: number, seconds: number, stop: AbortSignal): Promise<Record<string, number>> {
      const done = step + 1;
      const refreshing = child?.busy ?? false;
      (refreshing ? times.during : times.outside).add(seconds);
      if (givenUp !== undefined && onFailure === 'stop') {
        throw new UserError(`refresher: ${givenUp}; refresh.onFailure continue trains on without`);
      }
      // Of the index that the step was taken with: a signal that ends the wait for the next one changes nothing in it.
      const figures = {
        indexAgeSteps: step - indexStep,
        indexAgeSeconds: (performance.now() - snapshotAt) / 1000,
        refreshing: refreshing ? 1 : 0,
      };
      await takeUp(done);
      if (mode !== 'off' && due(done)) await refresh(done, stop);
      return figures;
    },
  };
  return {
    hooks,
    async stop() {
      await child?.stop();
      forgetSnapshots(Infinity);
    },
  };
}

/** Seconds of steps, and their percentiles since the last time they were asked for. */
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

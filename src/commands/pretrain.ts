import { existsSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { inside } from '../files.ts';
import { loadWeights } from '../model/checkpoint.ts';
import { type Model, pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { say } from '../progress.ts';
import { indexName } from '../retrieval/make-index.ts';
import { overlapAt } from '../retrieval/overlap.ts';
import { type Published, type Refresher, startRefresher } from '../retrieval/refresher-client.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { configSha256, writeSnapshot } from '../retrieval/snapshot.ts';
import { jsonLines } from '../run.ts';
import { dueAt } from '../schedule.ts';
import { latestState, openCheckpoint, stepsDone } from '../train/checkpoints.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { drawMasked, pretrainStep, queryVectors } from '../train/pretrain.ts';
import { stepRandom } from '../train/sampler.ts';
import { forgetIndexes, matchingIndex, openRunIndex } from './build-index.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus, stageWeights } from './context.ts';

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds and indexes everything anew; the trainer takes the new index up between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<LoopResult> {
  const { config } = context;
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const shapes = pretrainedShapes(model);
  firstWeights(context, model, readerTowerShapes(model));
  stageWeights(context, 'ict', corpus, model, retrieverShapes(model));
  const index = await firstIndex(context, model, corpus);
  const stage = pretrainStep(model, corpus, index, config);
  const refresh = liveRefresh(context, model, corpus, index);
  try {
    return await train({
      name: 'pretrain',
      model,
      shapes,
      ...loopSettings(context, 'pretrain', corpus),
      begin: refresh.begin,
      step: stage.step,
      between: refresh.between,
      index: () => basename(index.dir),
    });
  } finally {
    await refresh.stop();
    stage.dispose();
    index.close();
    corpus.close();
  }
}

/**
 * A resumed run goes on with the index that its checkpoint was trained with, so that nothing differs from a run that
 * was never stopped. Where that one is gone, and in a new run, the index is made from the retriever's weights.
 */
async function firstIndex(context: Context, model: Model, corpus: Corpus): Promise<SearchIndex> {
  const { run } = context;
  const root = run.checkpoint('pretrain');
  const state = latestState(root);
  if (!state) return matchingIndex(context, 'ict', model, corpus);
  const dir = state.index === null ? undefined : inside(run.index, state.index);
  if (dir !== undefined && existsSync(dir)) return openRunIndex(context, corpus, dir);
  say(`pretrain: the index of step ${state.step} is gone and made again from the checkpoint's weights`);
  loadWeights(
    openCheckpoint(root, 'latest').dir,
    model,
    retrieverShapes(model),
    `remove ${root} to train the stage again`,
  );
  return matchingIndex(context, 'pretrain', model, corpus);
}

/** Queries asked of the old and the new index, and how many of the best blocks are compared. */
const PROBES = 64;
const PROBED = 10;

/** The trainer's side of the refresh: hands out snapshots, takes up indexes, and tells how old the one in use is. */
function liveRefresh(context: Context, model: Model, corpus: Corpus, index: SearchIndex) {
  const { run, config, engine } = context;
  const { mode, onLate, onFailure, maxFailures, niceness, threads } = config.refresh;
  const due = dueAt(config.refresh.every);
  const log = jsonLines(run.refreshes, stepsDone(run.checkpoint('pretrain')) ?? 0);
  const asked = new Map<number, number>(); // when the snapshot of each step was written
  const times = { during: stepTimes(), outside: stepTimes() };
  let published: Published | undefined;
  let givenUp: string | undefined;
  let snapshotAt = performance.now();
  let child: Refresher | undefined;
  // What an earlier process handed out, no child of this one will read.
  rmSync(run.snapshots, { recursive: true, force: true });
  // Each is as large as the tower: those up to the one that made the index in use are of no use any more.
  const forgetSnapshot = (step: number) => {
    rmSync(join(run.snapshots, indexName(step)), { recursive: true, force: true });
    asked.delete(step);
  };
  const forgetSnapshots = (step: number) => {
    for (const older of [...asked.keys()]) if (older <= step) forgetSnapshot(older);
  };
  const start = () =>
    startRefresher(run.dir, {
      engine: config.refresh.engine ?? engine,
      niceness,
      threads,
      maxFailures,
      rows: index.manifest.rows,
      dimensions: index.manifest.dimensions,
      onPublished: (p) => {
        published = p;
      },
      onFailure: (message) => say(`refresher: ${message}; training goes on with the index at hand`),
      onGivenUp: (message) => {
        givenUp = message;
      },
    });

  const request = async (done: number) => {
    child ??= start();
    const snapshot = join(run.snapshots, indexName(done));
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

  /** Takes up what the child has made, if there is anything. */
  const takeUp = async (done: number) => {
    if (!published) return;
    const { name, step, seconds, rows } = published;
    published = undefined;
    const probes = await probeVectors(model, corpus, config);
    const before = index.search(probes, PROBED);
    try {
      index.swap(join(run.index, name), { hash: false });
    } catch (error) {
      if (!(error instanceof UserError) || mode === 'sync') throw error;
      say(`refresher: ${error.message}; training goes on with the index at hand`);
      return;
    }
    snapshotAt = asked.get(step) ?? snapshotAt;
    forgetSnapshots(step);
    log.write({
      name,
      step,
      seconds,
      rows,
      inUseAt: done,
      [`overlap${PROBED}`]: overlapAt(before, index.search(probes, PROBED), PROBED),
      stepSeconds: { during: times.during.take(), outside: times.outside.take() },
    });
    forgetIndexes(context);
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

  return {
    async stop() {
      await child?.stop();
      forgetSnapshots(Infinity);
    },
    /** A refresh that was due before the checkpoint, and whose index is not there, is asked for now. */
    async begin(done: number, stop: AbortSignal): Promise<void> {
      if (mode === 'off') return;
      let last = done;
      while (last > 0 && !due(last)) last--;
      if (last > index.manifest.step && done < config.pretrain.steps) await refresh(done, stop);
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
        indexAgeSteps: step - index.manifest.step,
        indexAgeSeconds: (performance.now() - snapshotAt) / 1000,
        refreshing: refreshing ? 1 : 0,
      };
      await takeUp(done);
      if (mode !== 'off' && due(done)) await refresh(done, stop);
      return figures;
    },
  };
}

/** Vectors of the same `PROBES` masked sentences every time, by the weights of now. */
async function probeVectors(model: Model, corpus: Corpus, config: Config): Promise<Float32Array> {
  const n = Math.min(PROBES, corpus.sentences.count);
  const examples = drawMasked(corpus, config, 0, n, stepRandom(config.seed, -4));
  return queryVectors(model, corpus, examples, config);
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

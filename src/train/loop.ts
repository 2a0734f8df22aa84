import * as tf from '@tensorflow/tfjs';
import { AbandonedElsewhere, alone, meet, onFirst, type Ranks } from '../engine/ranks.ts';
import type { Shape } from '../model/bert.ts';
import type { Model } from '../model/model.ts';
import { jsonLines } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { progress, say, warn } from '../system/progress.ts';
import { isQuiet } from '../system/quiet.ts';
import { Abandoned, leave, onStop, orAbandon, pause } from '../system/stop.ts';
import { loadWeights } from '../weights/checkpoint.ts';
import { readSafetensors } from '../weights/safetensors.ts';
import { hasCheckpoint, openCheckpoint, type State, saveCheckpoint } from './checkpoints.ts';
import { needEqual, startEqual } from './equal-weights.ts';
import { createOptimizer, learningRate, type OptimizerConfig } from './optimizer.ts';
import { changes, isFinished, needResumable, needSameCorpus } from './resume.ts';
import { type StepResult, sumGradients, sumMetrics } from './step.ts';
import { eventFile } from './tensorboard.ts';

export interface LoopOptions {
  /** Shown with the progress. */
  name: string;
  model: Model;
  /** Parameters of the stage: all are saved; those with a gradient are trained. */
  shapes: readonly Shape[];
  steps: number;
  /** Examples in a step: the progress bar shows examples per second. */
  batch?: number;
  optimizer: OptimizerConfig;
  /** What the learning rate of each parameter is multiplied by; 1 if undefined. */
  rateFactor?(name: string): number;
  /** Folder of the stage's checkpoints. */
  checkpoint: string;
  metrics: string;
  /** Folder of the event files, which give TensorBoard the same metrics as `metrics`. */
  events: string;
  logEvery: number;
  saveEvery: number;
  /** Number of checkpoints kept. */
  keep: number;
  /** Training stops after this many skipped steps since the last checkpoint. */
  maxSkipped: number;
  /** What the weights and the data order belong to. */
  origin: Origin;
  /** The processes that train together; undefined: this one alone. Each calls `train` with the same settings. */
  ranks?: Ranks;
  /** Called once before the first step, with the steps done. */
  begin?(done: number, stop: AbortSignal): Promise<void>;
  /** Computes the gradients of step `step`, counted from 0. */
  step(step: number): StepResult | Promise<StepResult>;
  /** Called with the metrics of each batch. */
  watch?(step: number, metrics: Record<string, number>): void;
  /** Called after each update, for work between two steps; may return metrics to log with the step's. */
  between?(step: number, seconds: number, stop: AbortSignal): Promise<Record<string, number>>;
  /** Folder of the index in use, for the checkpoint. */
  index?(): string;
  /** Measures the model on data that it is not trained on; only rank 0 does. */
  evaluation?: Evaluation;
}

/** What a stage measures before its first step, at each checkpoint, and after its last step. */
export interface Evaluation {
  /** Fingerprint of the data: metrics measured on other data are not compared. */
  sha256: string;
  /**
   * Metrics after `step` steps, and a score of the checkpoint (larger is better). Where there is no score, the best
   * checkpoint has the lowest mean loss.
   * @param start the metrics before the first step, if they were measured on the same data
   */
  measure(
    step: number,
    when: 'start' | 'checkpoint' | 'end',
    start?: Metrics,
  ): Promise<{ metrics: Metrics; score?: number }>;
}

type Metrics = Record<string, number>;

/** What a checkpoint was trained on and with. */
export type Origin = Pick<State, 'vocabularySha256' | 'corpusSha256' | 'settings' | 'retriever'>;

/** What a training stage returns. */
export interface LoopResult {
  /** Metrics at the last step, averaged over the last `logEvery` steps. */
  metrics: Record<string, number>;
  /** Seconds spent in this process. */
  seconds: number;
  /** Steps of the stage that are done, in this process and earlier ones. */
  step: number;
  /** True when a signal ended the loop before its last step; the same command resumes from there. */
  stopped: boolean;
  /** What `LoopOptions.evaluation` measured before the first step, and after the last one if that is done. */
  evaluated?: { start?: Metrics; end?: Metrics };
}

/** A loss is too large, and its step is skipped, above `EXPLOSION_FACTOR` times the largest loss of the first steps. */
const FIRST_STEPS = 20;
const EXPLOSION_FACTOR = 10;

/**
 * The one training loop: step, update, log, save. It resumes from a checkpoint in the folder. After a signal it ends the
 * step, or discards it if it takes long, then saves and returns; a second signal exits at once. A step with a loss or
 * gradients that are not finite, or with an exploding loss, changes nothing and is counted as skipped; the weights before
 * the first such step are kept, and too many of them stop the training. Several ranks decide all this together; rank 0
 * alone reads and writes checkpoints and logs, and gives its weights to the others at the start.
 * When it returns, `model` has the weights of the last step.
 */
export async function train(options: LoopOptions): Promise<LoopResult> {
  const stop = stopAfterStep(options.name);
  try {
    return await run(options, stop);
  } finally {
    stop.forget();
  }
}

async function run(options: LoopOptions, stop: Stop): Promise<LoopResult> {
  const { name, steps, saveEvery, logEvery, ranks = alone } = options;
  const writes = ranks.rank === 0;
  const started = performance.now();
  const optimizer = createOptimizer(
    options.model.params,
    options.shapes.map((s) => s.name),
    options.optimizer,
    steps,
    options.rateFactor,
  );
  const before = await onFirst(ranks, () => resume(options, optimizer));
  await startEqual(ranks, options.model, optimizer, before !== undefined && before.step > 0);
  const first = before?.step ?? 0;
  stop.saved = first;
  const logs = writes ? [jsonLines(options.metrics, first), eventFile(options.events, first)] : [];
  const log = {
    write(record: object) {
      for (const each of logs) each.write(record);
    },
  };
  const bar = progress(name, steps, {
    from: first,
    unit: options.batch ? 'examples' : 'steps',
    each: options.batch,
  });
  let averages = new Averages(before?.averages);
  const sinceSave = new Averages(before?.sinceSave);
  let metrics: Record<string, number> = {};
  let done = first;
  let firstLoss = before?.firstLoss ?? 0;
  let skipped = before?.skipped ?? 0;
  let skippedSince = 0; // the last checkpoint
  const evaluation = writes ? options.evaluation : undefined;
  const sameData = evaluation !== undefined && before?.evaluated?.sha256 === evaluation.sha256;
  let start = sameData ? before.evaluated?.start : undefined;
  let end: Metrics | undefined;

  const save = async (at: number, how?: 'stopped' | 'before-skipping') => {
    await needEqual(ranks, options.model, options.shapes, `${name}: after step ${at}`);
    if (writes) await write(at, how);
    stop.saved = at;
  };
  const write = async (at: number, how?: 'stopped' | 'before-skipping') => {
    const found = how ? undefined : await evaluation?.measure(at, at === steps ? 'end' : 'checkpoint', start);
    const score = how ? null : (found?.score ?? -(sinceSave.means().loss ?? Number.MAX_VALUE));
    if (!how) sinceSave.clear();
    if (found && Object.keys(found.metrics).length > 0) log.write({ step: at, ...found.metrics });
    if (at === steps) end = found?.metrics;
    const state = {
      step: at,
      steps,
      ...options.origin,
      index: options.index?.() ?? null,
      score,
      averages: averages.state(),
      sinceSave: sinceSave.state(),
      firstLoss,
      skipped,
      ...(evaluation && { evaluated: { sha256: evaluation.sha256, start, end } }),
    };
    const pointer = how === 'before-skipping' ? how : undefined;
    const { model, shapes, keep } = options;
    const contents = { model, shapes, moments: optimizer.state(), state };
    await saveCheckpoint(options.checkpoint, contents, keep, pointer);
  };

  try {
    await options.begin?.(done, stop.signal);
    if (evaluation && first === 0) {
      start ??= await unlessStopped(stop.signal, async () => (await evaluation.measure(0, 'start')).metrics);
      if (start) log.write({ step: 0, ...start });
    }
    for (let step = first; step < steps; step++) {
      if (await ranks.any(stop.signal.aborted)) break;
      const start = performance.now();
      const result = await together(ranks, stop.signal, () => options.step(step));
      if (result === undefined) break;
      const batch = await sumMetrics(ranks, result);
      const { loss } = batch;
      options.watch?.(step, batch);
      const exploded = step >= FIRST_STEPS && loss > EXPLOSION_FACTOR * firstLoss;
      let gradientNorm = Number.NaN;
      if (Number.isFinite(loss) && !exploded)
        gradientNorm = await optimizer.apply(await sumGradients(ranks, result.gradients), step);
      else tf.dispose(result.gradients);
      const stepSeconds = (performance.now() - start) / 1000;
      if (Number.isFinite(gradientNorm)) {
        if (step < FIRST_STEPS) firstLoss = Math.max(firstLoss, loss);
        averages.add({ ...batch, gradientNorm, stepSeconds });
        sinceSave.add({ loss });
      } else {
        if (skippedSince === 0) await save(step, 'before-skipping');
        skipped++;
        skippedSince++;
        const why = `has a loss of ${Number(loss.toPrecision(3))}${
          exploded
            ? `, over ${EXPLOSION_FACTOR} times that of the first steps`
            : ' and gradients that are not finite'
        }`;
        warn(`${name}: step ${step + 1} ${why}; it is skipped (${skippedSince} since the last checkpoint)`);
        if (skippedSince >= options.maxSkipped) throw diverged(options, step + 1 - skippedSince, why);
      }
      done = step + 1;
      const between = await options.between?.(step, stepSeconds, stop.signal);
      if (between) averages.add(between);
      if (done % logEvery === 0 || done === steps) {
        metrics = averages.means();
        averages = new Averages();
        log.write({
          step: done,
          ...metrics,
          learningRate: learningRate(options.optimizer, step, steps),
          ...(skipped > 0 ? { skipped } : {}),
          seconds: elapsed(started),
        });
      }
      bar.at(done, remark(metrics));
      if (done % saveEvery === 0 && done < steps) {
        await save(done);
        skippedSince = 0;
      }
      await pause(); // on the CPU a step never waits for anything
    }
    if (done === steps && (done > first || !before)) await save(done);
    else if (done > first && done % saveEvery !== 0) await save(done, 'stopped');
  } finally {
    bar.end();
    optimizer.dispose();
  }
  return {
    metrics,
    seconds: elapsed(started),
    step: done,
    stopped: done < steps,
    ...(evaluation && { evaluated: { start, end } }),
  };
}

/** The result of this rank's part of a step; undefined on every rank if a signal interrupted it on one. */
async function together(
  ranks: Ranks,
  stop: AbortSignal,
  step: () => StepResult | Promise<StepResult>,
): Promise<StepResult | undefined> {
  try {
    const result = await orAbandon(stop, step);
    await meet(ranks);
    return result;
  } catch (error) {
    if (!(error instanceof Abandoned)) throw error;
    if (!(error instanceof AbandonedElsewhere)) await ranks.abandon();
    return undefined;
  }
}

/** The result of work that changes nothing until it is done; undefined if a signal interrupted it. */
async function unlessStopped<T>(stop: AbortSignal, work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await orAbandon(stop, work);
  } catch (error) {
    if (error instanceof Abandoned) return undefined;
    throw error;
  }
}

function diverged({ name, checkpoint, maxSkipped }: LoopOptions, step: number, why: string): UserError {
  return new UserError(
    `${name}: ${maxSkipped} steps since the last checkpoint were skipped, the last one ${why.replace('has', 'with')}: training has ` +
      `diverged; go back with --resume best, or to another checkpoint in ${checkpoint}, and a lower learning rate ` +
      `(before-skipping there names the weights before step ${step + 1}; train.maxSkipped sets how many steps may be skipped)`,
  );
}

/** Loads the latest checkpoint if there is one: weights, moments, and everything else needed to resume. */
function resume(options: LoopOptions, optimizer: ReturnType<typeof createOptimizer>): State | undefined {
  const { name, checkpoint, model, shapes, steps, origin } = options;
  if (!hasCheckpoint(checkpoint)) return undefined;
  const saved = openCheckpoint(checkpoint, 'latest');
  const { dir, state, optimizer: moments } = saved;
  const remedy = `remove ${checkpoint} to train the stage again`;
  needResumable(checkpoint, state, steps, origin.settings);
  if (state.vocabularySha256 !== origin.vocabularySha256) {
    throw new UserError(`${dir}: was trained with another vocabulary than the corpus has now; ${remedy}`);
  }
  needSameCorpus(checkpoint, saved, origin.corpusSha256);
  loadWeights(dir, model, shapes, remedy);
  if (isFinished(state, steps)) return state;
  for (const change of changes(state.settings, origin.settings)) say(`${name}: continues with ${change}`);
  if (state.corpusSha256 !== origin.corpusSha256)
    say(`${name}: continues with the corpus of now, which is not that of its first steps`);
  if (state.step === 0) {
    say(`${name}: starts with the weights in ${dir}`);
    return state; // at step 0 the moments are all zero, and imported weights have none
  }
  if (steps !== state.steps) {
    const rate = learningRate(options.optimizer, state.step, steps).toPrecision(3);
    const change =
      steps > state.steps
        ? `extends from step ${state.step} of ${state.steps} to ${steps}`
        : `resumes from step ${state.step}, with ${steps} steps instead of ${state.steps}`;
    say(
      `${name}: ${change}; from now on the learning rate follows the schedule of ${steps} steps, ${rate} at first`,
    );
  } else say(`${name}: resumes from step ${state.step} of ${steps}`);
  const file = readSafetensors(moments);
  try {
    optimizer.restore(new Map([...file.tensors].map(([name, tensor]) => [name, tensor.read()])));
  } finally {
    file.close();
  }
  return state;
}

interface Stop {
  signal: AbortSignal;
  /** Steps in the last checkpoint; undefined while this is unknown. */
  saved?: number;
  forget(): void;
}

/**
 * The first signal asks the loop to stop: a step that ends within a second or so counts, a longer one is discarded.
 * The second exits at once.
 */
function stopAfterStep(name: string): Stop {
  const ask = new AbortController();
  const stop: Stop = {
    signal: ask.signal,
    forget: onStop(() => {
      if (ask.signal.aborted)
        leave(stop.saved === undefined ? undefined : `the same command ${resumes(stop.saved)}`);
      if (!isQuiet())
        process.stderr.write(`\n${name}: stopping after this step; press again to exit at once\n`);
      ask.abort();
    }),
  };
  return stop;
}

/** What the next command does with a stage that has done so many steps. */
export function resumes(step: number): string {
  return step > 0 ? `resumes from step ${step}` : 'starts the stage again';
}

/** Means of metrics over steps; values that are not finite are left out. */
class Averages {
  #sums: Map<string, { sum: number; n: number }>;
  /** @param state what `state` of another instance returned */
  constructor(state: State['averages'] = {}) {
    this.#sums = new Map(Object.entries(state).map(([name, [sum, n]]) => [name, { sum, n }]));
  }
  state(): State['averages'] {
    return Object.fromEntries([...this.#sums].map(([name, { sum, n }]) => [name, [sum, n]]));
  }
  clear(): void {
    this.#sums.clear();
  }
  add(metrics: Record<string, number>): void {
    for (const [name, value] of Object.entries(metrics)) {
      if (!Number.isFinite(value)) continue;
      const held = this.#sums.get(name) ?? { sum: 0, n: 0 };
      this.#sums.set(name, { sum: held.sum + value, n: held.n + 1 });
    }
  }
  means(): Record<string, number> {
    return Object.fromEntries([...this.#sums].map(([name, { sum, n }]) => [name, sum / n]));
  }
}

function remark(metrics: Record<string, number>): string {
  return Object.entries(metrics)
    .filter(([name]) => SHOWN[name])
    .map(([name, value]) => `${SHOWN[name]} ${value.toFixed(2)}`)
    .join(' ');
}

/** Metrics shown next to the progress bar, with their labels. */
const SHOWN: Record<string, string> = {
  loss: 'loss',
  accuracy: 'acc',
  retrievalUtility: 'RU',
  nullProbability: 'null',
  exactMatch: 'EM',
};

function elapsed(since: number): number {
  return Math.round(performance.now() - since) / 1000;
}

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { UserError } from '../errors.ts';
import { readJson, recoverFolders, writeFileAtomic, writeFolderAtomic } from '../files.ts';
import type { Shape } from '../model/bert.ts';
import { loadWeights, saveWeights } from '../model/checkpoint.ts';
import type { Model } from '../model/model.ts';
import { readSafetensors, writeSafetensors } from '../model/safetensors.ts';
import { progress, say } from '../progress.ts';
import { jsonLines } from '../run.ts';
import { createOptimizer, learningRate, type OptimizerConfig } from './optimizer.ts';

/** What one step found: gradients by parameter name (the loop disposes them) and figures to log; `loss` is shown. */
export interface StepResult {
  gradients: tf.NamedTensorMap;
  figures: { loss: number; [name: string]: number };
}

export interface LoopOptions {
  /** Shown with the progress. */
  name: string;
  model: Model;
  /** Parameters that the stage owns: saved, and trained when a gradient comes. */
  shapes: readonly Shape[];
  steps: number;
  optimizer: OptimizerConfig;
  /** Folder of the stage's checkpoint. */
  checkpoint: string;
  metrics: string;
  logEvery: number;
  saveEvery: number;
  /** Computes the gradients of step `step`, counted from 0. */
  step(step: number): StepResult | Promise<StepResult>;
  /** Called after each update, for work between two steps; may return figures to log with the step's. */
  between?(step: number): Promise<Record<string, number>>;
}

export interface LoopResult {
  /** Figures of the last step, averaged over the last `logEvery` steps. */
  figures: Record<string, number>;
  /** Seconds spent in this process. */
  seconds: number;
  /** True when a signal ended the loop before its last step; the same command goes on from there. */
  stopped: boolean;
}

/** The steps whose training state a checkpoint holds. */
interface State {
  format: 1;
  step: number;
  steps: number;
}

const STATE = 'state.json';
const OPTIMIZER = 'optimizer.safetensors';

/**
 * The one training loop: step, update, log, save. A checkpoint in the folder is resumed; SIGINT and SIGTERM finish the
 * step, save and return. The weights in `model` are those of the last step when it returns.
 */
export async function train(options: LoopOptions): Promise<LoopResult> {
  const { model, shapes, steps, checkpoint } = options;
  const started = performance.now();
  const optimizer = createOptimizer(
    model.params,
    shapes.map((s) => s.name),
    options.optimizer,
    steps,
  );
  const first = resume(options, optimizer);
  const log = jsonLines(options.metrics, first);
  const bar = progress(options.name, steps, first);
  const stop = stopOnSignal();
  let averages = new Averages();
  let figures: Record<string, number> = {};
  let done = first;
  try {
    for (let step = first; step < steps && !stop.asked(); step++) {
      const began = performance.now();
      const result = await options.step(step);
      const gradientNorm = await optimizer.apply(result.gradients, step);
      if (!Number.isFinite(gradientNorm))
        say(`${options.name}: step ${step + 1} has gradients that are not finite; it changes nothing`);
      done = step + 1;
      averages.add({ ...result.figures, gradientNorm, stepSeconds: (performance.now() - began) / 1000 });
      const between = await options.between?.(step);
      if (between) averages.add(between);
      if (done % options.logEvery === 0 || done === steps) {
        figures = averages.means();
        averages = new Averages();
        log.write({
          step: done,
          ...figures,
          learningRate: learningRate(options.optimizer, step, steps),
          seconds: elapsed(started),
        });
      }
      bar.at(done, remark(figures));
      if (done % options.saveEvery === 0 && done < steps) await save(options, optimizer, done);
      // Lets the child's messages and signals in; on the CPU a step never waits for anything.
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (done > first || !existsSync(checkpoint)) await save(options, optimizer, done);
  } finally {
    bar.end();
    stop.forget();
    optimizer.dispose();
  }
  return { figures, seconds: elapsed(started), stopped: done < steps };
}

/** Steps that the stage's checkpoint has behind it; undefined without one. */
export function stepsDone(checkpoint: string): number | undefined {
  return hasCheckpoint(checkpoint) ? readState(checkpoint).step : undefined;
}

/** True when the stage has been begun: the same command goes on from there. Undoes first what a kill left behind beside it. */
export function hasCheckpoint(checkpoint: string): boolean {
  recoverFolders(dirname(checkpoint));
  return existsSync(join(checkpoint, STATE));
}

function readState(checkpoint: string): State {
  const path = join(checkpoint, STATE);
  const state = readJson(path, 'training state', `remove ${checkpoint} to train the stage again`) as State;
  if (state?.format !== 1 || !Number.isInteger(state.step) || !Number.isInteger(state.steps)) {
    throw new UserError(
      `${path}: not a training state of this version; remove ${checkpoint} to train the stage again`,
    );
  }
  return state;
}

/** Takes up the checkpoint when there is one: weights, moments, and the step to go on with. */
function resume(
  { checkpoint, model, shapes, steps }: LoopOptions,
  optimizer: ReturnType<typeof createOptimizer>,
): number {
  if (!hasCheckpoint(checkpoint)) return 0;
  const state = readState(checkpoint);
  const remedy = `remove ${checkpoint} to train the stage again`;
  if (state.steps !== steps && state.step < state.steps) {
    throw new UserError(
      `${checkpoint}: was trained for ${state.steps} steps in all, now ${steps} are asked for; ask for ${state.steps} or ${remedy}`,
    );
  }
  loadWeights(checkpoint, model, shapes, remedy);
  if (state.step >= steps) return steps;
  const file = readSafetensors(join(checkpoint, OPTIMIZER));
  try {
    optimizer.restore(new Map([...file.tensors].map(([name, tensor]) => [name, tensor.read()])));
  } finally {
    file.close();
  }
  return state.step;
}

async function save(
  { checkpoint, model, shapes, steps }: LoopOptions,
  optimizer: ReturnType<typeof createOptimizer>,
  step: number,
): Promise<void> {
  await writeFolderAtomic(checkpoint, async (aside) => {
    await saveWeights(aside, model.params, shapes);
    await writeSafetensors(join(aside, OPTIMIZER), optimizer.state());
    writeFileAtomic(join(aside, STATE), JSON.stringify({ format: 1, step, steps } satisfies State));
  });
}

/** The first SIGINT or SIGTERM asks the loop to stop after its step; the second leaves at once, as by default. */
function stopOnSignal(): { asked(): boolean; forget(): void } {
  let asked = false;
  const ask = () => {
    asked = true;
    process.stderr.write('\nstopping after this step; press again to leave at once\n');
    forget();
  };
  const forget = () => {
    process.off('SIGINT', ask);
    process.off('SIGTERM', ask);
  };
  process.on('SIGINT', ask);
  process.on('SIGTERM', ask);
  return { asked: () => asked, forget };
}

/** Means of figures over steps; a figure that is not finite in a step is left out of its mean. */
class Averages {
  #sums = new Map<string, { sum: number; n: number }>();
  add(figures: Record<string, number>): void {
    for (const [name, value] of Object.entries(figures)) {
      if (!Number.isFinite(value)) continue;
      const held = this.#sums.get(name) ?? { sum: 0, n: 0 };
      this.#sums.set(name, { sum: held.sum + value, n: held.n + 1 });
    }
  }
  means(): Record<string, number> {
    return Object.fromEntries([...this.#sums].map(([name, { sum, n }]) => [name, sum / n]));
  }
}

function remark(figures: Record<string, number>): string {
  return Object.entries(figures)
    .filter(([name]) => SHOWN[name])
    .map(([name, value]) => `${SHOWN[name]} ${value.toFixed(2)}`)
    .join(' ');
}

/** Figures worth a place beside the progress bar. */
const SHOWN: Record<string, string> = {
  loss: 'loss',
  accuracy: 'acc',
  retrievalUtility: 'RU',
  nullMass: 'null',
  exactMatch: 'EM',
};

function elapsed(since: number): number {
  return Math.round(performance.now() - since) / 1000;
}

/** Sums gradients over the passes of one batch (gradient accumulation); takes over both maps' tensors. */
export function addGradients(
  total: tf.NamedTensorMap | undefined,
  part: tf.NamedTensorMap,
): tf.NamedTensorMap {
  if (!total) return part;
  for (const [name, gradient] of Object.entries(part)) {
    const held = total[name];
    total[name] = held ? held.add(gradient) : gradient;
    if (held) tf.dispose([held, gradient]);
  }
  return total;
}

import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs';
import type { Model } from '../../src/model/model.ts';
import type { StepResult } from '../../src/train/step.ts';

function largest(values: ArrayLike<number>): number {
  return Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/**
 * Checks the gradients and metrics of one step against another's.
 * @param tolerance relative to the largest value of each gradient, plus a small share of the largest of all, because some
 *   gradients are only rounding noise
 */
export function assertSameStep(actual: StepResult, expected: StepResult, tolerance: number): void {
  assert.deepEqual(Object.keys(actual.gradients).sort(), Object.keys(expected.gradients).sort());
  const all = Math.max(...Object.values(expected.gradients).map((g) => largest(g.dataSync())));
  assert.ok(all > 1e-3, 'there is something to compare');
  for (const [name, gradient] of Object.entries(expected.gradients)) {
    const wanted = gradient.dataSync();
    const error = largest(actual.gradients[name].dataSync().map((value, i) => value - wanted[i]));
    const size = largest(wanted);
    assert.ok(error <= tolerance * (size + all / 5), `${name}: off by ${error} where the largest is ${size}`);
  }
  for (const [name, value] of Object.entries(expected.metrics)) {
    const error = Math.abs(actual.metrics[name] - value);
    assert.ok(
      error <= tolerance * Math.max(1, Math.abs(value)),
      `${name}: ${actual.metrics[name]}, ${value}`,
    );
  }
}

/** Checks that the slope of the loss along its gradient is the gradient's length; the weights end unchanged. */
export async function assertSlope(
  model: Model,
  gradients: tf.NamedTensorMap,
  loss: () => Promise<number>,
): Promise<void> {
  const square = Object.values(gradients).reduce(
    (sum, g) => sum + g.dataSync<'float32'>().reduce((a, b) => a + b * b, 0),
    0,
  );
  const start = new Map(Object.keys(gradients).map((name) => [name, model.params.get(name)!.clone()]));
  const at = (step: number) => {
    for (const [name, gradient] of Object.entries(gradients))
      tf.tidy(() => model.params.get(name)!.assign(start.get(name)!.add(gradient.mul(step))));
    return loss();
  };
  const step = 2e-3 / Math.sqrt(square);
  const slope = ((await at(step)) - (await at(-step))) / (2 * step);
  await at(0);
  tf.dispose([...start.values()]);
  assert.ok(Math.abs(slope / square - 1) < 0.02, `slope ${slope}, squared gradient ${square}`);
}

/** Descends the gradient of the same step repeatedly; returns the losses. */
export async function descend(
  model: Model,
  step: () => Promise<StepResult>,
  times: number,
  rate: number,
): Promise<number[]> {
  const losses: number[] = [];
  for (let i = 0; i < times; i++) {
    const { metrics: figures, gradients } = await step();
    losses.push(figures.loss);
    for (const [name, gradient] of Object.entries(gradients)) {
      const weight = model.params.get(name)!;
      tf.tidy(() => weight.assign(weight.sub(gradient.mul(rate))));
    }
    tf.dispose(gradients);
  }
  return losses;
}

// mpiexec -n 2 node --import tsx bench/ranks.ts: how long the sum of the gradients over all ranks takes beside a step of
// pretraining, on this machine. With --sizes base no step is taken: it would need 10 GB for each rank.
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { loadConfig } from '../src/config.ts';
import { joinRanks, leaveRanks, meet, threadsOf } from '../src/engine/ranks.ts';
import { startEngine } from '../src/engine.ts';
import { countParameters, describeModel, pretrainedShapes } from '../src/model/model.ts';
import { say } from '../src/system/progress.ts';
import { sumGradients } from '../src/train/step.ts';
import { makeBatches, SIZES, type Size, VOCABULARY } from './batches.ts';
import { ours } from './ours.ts';

const { values } = parseArgs({
  options: {
    sizes: { type: 'string', default: 'tiny,small,base' },
    rounds: { type: 'string', default: '5' },
  },
});
const BASE: Size = { name: 'base', layers: 12, hidden: 768, heads: 12, batch: 0 };

const { ranks, library } = await joinRanks();
const threads = await threadsOf(ranks);
await startEngine('auto', { threads });
say(`${ranks.size} ranks with ${threads} threads each, ${library ?? 'no MPI'}`);
for (const size of [...SIZES, BASE].filter(({ name }) => values.sizes.split(',').includes(name))) {
  const step = size.batch > 0 ? await stepSeconds(size) : undefined;
  const { parameters, seconds } = await sumSeconds(size);
  const share =
    step === undefined
      ? ''
      : `, ${((100 * seconds) / (step + seconds)).toFixed(1)} % of a step of ${step.toFixed(2)} s`;
  say(
    `${size.layers} x ${size.hidden}: ${(parameters / 1e6).toFixed(1)} M parameters, sum ${seconds.toFixed(3)} s${share}`,
  );
}
await leaveRanks(false);

/** The median of some rounds of `work` on what `make` makes, all ranks at once. */
async function median<T>(make: () => T, work: (made: T) => Promise<unknown>): Promise<number> {
  const times = [];
  for (let round = 0; round <= Number(values.rounds); round++) {
    const made = make();
    await meet(ranks);
    const start = performance.now();
    await work(made);
    if (round > 0) times.push((performance.now() - start) / 1000); // the first is a warm-up
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

/** One step of pretraining with the size's batch for each rank, without the sum. */
async function stepSeconds(size: Size): Promise<number> {
  const one = ours(size, makeBatches(size, 1));
  const seconds = await median(() => {}, one.steps.pretrain);
  one.dispose();
  return seconds;
}

async function sumSeconds({ layers, hidden, heads }: Size): Promise<{ parameters: number; seconds: number }> {
  const sets = Object.entries({ layers, hidden, heads, intermediate: 4 * hidden });
  const config = loadConfig(
    'configs/squad-open.yaml',
    sets.map(([key, value]) => `model.${key}=${value}`),
  );
  const shapes = pretrainedShapes(describeModel(config.model, hidden === 768 ? 30_522 : VOCABULARY));
  const ones = () => Object.fromEntries(shapes.map(({ name, shape }) => [name, tf.ones(shape).add(1)]));
  const seconds = await median(ones, async (gradients) => {
    tf.dispose(await sumGradients(ranks, gradients));
  });
  return { parameters: countParameters(shapes), seconds };
}

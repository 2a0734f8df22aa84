import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { alone, gatherValues, type Ranks } from '../../src/engine/ranks.ts';
import type { Shape } from '../../src/model/bert.ts';
import {
  disposeModel,
  type Model,
  pretrainedShapes,
  retrieverShapes,
  setParam,
} from '../../src/model/model.ts';
import { encodeQuestions } from '../../src/model/questions.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { UserError } from '../../src/system/errors.ts';
import { Abandoned, listenForSignals } from '../../src/system/stop.ts';
import { latestState } from '../../src/train/checkpoints.ts';
import { qaShapes, qaStep } from '../../src/train/finetune-qa.ts';
import { ictStep } from '../../src/train/ict.ts';
import { type LoopOptions, type LoopResult, train } from '../../src/train/loop.ts';
import { allPasses } from '../../src/train/passes.ts';
import { pretrainStep } from '../../src/train/pretrain.ts';
import { readerWarmupShapes, readerWarmupStep } from '../../src/train/reader-warmup.ts';
import type { StepResult } from '../../src/train/step.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { onRanks } from '../support/ranks.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

// Several ranks in this process. test/engine/mpi.test.ts has them as processes.

const folder = temporaryFolder('ranks');
const STEPS = 20;
/** Passes of two examples: what one process computes in four passes, two ranks have in two each, and four in one each. */
const SETTINGS = [
  'model.dropout=0.1',
  'ict.batch=8',
  'ict.microBatch=2',
  'readerWarmup.batch=8',
  'readerWarmup.microBatch=2',
  `readerWarmup.steps=${STEPS}`,
  'pretrain.batch=8',
  'pretrain.microBatch=2',
  'pretrain.candidates=4',
  'qa.batch=8',
  'qa.microBatch=2',
];
const config = tinyConfig(...SETTINGS);
/** Without dropout: the distinct blocks of a batch are seldom a multiple of what the ranks embed at once, and masks belong to a pass. */
const contrastive = tinyConfig(
  ...SETTINGS,
  'model.dropout=0',
  'qa.batch=16',
  'qa.readQuestions=8',
  'qa.refreshEvery=1000',
  'qa.contrastive=1',
  'qa.minedNegatives=1',
  'qa.distillation=0.5',
  'qa.readerBlocks=2',
);
let corpus: Corpus;
let world: World;
let index: SearchIndex;
let engine: string;
before(async () => {
  ({ name: engine } = await startTestEngine());
  ({ corpus, world } = await tinyCorpus(folder, config));
  const model = tinyModel(config, corpus.tokenizer.size);
  await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
  disposeModel(model);
  index = openIndex(currentIndex(folder)!, { efSearch: 128 });
});
after(() => {
  index?.close();
  corpus?.close();
});

interface Stage {
  step(step: number): StepResult | Promise<StepResult>;
  dispose(): void;
}

type Make = (model: Model, ranks: Ranks) => Stage & { shapes: Shape[] };

const stages: Record<string, Make> = {
  'ict-warmup': (model, ranks) => ({
    ...ictStep(model, corpus, config, ranks),
    shapes: retrieverShapes(model),
  }),
  'reader-warmup': (model, ranks) => ({
    ...readerWarmupStep(model, corpus, config, ranks),
    shapes: readerWarmupShapes(model),
  }),
  pretrain: (model, ranks) => ({
    ...pretrainStep(model, corpus, index, config, undefined, ranks),
    shapes: pretrainedShapes(model),
  }),
  'finetune-qa': (model, ranks) => ({
    ...qaStep(model, corpus, index, encodeQuestions(corpus, world.train), config, { ranks }),
    shapes: qaShapes(model),
  }),
  'finetune-qa with qa.contrastive': (model, ranks) => ({
    ...qaStep(model, corpus, index, encodeQuestions(corpus, world.train), contrastive, {
      ranks,
      words: { search: () => ({ blocks: new Int32Array(0), scores: new Float64Array(0) }) },
    }),
    shapes: qaShapes(model, true),
  }),
};

let made = 0;
function loopOptions(model: Model, shapes: Shape[], ranks: Ranks, dir: string): Omit<LoopOptions, 'step'> {
  return {
    name: 'test',
    model,
    shapes,
    ranks,
    steps: STEPS,
    optimizer: { ...config.ict.optimizer, learningRate: 1e-3, warmupSteps: 2 },
    checkpoint: join(dir, 'checkpoint'),
    metrics: join(dir, 'metrics.jsonl'),
    events: join(dir, 'events'),
    logEvery: 1,
    saveEvery: 8,
    keep: 2,
    maxSkipped: 3,
    origin: { vocabularySha256: 'v', corpusSha256: 'c', settings: {} },
  };
}

interface Trained {
  dir: string;
  results: LoopResult[];
  /** Weights of each rank. */
  weights: Float32Array[][];
  lines: Record<string, number>[];
}

/** Trains a stage on so many ranks. The seed of each rank's first weights is its own: all must start with those of rank 0. */
async function trained(
  size: number,
  make: Make,
  dir = join(folder, `run-${made++}`),
  change: (options: LoopOptions, ranks: Ranks) => Partial<LoopOptions> = () => ({}),
): Promise<Trained> {
  const work = async (ranks: Ranks) => {
    const model = tinyModel(config, corpus.tokenizer.size, 1 + ranks.rank);
    const { shapes, ...stage } = make(model, ranks);
    const options = { ...loopOptions(model, shapes, ranks, dir), step: stage.step };
    const result = await train({ ...options, ...change(options, ranks) });
    const weights = shapes.map(({ name }) => model.params.get(name)!.dataSync().slice() as Float32Array);
    stage.dispose();
    disposeModel(model);
    return { result, weights };
  };
  const all = size === 1 ? [await work(alone)] : await onRanks(size, work);
  const lines = readFileSync(join(dir, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return {
    dir,
    results: all.map(({ result }) => result),
    weights: all.map(({ weights }) => weights),
    lines: lines.map((line) => JSON.parse(line)),
  };
}

/** The largest difference between two lists of weights. */
function difference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return Math.max(
    ...a.map((values, i) => values.reduce((most, v, j) => Math.max(most, Math.abs(v - b[i][j])), 0)),
  );
}

for (const [name, make] of Object.entries(stages)) {
  test(`${name}: ranks make the ${STEPS} steps of one process with the same batch and dropout`, async () => {
    const one = await trained(1, make);
    assert.equal(one.lines.length, STEPS);
    assert.ok(Math.abs(one.lines[0].loss - one.lines.at(-1)!.loss) > 1e-3, 'it learns');
    for (const size of engine === 'tensorflow' ? [2, 4] : [2]) {
      const several = await trained(size, make);
      assert.equal(several.lines.length, STEPS, 'only one rank writes');
      for (const [i, line] of one.lines.entries()) {
        for (const [metric, value] of Object.entries(line)) {
          if (/seconds/i.test(metric)) continue;
          const error = Math.abs(several.lines[i][metric] - value);
          // Differences in the last digits grow from step to step, in the norm more than in the loss.
          const tolerance = metric === 'gradientNorm' ? 1e-3 : 1e-5;
          assert.ok(
            error <= tolerance * Math.max(1, Math.abs(value)),
            `${size} ranks, step ${i + 1}, ${metric}: ${several.lines[i][metric]}, alone ${value}`,
          );
        }
      }
      for (const weights of several.weights.slice(1)) assert.deepEqual(weights, several.weights[0]);
      assert.ok(difference(several.weights[0], one.weights[0]) < 1e-3);
    }
  });
}

// ------------------------------------------------------------------------------------------------ the loop

const SHAPES: Shape[] = [{ name: 'w', shape: [4], init: 'zeros' }];

/** A loss of half the sum of squares around targets that follow from the step; each rank has its part of them. */
const pull: Make = (model, ranks) => {
  setParam(model.params, 'w', [4], Float32Array.of(1, 2, 3, 4 + ranks.rank));
  return {
    shapes: SHAPES,
    step(step) {
      const w = model.params.get('w')!;
      const target = Float32Array.from({ length: 4 }, (_, i) => Math.sin(step * 4 + i));
      const own = allPasses(ranks, 4, 1).filter(({ rank }) => rank === ranks.rank);
      const mine = tf.tensor1d([0, 1, 2, 3].map((i) => (own.some(({ from }) => from === i) ? 1 : 0)));
      const gradient = tf.tidy(() => w.sub(tf.tensor1d(target)).mul(mine));
      mine.dispose();
      const loss = (gradient.dataSync() as Float32Array).reduce((sum, g) => sum + (g * g) / 2, 0);
      return { gradients: { w: gradient }, metrics: { loss } };
    },
    dispose() {},
  };
};

test('values of the ranks are gathered by rank', async () => {
  const values = [{ text: 'für' }, [1.1, 1e300], 'x'.repeat(1000)];
  const all = await onRanks(3, (ranks) => gatherValues(ranks, values[ranks.rank]));
  assert.deepEqual(all, [values, values, values]);
  assert.deepEqual(await gatherValues(alone, 1), [1]);
});

test('a signal that reaches one rank stops all before the same step; resumed with another number, the result is the same', async () => {
  const whole = await trained(1, pull);
  const forget = listenForSignals(); // of several loops in a process, a signal then reaches one
  const stopped = await trained(4, pull, undefined, (options) => ({
    step(step) {
      if (step === 10 && options.ranks!.rank === 2) process.emit('SIGTERM');
      return options.step(step);
    },
  }));
  forget();
  assert.deepEqual(
    stopped.results.map(({ stopped, step }) => [stopped, step]),
    Array.from({ length: 4 }, () => [true, 11]),
  );
  assert.equal(latestState(join(stopped.dir, 'checkpoint'))!.step, 11);
  for (const size of [2, 1, 4]) {
    const more = await trained(size, pull, stopped.dir);
    assert.equal(more.results[0].step, STEPS);
    assert.ok(difference(more.weights[0], whole.weights[0]) < 1e-6);
    for (const weights of more.weights) assert.deepEqual(weights, more.weights[0]);
  }
  const losses = (of: Trained) => of.lines.map(({ loss }) => loss.toPrecision(5));
  assert.deepEqual(losses(await trained(4, pull, stopped.dir)), losses(whole));
});

test('a step that one rank abandons changes nothing on any rank', async () => {
  const run = await trained(3, pull, undefined, (options, { rank }) => ({
    async step(step) {
      if (step === 5 && rank === 1) throw new Abandoned();
      return options.step(step);
    },
  }));
  assert.ok(run.results.every(({ stopped, step }) => stopped && step === 5));
  assert.equal(run.lines.length, 5);
  assert.equal(latestState(join(run.dir, 'checkpoint'))!.step, 5);
  for (const weights of run.weights) assert.deepEqual(weights, run.weights[0]);
});

test('a step that makes no sense on one rank is skipped by all', async () => {
  for (const wrong of ['loss', 'gradient']) {
    const run = await trained(2, pull, undefined, (options, { rank }) => ({
      async step(step) {
        const result = await options.step(step);
        if (step !== 4 || rank === 0) return result;
        if (wrong === 'loss') return { ...result, metrics: { loss: Number.NaN } };
        tf.dispose(result.gradients);
        return { ...result, gradients: { w: tf.tensor1d([0, Infinity, 0, 0]) } };
      },
    }));
    assert.equal(run.lines.at(-1)!.skipped, 1);
    assert.deepEqual(run.weights[1], run.weights[0]);
    assert.ok(existsSync(join(run.dir, 'checkpoint', 'before-skipping')));
  }
});

test('nothing is saved once the ranks have different weights', async () => {
  let dir = '';
  const differ = trained(2, pull, undefined, (options, { rank }) => ({
    async between(step) {
      dir = options.checkpoint;
      // One bit of one weight.
      const w = options.model.params.get('w')!;
      const values = w.dataSync().slice() as Float32Array;
      new Uint32Array(values.buffer)[2] ^= 1;
      if (step === 9 && rank === 1) setParam(options.model.params, 'w', [4], values);
      return {};
    },
  }));
  await assert.rejects(differ, (error) => {
    assert.ok(error instanceof UserError, (error as Error).stack);
    assert.match(
      error.message,
      /^test: after step 16 rank 1 of 2 has other weights than rank 0, so nothing is saved; /,
    );
    return true;
  });
  assert.equal(latestState(dir)!.step, 8);
});

test('only rank 0 measures, and a rank that fails ends the others', async () => {
  const measured: number[] = [];
  await trained(2, pull, undefined, (_, { rank }) => ({
    evaluation: {
      sha256: 'x',
      async measure(step) {
        measured.push(rank);
        return { metrics: { recall: step } };
      },
    },
  }));
  assert.deepEqual(measured, [0, 0, 0, 0]); // before the first step, at two checkpoints, and at the end
  const failing = trained(3, pull, undefined, (options, { rank }) => ({
    step(step) {
      if (step === 3 && rank === 2) throw new UserError('no more');
      return options.step(step);
    },
  }));
  await assert.rejects(failing, /^UserError: no more$/);
});

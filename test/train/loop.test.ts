import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import type { Params, Shape } from '../../src/model/bert.ts';
import { type Model, setParam } from '../../src/model/model.ts';
import { UserError } from '../../src/system/errors.ts';
import { obey } from '../../src/system/stop.ts';
import { goBackTo, hasCheckpoint, latestState, openCheckpoint } from '../../src/train/checkpoints.ts';
import { type LoopOptions, train } from '../../src/train/loop.ts';
import { stepRandom } from '../../src/train/sampler.ts';
import { addGradients } from '../../src/train/step.ts';
import { startTestEngine } from '../support/engine.ts';
import { readEvents, type Scalars } from '../support/events.ts';

before(() => startTestEngine());

const folder = mkdtempSync(join(tmpdir(), 'loop-'));
after(() => rmSync(folder, { recursive: true }));

const SHAPES: Shape[] = [
  { name: 'a.kernel', shape: [3, 2], init: 'normal' },
  { name: 'a.bias', shape: [2], init: 'zeros' },
];

function newModel(): Model {
  const params: Params = new Map();
  setParam(params, 'a.kernel', [3, 2], Float32Array.of(1, -2, 3, -4, 5, -6));
  setParam(params, 'a.bias', [2], Float32Array.of(0.5, -0.5));
  return { params } as Model;
}

function weights({ params }: Model): number[][] {
  return SHAPES.map(({ name }) => [...params.get(name)!.dataSync()]);
}

/** Pulls the weights towards a random target at each step: loss ½ |w − target|². */
function pull(model: Model) {
  return (step: number) => {
    const random = stepRandom(9, step);
    const gradients: tf.NamedTensorMap = {};
    let loss = 0;
    for (const { name, shape } of SHAPES) {
      const weight = model.params.get(name)!;
      const target = Float32Array.from({ length: weight.size }, () => random.float());
      gradients[name] = tf.tidy(() => weight.sub(tf.tensor(target, shape)));
      for (const g of gradients[name].dataSync()) loss += (g * g) / 2;
    }
    return { gradients, metrics: { loss, accuracy: step } };
  };
}

let made = 0;
function options(more: Partial<LoopOptions> = {}): LoopOptions {
  const dir = join(folder, `run-${made++}`);
  const model = more.model ?? newModel();
  return {
    name: 'test',
    model,
    shapes: SHAPES,
    steps: 8,
    optimizer: {
      learningRate: 0.1,
      warmupSteps: 3,
      weightDecay: 0.01,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-6,
      clipNorm: 1,
      biasCorrection: false,
    },
    checkpoint: join(dir, 'checkpoint'),
    metrics: join(dir, 'metrics.jsonl'),
    events: join(dir, 'events'),
    logEvery: 3,
    saveEvery: 100,
    keep: 2,
    maxSkipped: 3,
    origin: { vocabularySha256: 'v', corpusSha256: 'c', settings: { seed: 1, qa: { batch: 4 } } },
    step: pull(model),
    ...more,
  };
}

/** The same run with new weights, as a new process would start it. */
function again(of: LoopOptions, more: Partial<LoopOptions> = {}): LoopOptions {
  const model = newModel();
  return { ...of, model, step: pull(model), ...more };
}

/** Hook between steps that asks the loop to stop after step `last`. */
function stopAfter(last: number, signal: 'SIGTERM' | 'SIGINT' = 'SIGTERM') {
  return async (step: number) => {
    if (step === last) process.emit(signal);
    return {};
  };
}

const lines = (path: string) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, number>);

const withoutTimes = (run: LoopOptions) =>
  lines(run.metrics).map(({ seconds: _, stepSeconds: _s, ...rest }) => rest);

async function refuses(run: LoopOptions, message: RegExp): Promise<void> {
  await assert.rejects(train(run), (error) => {
    assert.ok(error instanceof UserError, (error as Error).stack);
    assert.match(error.message, message);
    return true;
  });
}

test('a run stopped by SIGTERM finishes its step; once resumed, its result is bit-identical to an uninterrupted run', async () => {
  const whole = options();
  const { stopped } = await train(whole);
  assert.equal(stopped, false);

  const listeners = process.listenerCount('SIGTERM');
  const interrupted = options();
  const step = interrupted.step;
  const first = await train({
    ...interrupted,
    step(n) {
      if (n === 3) process.emit('SIGTERM');
      return step(n);
    },
  });
  assert.equal(first.stopped, true);
  assert.equal(process.listenerCount('SIGTERM'), listeners);
  assert.equal(latestState(interrupted.checkpoint)!.step, 4);
  assert.notDeepEqual(weights(interrupted.model), weights(whole.model));

  const seen: number[] = [];
  const resumed = again(interrupted);
  const rest = await train({
    ...resumed,
    step(n) {
      seen.push(n);
      return pull(resumed.model)(n);
    },
  });
  assert.equal(rest.stopped, false);
  assert.deepEqual(seen, [4, 5, 6, 7]);
  assert.deepEqual(weights(resumed.model), weights(whole.model));
  for (const name of ['model.safetensors', 'optimizer.safetensors'])
    assert.deepEqual(
      readFileSync(join(interrupted.checkpoint, 'step-0000008', name)),
      readFileSync(join(whole.checkpoint, 'step-0000008', name)),
      name,
    );
  assert.deepEqual(
    lines(interrupted.metrics).map((line) => line.step),
    [3, 6, 8],
  );
  // A line averages over the steps of both processes.
  assert.deepEqual(withoutTimes(interrupted), withoutTimes(whole));
  assert.equal(latestState(interrupted.checkpoint)!.score, latestState(whole.checkpoint)!.score);
});

test('a killed run resumes from its last checkpoint, and its result is bit-identical', async () => {
  const whole = options();
  await train(whole);
  const killed = options({ saveEvery: 3 });
  const step = killed.step;
  await assert.rejects(
    train({
      ...killed,
      step(n) {
        if (n === 7) throw new Error('killed');
        return step(n);
      },
    }),
    /killed/,
  );
  const seen: number[] = [];
  const resumed = again(killed);
  await train({
    ...resumed,
    step(n) {
      seen.push(n);
      return pull(resumed.model)(n);
    },
  });
  assert.deepEqual(seen, [6, 7], 'saved after 3 and after 6');
  assert.deepEqual(weights(resumed.model), weights(whole.model));
});

test('event files for TensorBoard hold the same metrics as metrics.jsonl, also in a run that was killed and resumed', async () => {
  const run = options({
    logEvery: 1,
    saveEvery: 3,
    evaluation: { sha256: 'q', measure: async () => ({ score: 1, metrics: { devExactMatch: 0.25 } }) },
  });
  const killed = (of: LoopOptions, at: number): LoopOptions => ({
    ...of,
    step(n) {
      if (n === at) throw new Error('killed');
      return of.step(n);
    },
  });
  await assert.rejects(train(killed(run, 5)), /killed/);
  await assert.rejects(train(killed(again(run), 7)), /killed/);
  await train(again(run));
  await train(again(run)); // there is nothing left to do
  const expected: Scalars = {};
  for (const { step, ...metrics } of lines(run.metrics)) {
    for (const [name, value] of Object.entries(metrics)) {
      expected[name] ??= [];
      expected[name].push([step, Math.fround(value)]);
    }
  }
  assert.deepEqual(
    expected.loss.map(([step]) => step),
    [1, 2, 3, 4, 5, 6, 7, 8],
  );
  assert.deepEqual(expected.devExactMatch, [
    [0, 0.25],
    [3, 0.25],
    [6, 0.25],
    [8, 0.25],
  ]);
  assert.deepEqual(readEvents(run.events), expected);
  assert.equal(readdirSync(run.events).length, 3);
});

test('a line is logged every few steps and at the end, each with means and the learning rate', async () => {
  const run = options({
    steps: 5,
    logEvery: 2,
    between: async (step) => ({ indexAgeSteps: 10 * step }),
  });
  const losses: number[] = [];
  const step = run.step;
  const result = await train({
    ...run,
    async step(n) {
      const found = await step(n);
      losses.push(found.metrics.loss);
      // A metric that is missing in a step is left out of the mean.
      return { ...found, metrics: { ...found.metrics, odd: n % 2 ? n : Number.NaN } };
    },
  });
  const logged = lines(run.metrics);
  assert.deepEqual(
    logged.map(({ step, accuracy, odd, indexAgeSteps }) => ({ step, accuracy, odd, indexAgeSteps })),
    [
      { step: 2, accuracy: 0.5, odd: 1, indexAgeSteps: 5 },
      { step: 4, accuracy: 2.5, odd: 3, indexAgeSteps: 25 },
      { step: 5, accuracy: 4, odd: undefined, indexAgeSteps: 40 },
    ],
  );
  const close = (a: number, b: number) => assert.ok(Math.abs(a - b) < 1e-9, `${a} ${b}`);
  close(logged[0].loss, (losses[0] + losses[1]) / 2);
  close(logged[2].loss, losses[4]);
  // Steps 1, 3 and 4 of 5: the rate rises over three steps to 0.1, then follows a linear decay that starts at the first step.
  logged.forEach((line, i) => {
    close(line.learningRate, [0.1 / 3, 0.1 * (2 / 5), 0.1 * (1 / 5)][i]);
    assert.ok(line.seconds >= 0 && line.stepSeconds > 0 && line.gradientNorm > 0);
  });
  assert.deepEqual([result.metrics.accuracy, result.metrics.indexAgeSteps], [4, 40]);
});

test('the first step of the schedule changes nothing, and the loss falls over the whole schedule', async () => {
  const run = options({ steps: 60, logEvery: 1 });
  const start = weights(run.model);
  let afterFirst: number[][] = [];
  await train({
    ...run,
    between: async (step) => {
      if (step === 0) afterFirst = weights(run.model);
      return {};
    },
  });
  assert.deepEqual(afterFirst, start);
  const logged = lines(run.metrics);
  assert.ok(logged.at(-1)!.loss < 0.6 * logged[0].loss, `${logged[0].loss} to ${logged.at(-1)!.loss}`);
});

test('no more steps than are done, and fewer than a finished stage has, are refused', async () => {
  const run = options();
  await train({ ...run, between: stopAfter(3, 'SIGINT') });
  for (const steps of [2, 4])
    await refuses(
      again(run, { steps }),
      new RegExp(
        `: 4 of 8 steps of this stage are done, and the number of steps is ${steps} now; set the number of steps to at least 5, .*--resume none`,
      ),
    );
  assert.equal(latestState(run.checkpoint)!.step, 4);
  assert.equal((await train(again(run))).stopped, false);
  await refuses(again(run, { steps: 7 }), /was trained for 8 steps \(8 are done\)/);
});

for (const steps of [5, 7])
  test(`an unfinished stage is shortened to ${steps} steps, with the learning rate of the shorter schedule`, async () => {
    const run = options({ logEvery: 1 });
    await train({ ...run, between: stopAfter(3) });
    let said = '';
    mock.method(process.stderr, 'write', (text: string) => {
      said += text;
      return true;
    });
    const result = await train(again(run, { steps }));
    mock.restoreAll();
    assert.deepEqual([result.stopped, result.step], [false, steps]);
    const rate = 0.1 * (1 - 4 / steps);
    assert.ok(
      said.includes(
        `test: resumes from step 4, with ${steps} steps instead of 8; from now on the learning rate follows the schedule of ${steps} steps, ${rate.toPrecision(3)} at first\n`,
      ),
      said,
    );
    const rates = lines(run.metrics).filter(({ step }) => step > 4);
    assert.deepEqual(
      rates.map(({ step }) => step),
      Array.from({ length: steps - 4 }, (_, i) => 5 + i),
    );
    for (const { step, learningRate } of rates)
      assert.ok(
        Math.abs(learningRate - 0.1 * (1 - (step - 1) / steps)) < 1e-9,
        `step ${step}: ${learningRate}`,
      );
    const state = latestState(run.checkpoint)!;
    assert.deepEqual([state.step, state.steps], [steps, steps]);
    // Now it is finished.
    const step = () => assert.fail('nothing is left to do');
    assert.equal((await train(again(run, { steps, step }))).step, steps);
  });

for (const [what, stop] of [
  ['finished', undefined],
  ['interrupted', stopAfter(3)],
] as const)
  test(`more steps extend ${what} training, with the learning rate of the longer schedule`, async () => {
    const run = options({ logEvery: 1 });
    await train({ ...run, ...(stop && { between: stop }) });
    const from = stop ? 4 : 8;
    let said = '';
    mock.method(process.stderr, 'write', (text: string) => {
      said += text;
      return true;
    });
    const result = await train(again(run, { steps: 16 }));
    mock.restoreAll();
    assert.equal(result.stopped, false);
    // Warm-up is three steps, see `options`; then the rate falls linearly from 0.1 at step 0 to 0 at step 16.
    const rate = 0.1 * (1 - from / 16);
    assert.match(
      said,
      new RegExp(`test: extends from step ${from} of 8 to 16; .*, ${rate.toPrecision(3)} at first\n`),
    );
    const rates = lines(run.metrics).filter(({ step }) => step > from);
    assert.deepEqual(
      rates.map(({ step }) => step),
      Array.from({ length: 16 - from }, (_, i) => from + 1 + i),
    );
    for (const { step, learningRate } of rates)
      assert.ok(Math.abs(learningRate - 0.1 * (1 - (step - 1) / 16)) < 1e-9, `step ${step}: ${learningRate}`);
  });

test('a finished stage refuses other settings, an extended one accepts them and says so', async () => {
  const run = options();
  await train(run);
  const other = { ...run.origin, settings: { seed: 1, qa: { batch: 8 } } };
  await refuses(
    again(run, { origin: other }),
    /is finished, .*: qa\.batch 8, before 4; set them back, .*--resume none/,
  );
  // Paths of data, and settings that an older version did not record, do not count as changes.
  const moved = { ...run.origin.settings, model: { initial: 'elsewhere' }, train: { keep: 3 } };
  assert.equal((await train(again(run, { origin: { ...run.origin, settings: moved } }))).stopped, false);
  assert.equal((await train(again(run, { steps: 10, origin: other }))).stopped, false);
});

test('a finished stage returns at once with its weights', async () => {
  const run = options();
  await train(run);
  const log = readFileSync(run.metrics, 'utf8');
  const next = again(run, {
    step: () => {
      throw new Error('there must be no more steps');
    },
  });
  const { stopped } = await train(next);
  assert.equal(stopped, false);
  assert.deepEqual(weights(next.model), weights(run.model));
  assert.equal(readFileSync(run.metrics, 'utf8'), log, 'the metrics are not changed');
});

test('a checkpoint exists only once training has started', async () => {
  const run = options({ saveEvery: 2 });
  assert.equal(hasCheckpoint(run.checkpoint), false);
  const states: boolean[] = [];
  await train({ ...run, between: async () => ({ is: Number(states.push(hasCheckpoint(run.checkpoint))) }) });
  assert.deepEqual(states, [false, false, true, true, true, true, true, true]);
  assert.deepEqual(
    readdirSync(join(run.checkpoint, '..')).sort(),
    ['checkpoint', 'events', 'metrics.jsonl'],
    'no temporary files are left',
  );
});

test('a damaged checkpoint is a user error that says to remove it', async () => {
  const run = options();
  await train({ ...run, between: stopAfter(3) });
  const harmed = async (harm: (checkpoint: string) => void, message: RegExp) => {
    const next = again(run, { checkpoint: join(folder, `harmed-${made++}`) });
    cpSync(run.checkpoint, next.checkpoint, { recursive: true });
    harm(next.checkpoint);
    await refuses(next, message);
  };
  const inside = (name: string) => join('step-0000004', name);
  const state = (change: (state: Record<string, unknown>) => unknown) => (dir: string) => {
    const path = join(dir, inside('state.json'));
    writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')))));
  };
  const truncate = (dir: string) => writeFileSync(join(dir, inside('state.json')), '{"format":2,"st');
  await harmed(truncate, /state\.json: this training state is not valid JSON; remove /);
  const version = /state\.json: is not a training state of this version .*; remove /;
  await harmed(
    state(() => null),
    version,
  );
  await harmed(
    state((s) => ({ ...s, format: 1 })),
    version,
  );
  await harmed(
    state((s) => ({ ...s, step: '4' })),
    version,
  );
  for (const name of ['model.safetensors', 'optimizer.safetensors']) {
    const path = (dir: string) => join(dir, inside(name));
    await harmed((dir) => rmSync(path(dir)), new RegExp(`${name}: is missing; remove `));
    await harmed((dir) => truncateSync(path(dir), 20), new RegExp(`${name}: is damaged .*; remove `));
    await harmed(
      (dir) => {
        const bytes = readFileSync(path(dir));
        bytes[bytes.length - 2] ^= 1;
        writeFileSync(path(dir), bytes);
      },
      new RegExp(`${name}: is damaged`),
    );
  }
  await harmed(
    (dir) => writeFileSync(join(dir, 'latest'), '../../elsewhere'),
    /latest: names no checkpoint; write step-0000004 /,
  );
  await harmed(
    (dir) => rmSync(join(dir, 'step-0000004'), { recursive: true }),
    /has no checkpoint "latest"; train the stage first/,
  );
});

test('without its pointer the newest checkpoint counts; one of an older version is refused', async () => {
  const run = options();
  await train({ ...run, between: stopAfter(3) });
  rmSync(join(run.checkpoint, 'latest'));
  rmSync(join(run.checkpoint, 'best'));
  assert.equal(latestState(run.checkpoint)!.step, 4);
  const old = options();
  cpSync(join(run.checkpoint, 'step-0000004'), old.checkpoint, { recursive: true });
  await refuses(old, /checkpoint: was trained by an older version of realm; remove it /);
});

test('the newest checkpoints and the best one are kept', async () => {
  const run = options({ saveEvery: 2, steps: 12 });
  const step = run.step;
  await train({
    ...run,
    async step(n) {
      const found = await step(n);
      // Steps 3 and 4 have the smallest mean loss.
      return { ...found, metrics: { loss: n === 2 || n === 3 ? 0.1 : 1 + n / 100 } };
    },
  });
  assert.deepEqual(readdirSync(run.checkpoint).sort(), [
    'best',
    'latest',
    'step-0000004',
    'step-0000010',
    'step-0000012',
  ]);
  assert.equal(readFileSync(join(run.checkpoint, 'best'), 'utf8'), 'step-0000004\n');
  assert.equal(openCheckpoint(run.checkpoint, 'best').state.score, -0.1);
  assert.equal(openCheckpoint(run.checkpoint, 'latest').state.step, 12);
});

test('the score of an evaluation determines the best checkpoint, and is logged', async () => {
  const scores = [0.2, 0.6, 0.4];
  const run = options({
    saveEvery: 3,
    steps: 8,
    evaluation: {
      sha256: 'q',
      async measure(_, when): Promise<{ score?: number; metrics: Record<string, number> }> {
        if (when === 'start') return { metrics: {} };
        return { score: scores[0], metrics: { devExactMatch: scores.shift()! } };
      },
    },
  });
  await train(run);
  assert.equal(openCheckpoint(run.checkpoint, 'best').state.step, 6);
  assert.deepEqual(
    lines(run.metrics).flatMap(({ step, devExactMatch }) =>
      devExactMatch === undefined ? [] : [[step, devExactMatch]],
    ),
    [
      [3, 0.2],
      [6, 0.6],
      [8, 0.4],
    ],
  );
});

test('a stage is measured before its first step and after its last; a resumed one is compared with the same start', async () => {
  const calls: unknown[] = [];
  const measured = (of: LoopOptions, sha256 = 'q'): LoopOptions => ({
    ...of,
    evaluation: {
      sha256,
      async measure(step, when, start) {
        calls.push(start === undefined ? [step, when] : [step, when, start.recall]);
        return { metrics: { recall: weights(of.model)[1][0] } };
      },
    },
  });
  const first = measured(options({ saveEvery: 3, between: stopAfter(4) }));
  const { evaluated, stopped } = await train(first);
  assert.deepEqual([evaluated, stopped], [{ start: { recall: 0.5 }, end: undefined }, true]);
  assert.deepEqual(calls.splice(0), [
    [0, 'start'],
    [3, 'checkpoint', 0.5],
  ]);
  const folderBefore = join(folder, 'measured-before');
  cpSync(first.checkpoint, folderBefore, { recursive: true });

  const resumed = measured(again(first, { between: undefined }));
  const result = await train(resumed);
  const end = weights(resumed.model)[1][0];
  assert.notEqual(end, 0.5);
  assert.deepEqual(calls.splice(0), [
    [6, 'checkpoint', 0.5],
    [8, 'end', 0.5],
  ]);
  assert.deepEqual(result.evaluated, { start: { recall: 0.5 }, end: { recall: end } });
  assert.deepEqual(latestState(first.checkpoint)!.evaluated, { sha256: 'q', ...result.evaluated });
  assert.deepEqual(
    lines(first.metrics).flatMap(({ step, recall }) => (recall === undefined ? [] : [step])),
    [0, 3, 6, 8],
  );

  // Other questions: there is nothing to compare with.
  const others = measured(again(first, { between: undefined, checkpoint: folderBefore }), 'others');
  await train(others);
  assert.deepEqual(calls.splice(0), [
    [6, 'checkpoint'],
    [8, 'end'],
  ]);
});

test('a stage that is stopped while it is measured before its first step changes nothing', async () => {
  const run = options();
  const { step, stopped } = await train({
    ...run,
    evaluation: {
      sha256: 'q',
      async measure() {
        process.emit('SIGTERM');
        await new Promise((resolve) => setTimeout(resolve, 1100));
        obey();
        return { metrics: {} };
      },
    },
  });
  assert.deepEqual([step, stopped, hasCheckpoint(run.checkpoint)], [0, true, false]);
});

test('training goes back to an earlier checkpoint, and repeats exactly the same steps from there', async () => {
  const run = options({ saveEvery: 2, keep: 5 });
  await train(run);
  const end = weights(run.model);
  goBackTo(run.checkpoint, 4);
  assert.deepEqual(
    readdirSync(run.checkpoint).filter((name) => name.startsWith('step')),
    ['step-0000002', 'step-0000004'],
  );
  assert.equal(openCheckpoint(run.checkpoint, 'best').state.step, 4);
  const next = again(run);
  await train(next);
  assert.deepEqual(weights(next.model), end);
  assert.throws(
    () => goBackTo(run.checkpoint, 7),
    /has no checkpoint "step 7"; choose one of 2, 4, 6, 8 with --resume/,
  );
});

test('a long step interrupted by a signal is discarded, changes nothing, and is repeated by the same command', async () => {
  const whole = options();
  await train(whole);
  const interrupted = options();
  const before = tf.memory().numTensors;
  const first = await train({
    ...interrupted,
    step(n) {
      if (n === 3) {
        process.emit('SIGTERM');
        for (;;) tf.tidy(() => obey());
      }
      return interrupted.step(n);
    },
  });
  assert.deepEqual([first.stopped, first.step], [true, 3]);
  assert.equal(tf.memory().numTensors, before);
  assert.equal(latestState(interrupted.checkpoint)!.step, 3);
  const resumed = again(interrupted);
  await train(resumed);
  assert.deepEqual(weights(resumed.model), weights(whole.model));
  assert.deepEqual(withoutTimes(resumed), withoutTimes(whole));
});

test('a checkpoint of another corpus or vocabulary is refused, a changed setting is reported', async () => {
  const run = options();
  await train({ ...run, between: stopAfter(3) });
  const origin = (more: Partial<LoopOptions['origin']>) => again(run, { origin: { ...run.origin, ...more } });
  await refuses(origin({ vocabularySha256: 'w' }), /step-0000004: was trained with another vocabulary/);
  await refuses(origin({ corpusSha256: 'd' }), /step-0000004: was trained on a different corpus/);
  let said = '';
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
  await train(origin({ settings: { seed: 1, qa: { batch: 8 } } }));
  assert.match(said, /test: continues with qa\.batch 8, before 4\ntest: resumes from step 4 of 8\n/);
  // A stage that is finished can be extended with what documents there are now.
  const more = origin({ corpusSha256: 'd' });
  assert.equal((await train({ ...more, steps: 10 })).step, 10);
  assert.match(said, /test: continues with the corpus of now.*\n.*extends from step 8 of 8 to 10/);
  mock.restoreAll();
  assert.equal(latestState(run.checkpoint)!.corpusSha256, 'd');
});

/** Steps with a loss of `loss(n)`, or with gradients that are not finite if it is undefined. */
function losing(run: LoopOptions, loss: (n: number) => number | undefined): LoopOptions {
  const { step } = run;
  return {
    ...run,
    async step(n) {
      const found = await step(n);
      const value = loss(n);
      if (value !== undefined) return { ...found, metrics: { ...found.metrics, loss: value } };
      const name = 'a.bias';
      const old = found.gradients[name];
      const gradients = { ...found.gradients, [name]: tf.tidy(() => old.mul(Number.NaN)) };
      old.dispose();
      return { gradients, metrics: found.metrics };
    },
  };
}

test('steps with a loss or gradients that are not finite or explode change nothing and are counted', async () => {
  const run = losing(
    options({ steps: 30, saveEvery: 10, logEvery: 10 }),
    (n) => ({ 5: Number.NaN, 6: undefined, 25: 100 })[n as 5] ?? (n === 6 ? undefined : 1 + (n % 3)),
  );
  const after: number[][][] = [];
  const tensors = tf.memory().numTensors;
  await train({ ...run, between: async () => ({ at: after.push(weights(run.model)) }) });
  assert.equal(tf.memory().numTensors, tensors);
  for (const skipped of [5, 6, 25]) assert.deepEqual(after[skipped], after[skipped - 1], `step ${skipped}`);
  assert.notDeepEqual(after[7], after[6]);
  assert.notDeepEqual(after[24], after[23], 'three times the first loss is not ten times');
  assert.deepEqual(
    lines(run.metrics).map(({ skipped, loss }) => [skipped, loss < 4]),
    [
      [2, true],
      [2, true],
      [3, true],
    ],
  );
  // The weights before the latest skipped step are kept.
  assert.equal(readFileSync(join(run.checkpoint, 'before-skipping'), 'utf8'), 'step-0000025\n');
  assert.equal(openCheckpoint(run.checkpoint, 25).state.skipped, 2);
});

test('too many skipped steps stop the training with an explanation, and it can go back to a checkpoint', async () => {
  const run = losing(options({ steps: 20, saveEvery: 5 }), (n) => (n >= 7 ? Number.NaN : 1));
  await refuses(
    run,
    /test: 3 steps since the last checkpoint were skipped, the last one with a loss of NaN .*--resume best.*lower learning rate.*before step 8/,
  );
  assert.equal(latestState(run.checkpoint)!.step, 5);
  assert.equal(openCheckpoint(run.checkpoint, 7).state.step, 7);
  const mended = again(run);
  assert.equal((await train(mended)).stopped, false);
  assert.equal(lines(run.metrics).at(-1)!.step, 20);
});

test('a whole run leaks no tensor', async () => {
  const run = options();
  const before = tf.memory().numTensors;
  await train(run);
  assert.equal(tf.memory().numTensors, before);
  const interrupted = options();
  await train({ ...interrupted, between: stopAfter(1) });
  await train({ ...interrupted });
  assert.equal(tf.memory().numTensors - before, SHAPES.length, "the second model's own");
});

test('a step that fails leaves no signal listener and no tensor behind', async () => {
  const run = options();
  const listeners = process.listenerCount('SIGINT');
  const before = tf.memory().numTensors;
  await assert.rejects(
    train({
      ...run,
      step() {
        throw new Error('no luck');
      },
    }),
    /no luck/,
  );
  assert.equal(process.listenerCount('SIGINT'), listeners);
  assert.equal(tf.memory().numTensors, before);
  assert.ok(!existsSync(run.checkpoint));
});

test('gradients of several passes are summed, parameter by parameter', () => {
  const before = tf.memory().numTensors;
  const one = { a: tf.tensor1d([1, 2]), b: tf.tensor1d([3]) };
  const two = { a: tf.tensor1d([10, 20]), c: tf.tensor1d([5]) };
  const sum = addGradients(addGradients(undefined, one), two);
  assert.deepEqual(
    Object.entries(sum).map(([name, tensor]) => [name, ...tensor.dataSync()]),
    [
      ['a', 11, 22],
      ['b', 3],
      ['c', 5],
    ],
  );
  tf.dispose(sum);
  assert.equal(tf.memory().numTensors, before);
});

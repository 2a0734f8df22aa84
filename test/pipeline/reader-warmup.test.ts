import assert from 'node:assert/strict';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import { statusLines } from '../../src/commands/status-lines.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { nextCommands } from '../../src/pipeline/next-command.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { pretrain } from '../../src/pipeline/pretrain.ts';
import { readerWarmup } from '../../src/pipeline/reader-warmup.ts';
import { statusOf } from '../../src/report/status.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import type { Stage } from '../../src/run/stages.ts';
import { latestState, openCheckpoint } from '../../src/train/checkpoints.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { stoppedAfter } from '../support/stopped.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

// The reader learns to copy before pretraining, which starts from it.

const folder = temporaryFolder('reader-warmup-run');
const STEPS = 40;
let begun: Context;
let said = '';

before(async () => {
  const { name: engine } = await startTestEngine();
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
  writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), folder);
  const run = runFolder(join(folder, 'begun'));
  const still = '{warmupSteps: 0, learningRate: 1e-30}';
  const config = runConfig(run, {
    set: [
      ...TINY,
      `data.documents=${join(folder, 'documents.jsonl')}`,
      `data.train=${join(folder, 'questions.train.jsonl')}`,
      'model.dropout=0.1',
      `ict={steps: 1, batch: 4, optimizer: ${still}}`,
      `readerWarmup={steps: ${STEPS}, batch: 16, microBatch: 8, optimizer: {warmupSteps: 2, learningRate: 1e-2}}`,
      `pretrain={steps: 1, batch: 2, candidates: 3, optimizer: ${still}}`,
      'refresh.mode=off',
      'index.kind=exact',
      `qa={steps: 1, batch: 2, retrieverBlocks: 4, readerBlocks: 2, readerTokens: 104, devQuestions: 0, optimizer: ${still}}`,
      'train={logEvery: 5, saveEvery: 10}',
    ],
  });
  begun = { run, config, engine };
  await prepareCorpus(run, config);
  await ictWarmup(begun);
  await buildRunIndex(begun);
});
after(() => mock.restoreAll());

function copy({ run, ...rest }: Context, name: string): Context {
  cpSync(run.dir, join(folder, name), { recursive: true });
  return { ...rest, run: runFolder(join(folder, name)) };
}

function lines({ run }: Context): Record<string, number>[] {
  return readFileSync(run.metrics('reader-warmup'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** One tensor of a stage's latest checkpoint. */
function tensor({ run }: Context, stage: Stage, name: string): Float32Array {
  const file = readSafetensors(openCheckpoint(run.checkpoint(stage), 'latest').weights);
  try {
    return file.tensors.get(name)!.read() as Float32Array;
  } finally {
    file.close();
  }
}

test('the loss falls, a stopped warm-up resumes exactly, and pretraining starts from its reader', async () => {
  const main = copy(begun, 'main');
  const cut = copy(begun, 'cut');
  assert.match(nextCommands(main.run, main.config, 'build-index')[0], /^realm reader-warmup /);
  assert.match(statusLines([statusOf(main.run)]).join('\n'), /^next +realm reader-warmup /m);
  assert.equal((await readerWarmup(main)).stopped, false);
  assert.match(nextCommands(main.run, main.config, 'build-index')[0], /^realm pretrain /);
  assert.match(nextCommands(main.run, main.config, 'reader-warmup')[0], /^realm pretrain /);
  assert.match(statusLines([statusOf(main.run)]).join('\n'), /^reader-warmup +finished, step 40 of 40/m);

  const log = lines(main);
  const [first, last] = [log[0], log.at(-1)!];
  // The first lines are of copying alone; the last has all kinds of documents.
  assert.ok(Math.abs(first.copyLoss - first.loss) < 1e-6);
  assert.ok(first.loss > 4 && last.copyLoss < first.copyLoss - 1, `${first.copyLoss} ${last.copyLoss}`);
  assert.ok(last.otherLoss > 0 && last.step === STEPS);

  await stoppedAfter(3, cut.run.metrics('reader-warmup'), () => readerWarmup(cut));
  assert.ok(latestState(cut.run.checkpoint('reader-warmup'))!.step < STEPS);
  await readerWarmup(cut);
  const weights = ({ run }: Context) =>
    latestState(run.checkpoint('reader-warmup'))!.files['model.safetensors'].sha256;
  assert.equal(weights(cut), weights(main));
  const withoutClock = (context: Context) =>
    lines(context).map(({ seconds: _, stepSeconds: __, ...rest }) => rest);
  assert.deepEqual(withoutClock(cut), withoutClock(main));

  said = '';
  await readerWarmup(main);
  assert.match(said, /reader-warmup: already finished at step 40/);

  const tuned = copy(main, 'tuned');
  const plain = copy(begun, 'plain');
  await pretrain(main);
  await pretrain(plain);
  for (const name of ['reader.mlm.transform.kernel', 'reader.layer.0.output.kernel']) {
    const warmedUp = tensor(main, 'reader-warmup', name);
    assert.deepEqual(tensor(main, 'pretrain', name), warmedUp, name);
    assert.notDeepEqual(tensor(plain, 'pretrain', name), warmedUp, name);
  }

  // Fine-tuning without pretraining takes it, too.
  said = '';
  await finetuneQa(tuned);
  assert.match(said, /has not been pretrained; .*, and the reader is that of reader-warmup/);
  assert.deepEqual(
    tensor(tuned, 'finetune-qa', 'reader.layer.0.output.kernel'),
    tensor(main, 'reader-warmup', 'reader.layer.0.output.kernel'),
  );
});

test('with 0 steps, as by default, the stage does nothing and is not listed', async () => {
  const context = copy(begun, 'none');
  const config = runConfig(context.run, { set: ['readerWarmup.steps=0'] });
  said = '';
  assert.equal((await readerWarmup({ ...context, config })).step, 0);
  assert.match(said, /readerWarmup\.steps is 0; nothing to do/);
  assert.match(nextCommands(context.run, config, 'build-index')[0], /^realm pretrain /);
  const shown = statusLines([statusOf(context.run)]).join('\n');
  assert.doesNotMatch(shown, /^reader-warmup/m);
  assert.match(shown, /^next +realm pretrain /m);
});

test('with 0 steps pretraining does nothing, is not listed, and fine-tuning is next', async () => {
  const context = copy(begun, 'no-pretraining');
  const set = ['readerWarmup.steps=0', 'pretrain.steps=0', 'data.train=questions.jsonl'];
  const config = runConfig(context.run, { set });
  said = '';
  assert.equal((await pretrain({ ...context, config })).step, 0);
  assert.match(said, /pretrain\.steps is 0; nothing to do/);
  assert.match(nextCommands(context.run, config, 'build-index')[0], /^realm finetune-qa /);
  const shown = statusLines([statusOf(context.run)]).join('\n');
  assert.doesNotMatch(shown, /^pretrain/m);
  assert.match(shown, /^next +realm finetune-qa /m);
});

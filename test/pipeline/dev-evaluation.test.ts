import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { type Context, needStage } from '../../src/pipeline/context.ts';
import { devEvaluation, recallQuestions } from '../../src/pipeline/dev-evaluation.ts';
import { readDevQuestions } from '../../src/pipeline/questions.ts';
import { runFolder } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import type { Evaluation } from '../../src/train/loop.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

// A stage is measured on dev questions before and after it, and says so if it made something worse.

const folder = temporaryFolder('dev-evaluation');
let engine: Context['engine'];
let corpus: Corpus;
let model: Model;
let said = '';
before(async () => {
  ({ name: engine } = await startTestEngine());
  ({ corpus } = await tinyCorpus(folder, tinyConfig()));
  model = tinyModel(tinyConfig(), corpus.tokenizer.size);
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
});
after(() => {
  mock.restoreAll();
  disposeModel(model);
  corpus.close();
});

const dev = join(folder, 'questions.dev.jsonl');

function contextOf(...set: string[]): Context {
  return { run: runFolder(join(folder, 'run')), config: tinyConfig(...set), engine };
}

async function evaluation(
  stage: 'ict-warmup' | 'pretrain' | 'finetune-qa',
  set: string[],
  exactMatch?: () => Promise<number>,
): Promise<Evaluation | undefined> {
  const context = contextOf(...set);
  const questions = recallQuestions(corpus, await readDevQuestions(context));
  return devEvaluation(context, { stage, model, corpus, questions, exactMatch });
}

test('recall at the start and at the end are printed on one line; without a loss there is no warning', async () => {
  const { measure } = (await evaluation('pretrain', [`data.dev=${dev}`]))!;
  said = '';
  const { metrics: start, score } = await measure(0, 'start');
  assert.equal(score, undefined);
  assert.deepEqual(Object.keys(start), ['devRecall@1', 'devRecall@5', 'devRecall@20']);
  const at = Object.values(start).map((share, i) => `@${[1, 5, 20][i]} ${(100 * share).toFixed(1)} %`);
  const shown = `pretrain: recall on 6 dev questions (all ${corpus.blocks} blocks)`;
  assert.ok(said.includes(`${shown} at the start: ${at.join(', ')}\n`), said);
  said = '';
  assert.deepEqual((await measure(5, 'checkpoint', start)).metrics, {});
  assert.equal(said, '');
  const { metrics: end } = await measure(9, 'end', start);
  assert.deepEqual(end, start);
  assert.ok(said.includes(`${shown}: at the start ${at.join(', ')}; at the end ${at.join(', ')}\n`), said);
  assert.doesNotMatch(said, /worse/);
});

test('a stage that loses more than a point says what, and which setting to look at', async () => {
  const stages = [
    ['ict-warmup', /set ict\.steps to 0/],
    ['pretrain', /lower pretrain\.optimizer\.learningRate \(0\.00003\)/],
    ['finetune-qa', /set qa\.retrieverLearningRate below 0\.00001/],
  ] as const;
  for (const [stage, remedy] of stages) {
    const { measure } = (await evaluation(stage, [`data.dev=${dev}`], async () => 0.5))!;
    const { metrics } = await measure(0, 'start');
    said = '';
    await measure(9, 'end', {
      ...metrics,
      'devRecall@1': metrics['devRecall@1'] + 0.009,
      devExactMatch: 0.509,
    });
    assert.doesNotMatch(said, /worse/);
    await measure(9, 'end', {
      ...metrics,
      'devRecall@1': metrics['devRecall@1'] + 0.011,
      devExactMatch: 0.75,
    });
    const lost = `${stage}: made the results worse: recall@1 `;
    assert.ok(said.includes(lost) && said.includes('exact match 75.0 % to 50.0 %; '), said);
    assert.match(said, remedy);
  }
});

test('train.bestBy recall scores a checkpoint by the mean of its recalls, auto by exact match where there is one', async () => {
  const byRecall = (await evaluation(
    'finetune-qa',
    [`data.dev=${dev}`, 'train.bestBy=recall'],
    async () => 0.5,
  ))!;
  const { metrics, score } = await byRecall.measure(5, 'checkpoint');
  const { devExactMatch, ...recall } = metrics;
  assert.equal(devExactMatch, 0.5);
  const values = Object.values(recall);
  assert.equal(values.length, 3);
  assert.equal(score, (values[0] + values[1] + values[2]) / 3);
  const auto = (await evaluation('finetune-qa', [`data.dev=${dev}`], async () => 0.5))!;
  assert.deepEqual(await auto.measure(5, 'checkpoint'), { metrics: { devExactMatch: 0.5 }, score: 0.5 });
});

test('without data.dev nothing is measured, which is said; train.bestBy recall is refused', async () => {
  said = '';
  assert.equal(await evaluation('pretrain', []), undefined);
  assert.equal(
    said,
    'pretrain: data.dev names no questions, so recall is not measured before and after training\n',
  );
  const { run, config } = contextOf('train.bestBy=recall');
  assert.throws(
    () => needStage(run, config, 'pretrain', 'none'),
    (error) => error instanceof UserError && /data\.dev names no file/.test(error.message),
  );
});

test('the fingerprint is of the questions and their answers', async () => {
  const context = contextOf(`data.dev=${dev}`);
  const all = await readDevQuestions(context);
  const of = (questions: typeof all) =>
    devEvaluation(context, {
      stage: 'pretrain',
      model,
      corpus,
      questions: recallQuestions(corpus, questions),
    })!.sha256;
  assert.equal(of(all), of(structuredClone(all)));
  assert.notEqual(of(all), of(all.slice(1)));
  assert.notEqual(of(all), of([{ ...all[0], answers: ['another'] }, ...all.slice(1)]));
});

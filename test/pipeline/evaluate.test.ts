import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import type { Context } from '../../src/pipeline/context.ts';
import { evalExactMatch } from '../../src/pipeline/evaluate-answers.ts';
import { evalRecall, scoreRetrieved } from '../../src/pipeline/evaluate-recall.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { runConfig } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

const folder = temporaryFolder('eval');
let context: Context;
let said = '';
before(async () => {
  mock.method(process.stderr, 'write', (line: string) => {
    said += line;
    return true;
  });
  ({ context } = await tunedRun(folder));
});

const refuses = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));

test('a place where rankings cannot be written is reported before anything is evaluated, and nothing changes', async () => {
  const { run, config } = context;
  await evalExactMatch(context);
  const files = [run.predictions, run.evaluations, config.data.test!];
  const before = files.map((file) => readFileSync(file, 'utf8'));
  said = '';
  const own = /: is a file of this evaluation itself; name another with --to FILE/;
  await refuses(evalExactMatch(context, { to: run.predictions }), own);
  await refuses(evalExactMatch(context, { to: config.data.test! }), own);
  await refuses(evalRecall(context, 'pretrain', { to: config.data.test! }), own);
  const taken = join(folder, 'taken');
  mkdirSync(taken);
  await refuses(evalRecall(context, 'pretrain', { to: taken }), /taken: .*a folder where a file must be/);
  assert.doesNotMatch(said, /recall|exact-match/);
  assert.deepEqual(
    files.map((file) => readFileSync(file, 'utf8')),
    before,
  );
});

test('questions that a TREC run lacks are reported; a run without any of the questions is refused', async () => {
  const { run, config } = context;
  const to = join(folder, 'all.trec');
  await evalRecall(context, 'pretrain', { to, format: 'trec' });
  const lines = readFileSync(to, 'utf8').split('\n');
  const some = join(folder, 'some.trec');
  writeFileSync(some, lines.filter((line) => line.startsWith('1 ')).join('\n'));
  said = '';
  const questions = config.data.test!;
  const { questions: n } = await scoreRetrieved(some, run.dir, { questions });
  assert.ok(said.includes(`some.trec: leaves ${n - 1} questions out`), said);
  const none = join(folder, 'none.trec');
  writeFileSync(none, '');
  await refuses(scoreRetrieved(none, run.dir, { questions }), /none\.trec: matches none of the questions in/);
});

test('recall without --stage says that another model answers questions; with a stage it does not', async () => {
  const hint =
    'recall: this is the retriever before fine-tuning (pretrain); --stage finetune-qa measures the model that ask uses\n';
  said = '';
  assert.equal((await evalRecall(context, undefined)).stage, 'pretrain');
  assert.equal(said.split(hint).length, 2, said);
  said = '';
  await evalRecall(context, 'pretrain');
  assert.doesNotMatch(said, /--stage finetune-qa/);
});

test('fine-tuning prints the exact match on dev questions before its first step and at each checkpoint', async () => {
  const { run, engine } = context;
  const dev = join(folder, 'dev.jsonl');
  // Regular expressions: half of them match every answer, the others none.
  const answers = ['.*', '.*', 'never.+ever', '.*', 'never.+ever', 'never.+ever'];
  writeFileSync(
    dev,
    answers.map((answer) => `${JSON.stringify({ question: 'who?', answer: [answer] })}\n`).join(''),
  );
  const set = [
    `data.dev=${dev}`,
    'qa.steps=2',
    'qa.batch=2',
    'qa.retrieverBlocks=10',
    'qa.devQuestions=6',
    'train={saveEvery: 1}',
  ];
  rmSync(run.checkpoint('finetune-qa'), { recursive: true });
  said = '';
  await finetuneQa({ run, config: runConfig(run, { set }), engine });
  assert.deepEqual(said.match(/^finetune-qa: step \d+: .*$/gm), [
    'finetune-qa: step 0: exact match on 6 dev questions 50.0 %',
    'finetune-qa: step 1: exact match on 6 dev questions 50.0 %',
    'finetune-qa: step 2: exact match on 6 dev questions 50.0 %',
  ]);
});

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import type { Config } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { writeBlockRecords } from '../../src/datasets/formats/block-records.ts';
import { answerQuestions } from '../../src/eval/answer.ts';
import { disposeModel } from '../../src/model/model.ts';
import { encodeQuestions } from '../../src/model/questions.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { fineTuned } from '../../src/pipeline/fine-tuned.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { importStage } from '../../src/pipeline/import.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { runFolder } from '../../src/run/folder.ts';
import { openCheckpoint } from '../../src/train/checkpoints.ts';
import { startTestEngine } from '../support/engine.ts';
import { configFor, vocabularyOf } from '../support/realm-parity.ts';
import { temporaryFolder } from '../support/tiny.ts';

// A model that transformers saved for questions, with the texts of its blocks, answers as it does there: nothing is
// trained, nothing embedded. The answers are those of scripts/parity/realm.py.

const fixtures = join(import.meta.dirname, '../fixtures/realm');
const { records, questions, answers } = JSON.parse(
  readFileSync(join(fixtures, 'openqa-answers.json'), 'utf8'),
) as Record<'records' | 'questions' | 'answers', string[]>;

const root = temporaryFolder('import');
const folder = join(root, 'openqa');
const sentences = join(root, 'sentences.jsonl');
let engine: Context['engine'];
let said = '';
before(async () => {
  ({ name: engine } = await startTestEngine());
  cpSync(join(fixtures, 'openqa-parts'), folder, { recursive: true });
  writeFileSync(
    join(folder, 'vocab.txt'),
    vocabularyOf(50)
      .vocabulary.map((piece) => `${piece}\n`)
      .join(''),
  );
  writeFileSync(sentences, `${JSON.stringify({ text: 'word1 word2 word3', spans: [[0, 5]] })}\n`);
  await writeBlockRecords(join(folder, 'block_records.npy'), records.length, (row) => records[row]);
  mock.method(process.stderr, 'write', (text: string) => {
    said += text;
    return true;
  });
});
after(() => mock.restoreAll());

async function prepared(name: string, ...more: string[]): Promise<Context> {
  const config = configFor(
    join(fixtures, 'openqa'),
    'openqa',
    folder,
    `data.documents=${join(folder, 'block_records.npy')}`,
    `data.sentences=${sentences}`, // none of the words is a name
    'text.splitting=as-is',
    'text.blockTokens=24',
    'qa.readerBlocks=2',
    'qa.retrieverBlocks=2',
    ...more,
  );
  const run = runFolder(join(root, name));
  await prepareCorpus(run, config);
  return { run, config, engine };
}

test('a published model answers questions without training', async () => {
  const context = await prepared('answers');
  const imported = await importStage(context, 'finetune-qa');
  assert.equal(imported.blocks, records.length);
  const corpus = openCorpus(context.run.corpus);
  const { model, index } = await fineTuned(context, corpus);
  assert.equal(index.manifest.reused, 0);
  const asked = encodeQuestions(
    corpus,
    questions.map((question) => ({ question, answers: [] })),
  );
  const ours = await answerQuestions({ model, corpus, index, config: context.config }, asked, 2);
  assert.deepEqual(
    ours.map(({ answers: [best] }) => best.text),
    answers,
  );
  index.close();
  corpus.close();
  disposeModel(model);
  await assert.rejects(
    importStage(context, 'finetune-qa'),
    /already has weights; remove it to import others/,
  );
});

test('fine-tuning continues from it', async () => {
  const train = join(root, 'train.jsonl');
  writeFileSync(train, `${JSON.stringify({ question: 'word1 word2', answer: ['word38', 'word32'] })}\n`);
  const context = await prepared(
    'further',
    'qa.steps=2',
    'qa.batch=1',
    'qa.devQuestions=0',
    `data.train=${train}`,
  );
  await importStage(context, 'finetune-qa');
  const result = await finetuneQa(context);
  assert.equal(result.stopped, false);
  assert.ok(Number.isFinite(result.metrics.loss));
  assert.equal(openCheckpoint(context.run.checkpoint('finetune-qa'), 'latest').state.step, 2);
});

test('vectors of other blocks are not imported, and a missing part is named', async () => {
  said = '';
  const context = await prepared('other');
  const documents = join(root, 'few.jsonl');
  writeFileSync(documents, `${JSON.stringify({ title: 'word1', text: 'word2 word3 word4 word5 word6' })}\n`);
  const config: Config = { ...context.config, data: { ...context.config.data, documents } };
  const other = { ...context, run: runFolder(join(root, 'few')), config };
  await prepareCorpus(other.run, config);
  assert.equal((await importStage(other, 'ict-warmup')).blocks, 0);
  assert.match(
    said,
    /block_emb in .* is \[7,6\], not the corpus's 1 blocks of 6: its vectors are not imported/,
  );

  const set = (path: 'initial' | 'initialReader' | 'temperature', value: string | number): Context => ({
    ...context,
    config: { ...context.config, model: { ...context.config.model, [path]: value } },
  });
  await assert.rejects(
    importStage(set('initialReader', join(fixtures, 'encoder')), 'finetune-qa'),
    /fixtures\/realm\/encoder: has no span scorer, which stage finetune-qa has/,
  );
  await assert.rejects(
    importStage(set('initial', join(fixtures, 'reader')), 'ict-warmup'),
    /reader: has no projection/,
  );
  await assert.rejects(importStage(set('temperature', 2), 'ict-warmup'), /trained without it; set it to 1/);
});

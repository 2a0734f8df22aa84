import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { readQuestions } from '../../src/datasets/questions.ts';
import { fourDigits, JUDGED_MEASURES } from '../../src/eval/judged.ts';
import { blocksFor } from '../../src/eval/judged-retrieval.ts';
import type { Interval } from '../../src/eval/statistics.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { scoreRunFile } from '../../src/pipeline/evaluate-judged.ts';
import { evalRecall } from '../../src/pipeline/evaluate-recall.ts';
import { hasAnswers, judgeRetrievers } from '../../src/pipeline/judge-retrievers.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

// The questions of a small world as a folder of BEIR's form: the judged document of a question is the one that holds its
// answer, and its two neighbours are judged as not relevant.

const folder = temporaryFolder('judge-retrievers');
const beir = join(folder, 'beir');
const qrels = join(beir, 'qrels', 'test.tsv');
let context: Context;
let said = '';
const jsonLines = (objects: readonly object[]) => objects.map((o) => `${JSON.stringify(o)}\n`).join('');

before(async () => {
  mock.method(process.stderr, 'write', (line: string) => {
    said += line;
    return true;
  });
  ({ context } = await tunedRun(folder));
  const questions = await readQuestions(context.config.data.test!);
  const corpus = openCorpus(context.run.corpus);
  const ids = Array.from({ length: corpus.blocks }, (_, block) => corpus.documentId(block));
  corpus.close();
  mkdirSync(join(beir, 'qrels'), { recursive: true });
  const queries = questions.map(({ question }, i) => ({ _id: `q ${i}`, text: question }));
  writeFileSync(join(beir, 'queries.jsonl'), jsonLines([{ _id: 'train', text: 'not judged?' }, ...queries]));
  const judged = questions.flatMap(({ passageId }, i) => {
    const other = ids.find((id) => id !== passageId);
    return [`q ${i}\t${passageId}\t2`, `q ${i}\t${other}\t0`];
  });
  writeFileSync(qrels, `query-id\tcorpus-id\tscore\n${judged.join('\n')}\n`);
});

const refuses = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));

test('a retriever, BM25 and both, by judgements; a run that is written has the same figures', async () => {
  const to = join(folder, 'dense.trec');
  const perQuery = join(folder, 'per-query.jsonl');
  said = '';
  const judged = await judgeRetrievers(context, 'pretrain', { qrels, to, format: 'trec', perQuery });
  assert.equal(judged.file, join(beir, 'queries.jsonl'), 'the queries beside the judgements');
  assert.match(said, /queries\.jsonl: (\d+) of (\d+) questions have judgements/);
  assert.deepEqual(Object.keys(judged.figures), ['pretrain', 'bm25', 'hybrid']);
  const value = (system: string, name: string) => (judged.figures[system][name] as Interval).value;
  // Questions name their town or person, so that words find the document.
  assert.ok(value('bm25', 'nDCG@10') > 0.9, `BM25: ${value('bm25', 'nDCG@10')}`);
  assert.ok(value('pretrain', 'nDCG@10') < value('bm25', 'nDCG@10'), 'random weights find less');
  assert.deepEqual(
    judged.differences.map(({ system, against }) => [system, against]),
    [
      ['hybrid', 'bm25'],
      ['hybrid', 'pretrain'],
      ['pretrain', 'bm25'],
    ],
  );
  const [, , { measures }] = judged.differences;
  assert.equal(
    fourDigits(measures['nDCG@10'].difference.value),
    fourDigits(value('pretrain', 'nDCG@10') - value('bm25', 'nDCG@10')),
  );
  const again = await scoreRunFile(to, qrels);
  for (const name of JUDGED_MEASURES) {
    assert.equal((again.figures[to][name] as Interval).value, value('pretrain', name), name);
  }
  const lines = readFileSync(perQuery, 'utf8').trimEnd().split('\n');
  assert.equal(lines.length, 3 * judged.queries);
});

test('every document counts once, by its best block', async () => {
  const corpus = openCorpus(context.run.corpus);
  const several = corpus.blocks > corpus.documents;
  assert.equal(blocksFor(corpus), 100 * Math.ceil(corpus.blocks / corpus.documents));
  assert.equal(blocksFor({ blocks: 1e6, documents: 1e4 }), 1000);
  corpus.close();
  assert.ok(several, 'the world has documents of several blocks');
  const to = join(folder, 'all.trec');
  await judgeRetrievers(context, 'finetune-qa', { qrels, to, format: 'trec' });
  const rows = readFileSync(to, 'utf8').trimEnd().split('\n');
  const pairs = rows.map((row) =>
    row
      .split(' ')
      .filter((_, i) => i === 0 || i === 2)
      .join(' '),
  );
  assert.equal(new Set(pairs).size, pairs.length);
  assert.ok(
    rows.every((row) => !row.includes('#')),
    'documents, not blocks',
  );
});

test('questions with answers are measured by these, too; judgements of other documents or questions are refused', async () => {
  const { config } = context;
  assert.equal(await hasAnswers(context, { qrels }), false);
  assert.equal(await hasAnswers(context, { qrels, questions: config.data.test! }), true);
  assert.ok((await evalRecall(context, 'pretrain', { questions: config.data.test! })).recall[1] >= 0);
  const other = join(folder, 'other.tsv');
  writeFileSync(other, 'query-id\tcorpus-id\tscore\nq 0\tnowhere\t1\n');
  await refuses(
    judgeRetrievers(context, 'pretrain', { qrels: other, questions: join(beir, 'queries.jsonl') }),
    /other\.tsv: judges no document of the run's corpus; it names documents such as nowhere, the corpus has /,
  );
  writeFileSync(other, 'query-id\tcorpus-id\tscore\nz\tnowhere\t1\n');
  await refuses(
    judgeRetrievers(context, 'pretrain', { qrels: other, questions: join(beir, 'queries.jsonl') }),
    /other\.tsv: judges none of the \d+ questions in .*; give the questions of these judgements with --questions/,
  );
  await refuses(judgeRetrievers(context, 'pretrain', { qrels, to: qrels }), /name another with --to FILE/);
  await refuses(judgeRetrievers(context, 'pretrain', { qrels, perQuery: qrels }), /with --per-query FILE/);
});

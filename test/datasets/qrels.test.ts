import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { readQrels } from '../../src/datasets/qrels.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('qrels');

async function read(name: string, content: string | Uint8Array) {
  writeFileSync(join(folder, name), content);
  const judgements = await readQrels(join(folder, name));
  return Object.fromEntries([...judgements].map(([query, judged]) => [query, Object.fromEntries(judged)]));
}
async function refuses(content: string, message: RegExp, name = 'bad.txt') {
  await assert.rejects(
    read(name, content),
    (error) => error instanceof UserError && message.test(error.message),
  );
}

test('the same judgements in every published form', async () => {
  const expected = { q1: { d1: 2, d2: 0 }, q2: { d1: -1 } };
  const trec = 'q1 0 d1 2\nq1\t0\td2\t0\n\nq2  Q0   d1 -1 \n';
  assert.deepEqual(await read('qrels.txt', trec), expected);
  assert.deepEqual(await read('qrels.txt.gz', gzipSync(trec)), expected);
  const beir = 'q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n';
  assert.deepEqual(await read('test.tsv', `query-id\tcorpus-id\tscore\r\n${beir}`), expected);
  assert.deepEqual(await read('test.tsv', beir), expected, 'without a first line of names nothing is lost');
  assert.deepEqual(await read('turned.tsv', 'score\tcorpus-id\tquery-id\n2\td1\tq1\n'), { q1: { d1: 2 } });
  const mteb =
    '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n{"query-id": "q1", "corpus-id": "d2", "score": 0.0}\n{"query-id": "q2", "corpus-id": "d1", "score": -1}\n';
  assert.deepEqual(await read('test.jsonl', mteb), expected);
});

test('ids with spaces, of one word, and of digits with zeros in front', async () => {
  assert.deepEqual(await read('spaces.tsv', 'query one\tdoc two\t1\n007\t01\t1.0\n'), {
    'query one': { 'doc two': 1 },
    '007': { '01': 1 },
  });
});

test('judgements that differ are refused by line; equal ones count once', async () => {
  assert.deepEqual(await read('twice.txt', 'q 0 d 1\nq 0 d 1\n'), { q: { d: 1 } });
  await refuses(
    'q 0 d 1\nq 0 e 1\nq 0 d 0\n',
    /line 3: judges document "d" of query "q" as 0, an earlier line as 1/,
  );
});

test('other lines are refused with what they should be', async () => {
  await refuses('q 0 d 0.9\n', /line 1: has the grade "0\.9"; a grade is a whole number/);
  await refuses('q 0 d 1\nq d\n', /line 2: has 2 columns; a line of judgements has 4/);
  await refuses('q 0 d relevant\n', /line 1: has the grade "relevant"/);
  await refuses('q\t\t1\n', /line 1: has no id of a query or document/);
  await refuses('\n', /holds no judgement/);
  await refuses('{"query-id": "q", "score": 1}\n', /line 1: has no "corpus-id"/, 'bad.jsonl');
  await assert.rejects(
    readQrels(join(folder, 'none')),
    /none: no such file; give the path of a file of judgements/,
  );
});

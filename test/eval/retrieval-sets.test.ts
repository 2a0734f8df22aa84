import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readDocuments } from '../../src/datasets/documents.ts';
import { readQrels } from '../../src/datasets/qrels.ts';
import { readQueries } from '../../src/datasets/questions.ts';
import { readRunFile } from '../../src/eval/run-files.ts';

// A collection as beir, ir_datasets and pyserini write it: scripts/fixtures/retrieval_sets.py. That script also checks that
// beir reads what scripts/to-beir.ts writes.

const folder = join(import.meta.dirname, '../fixtures/collections');

async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}
const documents = readFileSync(join(folder, 'documents.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as { id: string; title: string; text: string });
const queries = [
  { id: 'q1', question: 'how long is the Osk' },
  { id: 'q2', question: 'who built "the bridge"' },
];
const judgements = async (name: string) =>
  [...(await readQrels(join(folder, name)))].map(([query, judged]) => [query, Object.fromEntries(judged)]);
const run = async (name: string) => Object.fromEntries(await readRunFile(join(folder, name)));

test('what beir writes', async () => {
  assert.deepEqual(await all(readDocuments(join(folder, 'beir'))), documents);
  assert.deepEqual(await all(readQueries(join(folder, 'beir/queries.jsonl'))), queries);
  assert.deepEqual(await judgements('beir/qrels/test.tsv'), [
    ['q1', { a: 1, 'b 2': 0 }],
    ['q2', { 'b 2': 2 }],
  ]);
  // It writes 0 as every rank. Equal scores are in trec_eval's order, by id descending.
  assert.deepEqual(await run('beir/run.trec'), { q1: ['a', 'c', 'b2'], q2: ['b2'] });
});

test('what ir_datasets exports', async () => {
  const expected = documents.map(({ id, title, text }) => ({
    id: id.replace(' ', ''),
    title: '',
    text: `${title}. ${text}`.replace('\t', ' '),
  }));
  // Its tables have no first row of names.
  const columns = { tsv: { id: 1, title: null, text: 2 }, jsonl: undefined };
  for (const form of ['tsv', 'jsonl'] as const) {
    const path = join(folder, `ir_datasets/docs.${form}`);
    assert.deepEqual(await all(readDocuments(path, 'auto', columns[form])), expected);
    assert.deepEqual(await all(readQueries(join(folder, `ir_datasets/queries.${form}`))), queries);
  }
  for (const form of ['trec', 'jsonl'])
    assert.deepEqual(await judgements(`ir_datasets/qrels.${form}`), [
      ['q1', { a: 1, b2: 0 }],
      ['q2', { b2: 2 }],
    ]);
});

test('the results that pyserini writes', async () => {
  assert.deepEqual(await run('pyserini/run.trec'), { q1: ['a', 'c', 'b2'], q2: ['b2'] });
  // Without scores, the order is that of the ranks.
  assert.deepEqual(await run('pyserini/run.msmarco'), { q1: ['a', 'b2', 'c'], q2: ['b2'] });
});

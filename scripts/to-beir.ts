/**
 * Turns documents and questions that name their documents into a folder of BEIR's form: corpus.jsonl, queries.jsonl and
 * qrels/test.tsv.
 *
 *   npx tsx scripts/to-beir.ts DOCUMENTS QUESTIONS FOLDER [LAST [STEP]]
 *
 * With LAST only the last documents, and the questions about these; with STEP every so many-th of them. A query's id is q
 * and the question's number: beir leaves out a document whose id is the query's.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readDocuments } from '../src/datasets/documents.ts';
import { readQuestions } from '../src/datasets/questions.ts';
import type { Document } from '../src/datasets/types.ts';

const [documentsPath, questionsPath, folder, last, step = '1'] = process.argv.slice(2);
if (folder === undefined) {
  console.error('npx tsx scripts/to-beir.ts DOCUMENTS QUESTIONS FOLDER [LAST [STEP]]');
  process.exit(2);
}
let documents: Document[] = [];
for await (const document of readDocuments(documentsPath)) documents.push(document);
if (last !== undefined) documents = documents.slice(-Number(last));
const ids = new Set(documents.map(({ id }) => id));
const questions = (await readQuestions(questionsPath))
  .map((question, i) => ({ ...question, id: `q${i + 1}` }))
  .filter(({ passageId }) => passageId !== undefined && ids.has(passageId))
  .filter((_, i) => i % Number(step) === 0);

const lines = (objects: readonly object[]) => objects.map((object) => `${JSON.stringify(object)}\n`).join('');
mkdirSync(join(folder, 'qrels'), { recursive: true });
writeFileSync(
  join(folder, 'corpus.jsonl'),
  lines(documents.map(({ id, title, text }) => ({ _id: id, title, text, metadata: {} }))),
);
writeFileSync(
  join(folder, 'queries.jsonl'),
  lines(questions.map(({ id, question }) => ({ _id: id, text: question, metadata: {} }))),
);
writeFileSync(
  join(folder, 'qrels', 'test.tsv'),
  `query-id\tcorpus-id\tscore\n${questions.map(({ id, passageId }) => `${id}\t${passageId}\t1\n`).join('')}`,
);
console.log(
  `${folder}: ${documents.length} documents, ${questions.length} queries with one judged document each`,
);

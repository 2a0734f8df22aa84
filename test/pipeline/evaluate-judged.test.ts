import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { judgedLines } from '../../src/commands/judged-lines.ts';
import type { Interval } from '../../src/eval/statistics.ts';
import { scoreRunFile } from '../../src/pipeline/evaluate-judged.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('judged-eval');
let said = '';
before(() => {
  mock.method(process.stderr, 'write', (line: string) => {
    said += line;
    return true;
  });
});
const file = (name: string, ...lines: string[]) => {
  writeFileSync(join(folder, name), `${lines.join('\n')}\n`);
  return join(folder, name);
};
const refuses = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));

const qrels = file('qrels', 'q1 0 a 1', 'q1 0 b 0', 'q2 0 c 2', 'q2 0 d 1', 'q3 0 a 0', 'q4 0 a 1');
const run = file(
  'run.trec',
  'q1 Q0 b 0 2 me',
  'q1 Q0 a 0 3 me',
  'q2 Q0 x 0 9 me',
  'q2 Q0 c 0 8 me',
  'q3 Q0 a 0 1 me',
  'q9 Q0 a 0 1 me',
);

test('a file of results: means over all judged queries, with what counts as 0 and what is left out', async () => {
  said = '';
  const judged = await scoreRunFile(run, qrels);
  const value = (name: string) => (judged.figures[run][name] as Interval).value;
  assert.equal(judged.queries, 4);
  assert.equal(value('MRR'), (1 + 1 / 2 + 0 + 0) / 4);
  assert.equal(value('recall@5'), (1 + 1 / 2) / 4);
  const gained = 2 / Math.log2(3) / (2 + 1 / Math.log2(3));
  assert.ok(Math.abs(value('nDCG@10') - (1 + gained) / 4) < 1e-12);
  assert.deepEqual([judged.withoutRelevant, judged.missing[run], judged.differences], [1, 1, []]);
  assert.match(said, /qrels: 1 queries have no relevant document; they count as 0/);
  assert.match(said, /run\.trec: has no results for 1 judged queries; they count as 0/);
  assert.match(said, /run\.trec: 1 queries have no judgement and are left out/);
  assert.doesNotMatch(said, /same ids/);
});

test('two files are compared measure by measure, and written query by query', async () => {
  const other = file('other.json', '{"q1": {"a": 1, "b": 2}, "q2": {"c": 1}, "q4": {"a": 0.5}}');
  const perQuery = join(folder, 'queries.jsonl');
  const judged = await scoreRunFile(run, qrels, { against: other, perQuery });
  const [{ system, against, measures }] = judged.differences;
  assert.deepEqual([system, against], [run, other]);
  // Reciprocal ranks 1, 1/2, 0, 0 against 1/2, 1, 0, 1: differences 1/2, -1/2, 0, -1.
  const { difference, better, worse, pValue, questions } = measures.MRR;
  assert.deepEqual([questions, better, worse, difference.value], [4, 1, 2, -1 / 4]);
  assert.equal(pValue, 6 / 8, 'the sum of ±1/2, ±1/2, ±1 is at least 1 in 6 of 8 cases');
  const lines = readFileSync(perQuery, 'utf8').trimEnd().split('\n');
  const read = lines.map((line) => JSON.parse(line));
  assert.equal(read.length, 8);
  assert.deepEqual(
    read.filter((line) => line.system === other).map(({ query, MRR }) => [query, MRR]),
    [
      ['q1', 0.5],
      ['q2', 1],
      ['q3', 0],
      ['q4', 1],
    ],
  );
  const printed = judgedLines(judged).join('\n');
  assert.match(printed, /^MRR +0\.3750 {2}\(0\.\d{3} to \d\.\d{3}\) +0\.6250/m);
  assert.match(printed, /^MRR +−0\.2500 {2}\([−+]\d\.\d{4} to [−+]\d\.\d{4}\) +1 +2 +0\.75$/m);
});

test('files that do not belong together, or cannot be read, are refused with the place', async () => {
  const run1 = (...lines: string[]) => file('bad.trec', ...lines);
  await refuses(
    scoreRunFile(run1('q7 Q0 a 0 1 me'), qrels),
    /bad\.trec: has results for none of the queries/,
  );
  await refuses(
    scoreRunFile(run1('q1 Q0 a 1 me'), qrels),
    /line 1: is not a line "qid Q0 docid rank score tag"/,
  );
  await refuses(
    scoreRunFile(run1('q1 Q0 a 1 nan me'), qrels),
    /line 1: has the score "nan", which is not a number/,
  );
  await refuses(
    scoreRunFile(run1('q1 Q0 a 1 2 me', 'q1 Q0 a 2 1 me'), qrels),
    /has document "a" twice for query "q1"/,
  );
  await refuses(scoreRunFile(run1(), qrels), /holds no line of a run/);
  await refuses(scoreRunFile(file('list.json', '[]'), qrels), /expected \{query: \{document: score\}\}/);
  await refuses(
    scoreRunFile(file('text.json', '{"q1": {"a": "1"}}'), qrels),
    /has the score "1" in query "q1"/,
  );
  await refuses(scoreRunFile(file('run.lz4', ''), qrels), /save the run again, as \.json or \.trec/);
  await refuses(scoreRunFile(run, qrels, { against: run }), /is the same file as/);
  await refuses(scoreRunFile(run, qrels, { perQuery: qrels }), /name another with --per-query FILE/);
  said = '';
  await scoreRunFile(run1('q1 Q0 other-ids 1 1 me'), qrels);
  assert.match(
    said,
    /no document that it found is judged in .*qrels; check that both name documents by the same ids/,
  );
});

test('ids that a TREC run encodes are found in the judgements; ids with a % sign stay as they are', async () => {
  const names = file('beir.tsv', 'query-id\tcorpus-id\tscore', 'q 1\ta b\t1', 'q2\t50%25\t1', 'q3\tx%20y\t1');
  const encoded = file('encoded.trec', 'q%201 Q0 a%20b 1 1 me', 'q2 Q0 50%25 1 1 me', 'q3 Q0 x%20y 1 1 me');
  const judged = await scoreRunFile(encoded, names);
  assert.equal((judged.figures[encoded].MRR as Interval).value, 1);
});

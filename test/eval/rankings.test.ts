import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { firstWithAnswer } from '../../src/eval/evaluate.ts';
import { rankingMetrics } from '../../src/eval/metric-table.ts';
import {
  dprRanks,
  passageId,
  type RankingFormat,
  rankingWriter,
  readTrecRun,
} from '../../src/eval/rankings.ts';
import { distinctScores } from '../../src/eval/run-files.ts';
import type { Interval } from '../../src/eval/statistics.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('rankings');
const write = (name: string, content: string) => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};

/** Blocks as [document, text]; the title is the document's id in capitals. */
function corpusOf(blocks: readonly [string, string][]): Corpus {
  return {
    blocks: blocks.length,
    documents: new Set(blocks.map(([document]) => document)).size,
    documentId: (b: number) => blocks[b][0],
    title: (b: number) => blocks[b][0].toUpperCase(),
    text: (b: number) => blocks[b][1],
  } as Corpus;
}
const corpus = corpusOf([
  ['osk', 'The Osk is a river.'],
  ['a b%', 'Vell was founded in 1812.'],
  ['a b%', 'It trades in salt.'],
  ['drost', 'Drost trades with Vell.'],
]);
const asked = (question: string, answers: string[], id?: string) => ({
  question,
  ...(id === undefined ? {} : { id }),
  answers,
  answerKind: 'string' as const,
});
const questions = [
  asked('Who trades?', ['drost']),
  asked('When?', ['1812'], 'q 2'),
  asked('What?', ['gold']),
];
const blocks = [
  [2, 3],
  [1, 2, 0],
  [0, 1],
];
const scores = [
  [2.5, 1],
  [3, 2, 1],
  [1, 0.5],
];

function written(format: RankingFormat): string {
  let text = '';
  const writer = rankingWriter(corpus, { format, protocol: 'dpr' }, (more) => {
    text += more;
  });
  questions.forEach((question, i) => {
    writer.add({
      question,
      number: i + 1,
      blocks: blocks[i],
      scores: scores[i],
      ...(i === 0 ? { answer: 'Drost' } : {}),
    });
  });
  writer.end();
  return text;
}

test("DPR's format, written and read", async () => {
  const list = JSON.parse(written('dpr'));
  assert.equal(list.length, 3);
  assert.deepEqual(list[0], {
    question: 'Who trades?',
    answers: ['drost'],
    ctxs: [
      { id: 'a b%#1', title: 'A B%', text: 'It trades in salt.', score: '2.5', has_answer: false },
      { id: 'drost#0', title: 'DROST', text: 'Drost trades with Vell.', score: '1', has_answer: true },
    ],
  });
  const file = write('dpr.json', written('dpr'));
  const read = await dprRanks(file, questions, 'dpr');
  assert.deepEqual(read, { ranks: [1, 0, Infinity], depth: 3, missing: 0, others: 0 });
  const fewer = await dprRanks(file, [asked('New?', ['x']), questions[1]], 'dpr');
  assert.deepEqual(fewer, { ranks: [Infinity, 0], depth: 3, missing: 1, others: 2 });
  // The texts decide, by the given answers; without texts, the file's "has_answer".
  const other = await dprRanks(file, [asked('Who trades?', ['salt'])], 'dpr');
  assert.deepEqual(other.ranks, [0]);
  const bare = list.map(({ ctxs, ...rest }: { ctxs: { text?: string }[] }) => ({
    ...rest,
    ctxs: ctxs.map(({ text: _, ...ctx }) => ctx),
  }));
  const found = await dprRanks(
    write('bare.jsonl', bare.map((b: object) => JSON.stringify(b)).join('\n')),
    questions,
    'dpr',
  );
  assert.deepEqual(found.ranks, [1, 0, Infinity]);
});

test('a question that occurs twice is judged by its own answers each time', async () => {
  const ctxs = [{ text: 'It trades in salt.' }, { text: 'Drost trades with Vell.' }];
  const file = write('twice.json', JSON.stringify([{ question: 'Who?', ctxs }]));
  const read = await dprRanks(file, [asked('Who?', ['drost']), asked('Who?', ['salt'])], 'dpr');
  assert.deepEqual(read, { ranks: [1, 0], depth: 2, missing: 0, others: 0 });
});

test('a TREC run, written and read; white space in an id does not split it', async () => {
  const text = written('trec');
  assert.equal(
    text,
    [
      '1 Q0 a%20b%25#1 1 2.5 realm',
      '1 Q0 drost#0 2 1 realm',
      'q%202 Q0 a%20b%25#0 1 3 realm',
      'q%202 Q0 a%20b%25#1 2 2 realm',
      'q%202 Q0 osk#0 3 1 realm',
      '3 Q0 osk#0 1 1 realm',
      '3 Q0 a%20b%25#0 2 0.5 realm',
      '',
    ].join('\n'),
  );
  const back = await readTrecRun(write('run.trec', text), corpus, questions);
  assert.deepEqual(back, blocks);
  const turned = text.trimEnd().split('\n').slice(0, 5).reverse().join('\n').replaceAll(' ', '\t');
  assert.deepEqual(await readTrecRun(write('turned.trec', turned), corpus, questions), [
    ...blocks.slice(0, 2),
    [],
  ]);
});

test('a TREC run is read by its scores, as trec_eval does; its ranks and the order of its lines do not count', async () => {
  const lines = ['1 Q0 osk#0 0 3.5 x', '1 Q0 drost#0 0 2.5 x', '1 Q0 a%20b%25#0 0 9.5 x'];
  const read = async (text: string[]) =>
    (await readTrecRun(write('zero.trec', text.join('\n')), corpus, questions))[0];
  assert.deepEqual(await read(lines), [1, 0, 3]);
  assert.deepEqual(await read(lines.toReversed()), [1, 0, 3]);
  assert.deepEqual(
    await read(lines.map((line) => line.replace(/\d\.5/, '1'))),
    [0, 3, 1],
    'equal scores: by id, greatest first',
  );
});

test('a written run has distinct scores in 32 bits, so that no tool can order it otherwise', () => {
  assert.deepEqual([...distinctScores([3, 2, 2, 2, 1])], [3, 2, 2 - 2 ** -23, 2 - 2 ** -22, 1]);
  const zeros = distinctScores([0, 0, 0]);
  assert.deepEqual([...zeros], [0, -(2 ** -149), -(2 ** -148)]);
  assert.deepEqual([...distinctScores([-1, -1])], [-1, -1 - 2 ** -23]);
  const close = distinctScores([1 + 1e-9, 1, 1 - 1e-9]);
  assert.ok(close[0] > close[1] && close[1] > close[2]);
});

test("KILT's format names each document once", () => {
  const [first, second, third] = written('kilt')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(first, {
    id: '1',
    input: 'Who trades?',
    output: [
      {
        answer: 'Drost',
        provenance: [
          { wikipedia_id: 'a b%', title: 'A B%' },
          { wikipedia_id: 'drost', title: 'DROST' },
        ],
      },
    ],
  });
  assert.deepEqual(
    second.output[0].provenance.map((p: { wikipedia_id: string }) => p.wikipedia_id),
    ['a b%', 'osk'],
  );
  assert.equal(second.id, 'q 2');
  assert.ok(!('answer' in third.output[0]));
});

test('a block has the id of its document if every document is one block', () => {
  assert.equal(passageId(corpus, 2), 'a b%#1');
  assert.equal(
    passageId(
      corpusOf([
        ['7', 'x'],
        ['8', 'y'],
      ]),
      1,
    ),
    '8',
  );
});

test('documents of a run that are not in the corpus keep their places', async () => {
  const path = write('more.trec', '1 Q0 gone 1 9 other\n1 Q0 osk#0 2 8 other\n1 Q0 empty 3 7 other\n');
  assert.deepEqual((await readTrecRun(path, corpus, questions))[0], [-1, 0, -1]);
  assert.equal(firstWithAnswer(corpus, [-1, 0], { answers: [corpus.text(0)], answerKind: 'string' }), 1);
  assert.equal(firstWithAnswer(corpus, [-1], { answers: [corpus.text(0)], answerKind: 'string' }), Infinity);
});

test('files in another format, or for other questions and documents, are refused', async () => {
  const refuses = (promise: Promise<unknown>, message: RegExp) =>
    assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
  const trec = (text: string) => readTrecRun(write('bad.trec', text), corpus, questions);
  await refuses(trec('1 Q0 osk#0 1 1 realm\n1 Q0 osk#0 1\n'), /bad\.trec: line 2: is not a line "qid Q0/);
  await refuses(
    trec('9 Q0 osk#0 1 1 realm\n'),
    /line 1: names question "9", which is not in the file of questions/,
  );
  await refuses(trec('1 Q0 osk#7 1 1 realm\n'), /names document "osk#7", which is not in the run's corpus/);
  const dpr = (list: unknown) => dprRanks(write('bad.json', JSON.stringify(list)), questions, 'dpr');
  await refuses(dpr([{ question: 'When?' }]), /bad\.json: element 1 .*has "ctxs" nothing/);
  await refuses(dpr([{ question: 'When?', ctxs: [{ id: '1' }] }]), /neither "text" nor "has_answer"/);
});

test('recall and mean reciprocal rank by hand', () => {
  const metrics = rankingMetrics([0, 3, Infinity, 9], [1, 5, 20], 1);
  const value = (name: string) => (metrics[name] as Interval).value;
  assert.deepEqual([value('recall@1'), value('recall@5'), value('recall@20')], [0.25, 0.5, 0.75]);
  assert.ok(Math.abs(value('mrr') - (1 + 1 / 4 + 0 + 1 / 10) / 4) < 1e-12);
});

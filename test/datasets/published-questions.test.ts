import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { readDocuments } from '../../src/datasets/documents.ts';
import { leftOutQuestions, readQueries, readQuestionFile } from '../../src/datasets/questions.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Questions in the forms that others publish. Each input has the form of its source with words of its own.

const folder = temporaryFolder('published');
const lines = (...values: unknown[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
}
const read = (content: string | Uint8Array, name = 'questions.jsonl') =>
  readQuestionFile(write(name, content));
async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}
const question = (question: string, ...answers: string[]) => ({ question, answers, answerKind: 'string' });

test("rows of the Hub: SQuAD's and TriviaQA's answers are objects", async () => {
  const squad = lines(
    {
      id: '5733',
      title: 'Osk_(river)',
      context: 'The Osk is 40 km long.',
      question: 'How long is the Osk?',
      answers: { text: ['40 km', '40 km', 'forty'], answer_start: [11, 11, 0] },
    },
    { id: '5734', context: 'x', question: 'Who dug it?', answers: { text: [], answer_start: [] } },
  );
  const { questions, unanswerable } = await read(squad);
  assert.deepEqual(questions, [{ ...question('How long is the Osk?', '40 km', 'forty'), id: '5733' }]);
  assert.equal(unanswerable, 1);
  const trivia = lines(
    {
      question: 'Which river passes Bel?',
      question_id: 'tc_9',
      answer: {
        aliases: ['River Osk', 'The Osk'],
        normalized_aliases: ['river osk'],
        value: 'Osk',
        type: 'X',
      },
    },
    { question: 'Which one?', question_id: 'tc_10', answer: { aliases: [], value: '<unk>' } },
  );
  const found = await read(trivia);
  assert.deepEqual(found.questions, [
    { ...question('Which river passes Bel?', 'Osk', 'River Osk', 'The Osk'), id: 'tc_9' },
  ]);
  assert.equal(found.unanswerable, 1, "the test set's <unk> is no answer");
});

test('FlashRAG, PopQA and Tevatron', async () => {
  assert.deepEqual(
    (
      await read(
        lines(
          { id: 'test_0', question: 'who', golden_answers: ['Ada'], metadata: {} },
          { id: 4, question: 'what', possible_answers: '["poet", "writer"]', obj: 'poet' },
          {
            query_id: '17',
            query: 'when',
            answers: ['1949'],
            positive_passages: [{ docid: 'p3', title: 'T', text: 'in 1949' }],
            negative_passages: [{ docid: 'p8', title: 'T', text: 'in 1950' }, { docid: 9 }],
          },
        ),
      )
    ).questions,
    [
      { ...question('who', 'Ada'), id: 'test_0' },
      { ...question('what', 'poet', 'writer'), id: '4' },
      { ...question('when', '1949'), id: '17', passageId: 'p3', negativeIds: ['p8', '9'] },
    ],
  );
  // Tevatron's MS MARCO has passages and no answers.
  const marco = lines({
    query_id: '1',
    query: 'q',
    positive_passages: [{ docid: '7' }],
    negative_passages: [],
  });
  assert.equal((await read(marco)).unanswerable, 1);
});

test('MRQA: a header, then contexts with their questions', async () => {
  const file = lines(
    { header: { dataset: 'NaturalQuestionsShort', split: 'dev' } },
    {
      id: '',
      context: 'The Osk rises in Bel.',
      qas: [
        {
          qid: 'ab1',
          question: 'where does the osk rise',
          answers: ['Bel', 'in Bel'],
          detected_answers: [{ text: 'Bel', char_spans: [[17, 19]], token_spans: [[4, 4]] }],
        },
      ],
    },
    { context: 'Dro is a town.', qas: [{ qid: 'ab2', question: 'what is dro', answers: ['town'] }] },
  );
  const path = write('NaturalQuestionsShort.jsonl.gz', gzipSync(file));
  assert.deepEqual((await readQuestionFile(path)).questions, [
    { ...question('where does the osk rise', 'Bel', 'in Bel'), id: 'ab1', passageId: '0' },
    { ...question('what is dro', 'town'), id: 'ab2', passageId: '1' },
  ]);
  assert.deepEqual(await all(readDocuments(path)), [
    { id: '0', title: '', text: 'The Osk rises in Bel.' },
    { id: '1', title: '', text: 'Dro is a town.' },
  ]);
});

test('Natural Questions in its three forms: short answers, yes or no, and none', async () => {
  const token = (token: string, html_token = false) => ({ token, html_token, start_byte: 0, end_byte: 1 });
  const short = (start_token: number, end_token: number) => ({ start_token, end_token });
  const annotation = (yes_no_answer: string, ...short_answers: object[]) => ({
    annotation_id: 1,
    long_answer: short(0, 6),
    short_answers,
    yes_no_answer,
  });
  const tokens = ['<P>', 'Opened', 'May', '1', ',', '<B>', '1949', '</B>'];
  const ask = (n: number, ...annotations: object[]) => ({
    example_id: n,
    question_text: `q${n}`,
    annotations,
  });
  const asked = [
    ask(1, annotation('NONE', short(2, 8)), annotation('NONE', short(6, 7)), annotation('NONE', short(2, 7))),
    ask(2, annotation('YES'), annotation('NONE')),
    ask(3, annotation('NONE')),
    ask(4, annotation('NO'), annotation('NONE', short(3, 4))),
  ];
  const expected = {
    questions: [
      { ...question('q1', 'May 1 , 1949', '1949'), id: '1' },
      { ...question('q4', '1'), id: '4' },
    ],
    unanswerable: 1,
    yesNo: 1,
    blankAnswers: 0,
  };
  const original = asked.map((one) => ({
    ...one,
    document_html: '',
    document_tokens: tokens.map((text) => token(text, text.startsWith('<'))),
  }));
  assert.deepEqual(await read(lines(...original)), expected);
  const simplified = asked.map((one) => ({ ...one, document_text: tokens.join(' ') }));
  assert.deepEqual(await read(lines(...simplified)), expected);
  const spans = (...text: string[]) => ({
    text,
    start_token: text.map(() => 0),
    end_token: text.map(() => 1),
  });
  const row = (n: number, yes_no_answer: number[], ...short_answers: object[]) => ({
    id: String(n),
    question: { text: `q${n}`, tokens: ['q'] },
    document: { title: 'T', html: '' },
    annotations: { id: ['1'], long_answer: [{}], short_answers, yes_no_answer },
  });
  const hub = [
    row(1, [-1, -1], spans('May 1 , 1949'), spans('1949', 'May 1 , 1949')),
    row(2, [1, -1], spans(), spans()),
    row(3, [-1], spans()),
    row(4, [0, -1], spans(), spans('1')),
  ];
  const found = await read(lines(...hub));
  assert.deepEqual(found, expected);
  assert.equal(
    leftOutQuestions(found),
    'read 4 questions, kept 2, left out 1 without an answer, 1 with a yes or no as the answer',
  );
  await assert.rejects(
    read(lines({ ...ask(5, annotation('NONE', short(8, 9))), document_text: 'a b' })),
    (error) =>
      error instanceof UserError && /line 1: has a short answer .* not in the words/.test(error.message),
  );
});

test('answers without a visible character are dropped and counted, from any format', async () => {
  const blank = { question: 'q', answers: ['', ' \u200b\n', 'A'] };
  const found = await read(lines(blank, { question: 'r', answers: ['\t'] }, { question: 's', answer: null }));
  assert.deepEqual(found.questions, [question('q', 'A')]);
  assert.equal(found.unanswerable, 2);
  assert.equal(found.blankAnswers, 3);
  const kilt = lines({ id: '1', input: 'who', output: [{ answer: '', provenance: [] }, { answer: 'B' }] });
  assert.deepEqual((await read(kilt)).questions, [{ ...question('who', 'B'), id: '1' }]);
  const table = await read("question,answer\nwho,\"['', 'A']\"\n", 'blank.csv');
  assert.deepEqual(table.questions, [question('who', 'A')]);
});

test('queries without answers: BEIR, MS MARCO, and any file of questions', async () => {
  const queries = (name: string, content: string) => all(readQueries(write(name, content)));
  assert.deepEqual(
    await queries(
      'queries.jsonl',
      lines({ _id: '1', text: 'is it so', metadata: {} }, { _id: 'b', text: 'x' }),
    ),
    [
      { id: '1', question: 'is it so' },
      { id: 'b', question: 'x' },
    ],
  );
  const expected = [
    { id: '1048585', question: "what is paula deen's brother" },
    { id: '2', question: 'Androgen receptor define' },
  ];
  const rows = "1048585\twhat is paula deen's brother\n2\tAndrogen receptor define\n";
  assert.deepEqual(await queries('queries.dev.small.tsv', rows), expected);
  assert.deepEqual(
    await queries('named.tsv', `query_id\ttext\n${rows}`.replace('query_id', 'qid')),
    expected,
  );
  assert.deepEqual(await queries('nq-test.qa.csv', "who is it\t['A']\n"), [
    { question: 'who is it', answers: ['A'], answerKind: 'string' },
  ]);
  assert.deepEqual(
    await queries('q.jsonl', lines({ id: 'k', question: 'who' }, { id: '2', input: 'when' })),
    [
      { id: 'k', question: 'who' },
      { id: '2', question: 'when', answers: [], answerKind: 'string' },
    ],
  );
  await assert.rejects(
    read(lines({ _id: '1', text: 'is it so' })),
    (error) =>
      error instanceof UserError && /line 1: is a query without answers, as BEIR/.test(error.message),
  );
});

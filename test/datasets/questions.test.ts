import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { parsePythonList } from '../../src/datasets/formats/python-list.ts';
import { readQuestionFile, readQuestions } from '../../src/datasets/questions.ts';
import { isDevQuestion } from '../../src/datasets/resplit.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('qa');

function read(content: string | Uint8Array, name = 'questions.jsonl', kind?: 'string' | 'regex') {
  writeFileSync(join(folder, name), content);
  return readQuestions(join(folder, name), kind);
}
async function refuses(content: string | Uint8Array, message: RegExp, name?: string) {
  await assert.rejects(
    read(content, name),
    (error) => error instanceof UserError && message.test(error.message),
  );
}
const question = (question: string, ...answers: string[]) => ({ question, answers, answerKind: 'string' });

test('reads questions, their answers, and the passage if it is named', async () => {
  const lines =
    '{"question": "who", "answer": ["A", "B"], "passage_id": "p1"}\n{"question": "when", "answers": ["1990"]}\n{"question": "x", "answer": "y"}\n';
  const expected = [
    { ...question('who', 'A', 'B'), passageId: 'p1' },
    question('when', '1990'),
    question('x', 'y'),
  ];
  assert.deepEqual(await read(lines), expected);
  assert.deepEqual(await read(gzipSync(lines), 'questions.jsonl.gz'), expected);
});

test('an error in a line names its file and number', async () => {
  await refuses(
    '{"question": "who", "answer": ["A"]}\n{"question": "who"}',
    /line 2: "answer" must be a list/,
  );
  await refuses('{"question": "who", "answer": []}', /holds no question with an answer/);
  await refuses('{"question": "who", "answer": [1]}', /line 1: "answer"/);
  await refuses('{"answer": ["A"]}', /line 1: has no "question"/);
  await refuses('no JSON', /line 1: is not valid JSON/);
  await refuses('\n', /holds no question/);
  await refuses('not gzip', /is not a complete gzip file/, 'questions.jsonl.gz');
  await assert.rejects(readQuestions(join(folder, 'none')), /none: no such file/);
});

test('regular expressions are recognised by the name, the lines, the look or the setting', async () => {
  // Lines of DrQA's CuratedTrec files.
  const lines =
    '{"question": "When is Fashion week in NYC?", "answer": ["Sept?(ember)?|Feb(ruary)?"]}\n{"question": "What is the most populated country in the world?", "answer": ["China"]}\n';
  const kinds = async (...of: Parameters<typeof read>) => (await read(...of)).map((q) => q.answerKind);
  assert.deepEqual(await kinds(lines, 'CuratedTrec-train.txt'), ['regex', 'regex']);
  assert.deepEqual(await kinds(lines, 'renamed.jsonl'), ['regex', 'regex']);
  assert.deepEqual(await kinds(lines, 'renamed.jsonl', 'string'), ['string', 'string']);
  const plain = lines.replace(/"Sept.*"\]/, '"September"]');
  assert.deepEqual(await kinds(plain, 'renamed.jsonl'), ['string', 'string']);
  assert.deepEqual(await kinds(plain, 'curatedtrec.test.half.jsonl'), ['regex', 'regex']);
  assert.deepEqual(await kinds(plain, 'renamed.jsonl', 'regex'), ['regex', 'regex']);
  assert.deepEqual(
    await kinds(plain.replace('"question"', '"answer_kind": "regex", "question"'), 'x.jsonl'),
    ['regex', 'string'],
  );
  await refuses(
    '{"question": "a", "answer": ["b"], "answer_kind": "x"}',
    /has "answer_kind" "x"; it must be/,
  );
});

test("DPR's questions in rows of a question and a Python list", async () => {
  // Rows of nq-test.qa.csv, trivia-test.qa.csv (quoted, since they hold quotes) and curatedtrec-test.qa.csv.
  const rows = [
    "who got the first nobel prize in physics\t['Wilhelm Conrad Röntgen']",
    'Who was the man behind The Chipmunks?\t"[""David Seville"", \'David Seville (character)\', ""It\'s""]"',
    'who’s there\t[\'a\', "b", ]',
  ];
  assert.deepEqual(await read(`${rows.join('\n')}\n`, 'nq-test.qa.csv'), [
    question('who got the first nobel prize in physics', 'Wilhelm Conrad Röntgen'),
    question('Who was the man behind The Chipmunks?', 'David Seville', 'David Seville (character)', "It's"),
    question("who's there", 'a', 'b'),
  ]);
  assert.deepEqual(await read("Where from?\t['Long Island|New\\\\s?York']\n", 'curatedtrec-test.qa.csv'), [
    { question: 'Where from?', answers: ['Long Island|New\\s?York'], answerKind: 'regex' },
  ]);
  await refuses("q\t['a'\n", /bad\.csv: line 1: is not a question, a tab and a list of answers/, 'bad.csv');
  await refuses('q,"a"\n', /bad\.csv: line 1: is not a question, a tab/, 'bad.csv');
});

test('questions of a table are read by the names of its columns', async () => {
  const expected = [
    { ...question('Who built it, and when?', 'Ada Vance'), id: '1' },
    { ...question('Which river?', 'Osk', 'River Osk'), id: '2' },
  ];
  const csv =
    'id,question,answer\n1,"Who built it, and when?",Ada Vance\n2,Which river?,"[\'Osk\', \'River Osk\']"\n';
  assert.deepEqual(await read(csv, 'named.csv'), expected);
  const tsv =
    'Answers\tqid\tQuery\r\nAda Vance\t1\tWho built it, and when?\r\n["Osk", "River Osk"]\t2\tWhich river?\r\n';
  assert.deepEqual(await read(tsv, 'named.tsv'), expected);
  const passage = 'question,answer,passage_id\nWho?,Ada,d7\nNobody?,,d8\n';
  assert.deepEqual(await read(passage, 'passage.csv'), [{ ...question('Who?', 'Ada'), passageId: 'd7' }]);
  await refuses(
    'question,reply\na,b\n',
    /line 1: has no column "answer", only "question", "reply"/,
    'bad.csv',
  );
  await refuses('question,answer\na, b, c\n', /line 2: has 3 cells, but the header has 2/, 'bad.csv');
  await refuses(
    'Who?,Ada\n',
    /a list of answers such as .* or add a first row of names such as question,answer/,
    'bad.csv',
  );
});

test('questions in a file of another kind are refused with a remedy', async () => {
  await refuses('PAR1\x15', /is not a complete Parquet file/, 'questions.parquet');
  await refuses('PAR1\x15', /is a Parquet file under another name/, 'questions.jsonl');
});

test('lists of strings as Python writes them', () => {
  assert.deepEqual(parsePythonList(String.raw`['it\'s', "\x63af\xe9", u'\u0142\U0001F600', '\\s\s\n\101']`), [
    "it's",
    'café',
    'ł😀',
    '\\s\\s\nA',
  ]);
  assert.deepEqual(parsePythonList(' [ ] '), []);
  for (const text of ["'a'", "['a' 'b']", "['a'] ['b']", "['a", '[1]', "['a'];", '[', ''])
    assert.equal(parsePythonList(text), undefined, text);
});

test('WebQuestions as published', async () => {
  const list = JSON.stringify([
    {
      url: 'http://www.freebase.com/view/en/justin_bieber',
      targetValue: '(list (description "Jazmyn Bieber") (description "Jaxon Bieber"))',
      utterance: 'what is the name of justin bieber brother?',
    },
    { url: 'x', targetValue: '(list (description "Padm\u00e9 Amidala"))', utterance: 'what character?' },
    { url: 'x', targetValue: '(list (description Lawyer))', utterance: 'what job?' },
  ]);
  assert.deepEqual(await read(list, 'webquestions.examples.train.json'), [
    question('what is the name of justin bieber brother?', 'Jazmyn Bieber', 'Jaxon Bieber'),
    question('what character?', 'Padmé Amidala'),
    question('what job?', 'Lawyer'),
  ]);
});

test('TriviaQA with its aliases', async () => {
  const file = JSON.stringify(
    {
      Data: [
        {
          Answer: {
            Aliases: ['Park Grove (1895)', 'York UA', 'York'],
            MatchedWikiEntityName: 'York',
            NormalizedAliases: ['york ua'],
            NormalizedValue: 'york',
            Type: 'WikipediaEntity',
            Value: 'York',
          },
          EntityPages: [],
          Question: 'Where in England was Dame Judi Dench born?',
          QuestionId: 'tc_3',
          SearchResults: [{ Description: 'a } in a "string" [', Rank: 0 }],
        },
      ],
      Domain: 'unfiltered-web',
      VerifiedEval: false,
      Version: 1,
    },
    null,
    4,
  );
  assert.deepEqual(await read(file, 'unfiltered-web-dev.json'), [
    {
      ...question('Where in England was Dame Judi Dench born?', 'York', 'Park Grove (1895)', 'York UA'),
      id: 'tc_3',
    },
  ]);
});

test('a SQuAD file without titles, whose questions name the same passages as its documents', async () => {
  const paragraph = (context: string, text: string) => ({
    qas: [{ question: `What is ${text}?`, id: 12, answers: [{ answer_id: 1, text, answer_start: 0 }] }],
    context,
  });
  const data = [
    { paragraphs: [paragraph('Osk.', 'Osk')] },
    { paragraphs: [paragraph('Bel.', 'Bel'), paragraph('Dro.', 'Dro')] },
  ];
  writeFileSync(join(folder, 'no-title.json'), JSON.stringify({ data }));
  const { questions } = await readQuestionFile(join(folder, 'no-title.json'));
  assert.deepEqual(
    questions.map(({ question, id, passageId }) => [question, id, passageId]),
    [
      ['What is Osk?', '12', '0#0'],
      ['What is Bel?', '12', '1#0'],
      ['What is Dro?', '12', '1#1'],
    ],
  );
});

test('SQuAD; unanswerable questions are left out and counted', async () => {
  const qa = (question: string, ...answers: string[]) => ({
    id: '56be',
    question,
    answers: answers.map((text) => ({ text, answer_start: 3 })),
    is_impossible: answers.length === 0,
  });
  const file = {
    version: 'v2.0',
    data: [
      {
        title: 'Normans',
        paragraphs: [
          { context: 'a', qas: [qa('In what country?', 'France', 'France'), qa('Who gave?')] },
          { context: 'b', qas: [qa('When?', '10th', 'the 10th')] },
        ],
      },
    ],
  };
  writeFileSync(join(folder, 'dev-v2.0.json'), JSON.stringify(file));
  assert.deepEqual(await readQuestionFile(join(folder, 'dev-v2.0.json')), {
    questions: [
      { ...question('In what country?', 'France'), id: '56be', passageId: 'Normans#0' },
      { ...question('When?', '10th', 'the 10th'), id: '56be', passageId: 'Normans#1' },
    ],
    unanswerable: 1,
    yesNo: 0,
    blankAnswers: 0,
  });
});

test("DPR's training file, with the passages that it names", async () => {
  const ctx = { title: 'T', text: 'a ] } "', score: 1000, title_score: 1, passage_id: '7' };
  const newer = { title: 'T', text: 'b', score: 9, psg_id: 12 };
  const list = [
    {
      dataset: 'nq_train_psgs_w100',
      question: 'who’s big',
      answers: ['A', 'B'],
      positive_ctxs: [ctx, newer],
      negative_ctxs: [ctx],
      hard_negative_ctxs: [],
    },
    {
      question: 'when',
      answers: ['C'],
      positive_ctxs: [],
      hard_negative_ctxs: [newer, { title: 'T', text: 'no id' }, ctx],
    },
  ];
  const expected = [
    { ...question("who's big", 'A', 'B'), passageId: '7' },
    { ...question('when', 'C'), negativeIds: ['12', '7'] },
  ];
  const name = 'biencoder-nq-train.json';
  assert.deepEqual(await read(JSON.stringify(list), name), expected);
  assert.deepEqual(await read(gzipSync(JSON.stringify(list, null, 4)), `${name}.gz`), expected);
});

test("KILT's questions", async () => {
  const lines =
    '{"id": "1", "input": "who", "output": [{"answer": "A", "provenance": [{"wikipedia_id": "3"}]}, {"answer": "A"}, {"provenance": []}]}\n{"id": "2", "input": "none"}\n';
  assert.deepEqual(await read(lines), [{ ...question('who', 'A'), id: '1' }]);
  await refuses('{"id": "tc_3", "input": "", "output": []}', /get_triviaqa_input\.py fills in the questions/);
});

test('an error in a JSON file names its element', async () => {
  await refuses(
    '[{"question": "a", "answer": ["b"]}, {"question": }]',
    /x\.json: element 2 \(line 1\): is not valid JSON/,
    'x.json',
  );
  await refuses('[{"question": "a", "answer": ["b"]}', /x\.json: the JSON is not complete/, 'x.json');
  await refuses('[{"question": "a"}]', /x\.json: element 1 \(line 1\): "answer" must be/, 'x.json');
  await refuses('"text"', /x\.json: line 1: is not one JSON list or object/, 'x.json');
  await refuses('[}', /x\.json: line 1: is not one JSON list/, 'x.json');
  await refuses('', /x\.json: line 1: is not one JSON list/, 'x.json');
  await refuses(`[{"question": "${'x'.repeat(17 << 20)}`, /element 1: is longer than 16 MiB/, 'x.json');
});

test("ORQA's dev questions", () => {
  // The only ones of the first 40 questions of WebQuestions that fall in its dev set: 361 of all 3,778, as published.
  for (const question of [
    'what two countries invaded poland in the beginning of ww2?',
    'what books did beverly cleary right?',
    'who is the prime minister of ethiopia?',
  ])
    assert.equal(isDevQuestion(question), true);
  assert.equal(isDevQuestion('what is the name of justin bieber brother?'), false);
  assert.equal(isDevQuestion('what character did natalie portman play in star wars?'), false);
});

test('a file that is not text, or that unpacks to far too much, is refused', async () => {
  const line = '{"question": "who", "answer": ["A"]}\n';
  await refuses(Buffer.from(`${line}{"question": "caf\xe9"}\n`, 'latin1'), /line 2: is not UTF-8 text/);
  await refuses('{"question": "who", "answer": ["\\ud800"]}', /line 1: holds \\ud800/);
  await refuses(gzipSync(Buffer.alloc(80 << 20)), /line 1: is longer than 16 MiB/, 'questions.jsonl.gz');
  const long = `{"question": "${'x'.repeat(1 << 20)}", "answer": ["A"]}\n`;
  await refuses(
    gzipSync(long.repeat(140)),
    /holds more than 128 MiB of questions; split it/,
    'questions.jsonl.gz',
  );
  assert.equal((await read(line.repeat(20_000))).length, 20_000);
});

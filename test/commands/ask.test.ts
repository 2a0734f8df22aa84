import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, mock, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { answeredLines, ask, askLines, painter } from '../../src/commands/ask-lines.ts';
import { EXTRA_DOCUMENTS_LIMIT, readExtraDocuments } from '../../src/eval/extra-documents.ts';
import type { Context } from '../../src/pipeline/context.ts';
import type { AnsweredQuestion } from '../../src/pipeline/qa-session.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

const folder = temporaryFolder('ask');
let main: Context;
let questions: string[];
let said = '';
before(async () => {
  mock.method(process.stderr, 'write', (line: string) => {
    said += line;
    return true;
  });
  const { context, world } = await tunedRun(folder);
  main = context;
  questions = world.test.slice(0, 5).map(({ question }) => question);
});
after(() => mock.restoreAll());

/** A conversation over streams; `isTTY` makes the input a terminal. */
function conversation(json: boolean, isTTY = false) {
  const input = Object.assign(new PassThrough(), { isTTY });
  const output = new PassThrough();
  const answered = askLines(main, { input, output, json }).finally(() => output.end());
  return { input, output, answered };
}

const answersOf = (asked: AnsweredQuestion) => asked.answers.map(({ answer, title }) => [answer, title]);

test('lines of standard input are answered in their order, one JSON document each', async () => {
  const { input, output, answered } = conversation(true);
  const out = text(output);
  input.end(`${questions[0]}\n\n  ${questions[1]} \r\n${questions.slice(2).join('\n')}`);
  assert.equal(await answered, questions.length);
  const lines = (await out).trimEnd().split('\n');
  const asked: AnsweredQuestion[] = lines.map((line) => JSON.parse(line));
  assert.deepEqual(
    asked.map(({ question }) => question),
    questions,
  );
  for (const [i, question] of questions.entries())
    assert.deepEqual(answersOf(asked[i]), answersOf(await ask(main, question)));
});

test('a line is answered without waiting for the next', async () => {
  const { input, output, answered } = conversation(true);
  const lines = output[Symbol.asyncIterator]();
  for (const question of questions.slice(0, 3)) {
    input.write(`${question}\n`);
    const { value } = await lines.next();
    assert.equal(JSON.parse(String(value)).question, question);
  }
  input.end();
  assert.equal(await answered, 3);
});

test('more lines than are held come through', async () => {
  const { input, output, answered } = conversation(true);
  const out = text(output);
  const many = Array.from({ length: 700 }, (_, i) => `Who wrote number ${i}?`);
  input.end(`${many.join('\n')}\n`);
  assert.equal(await answered, 700);
  const asked = (await out).trimEnd().split('\n');
  assert.deepEqual(
    asked.map((line) => JSON.parse(line).question),
    many,
  );
});

test('at a prompt a mistake is told and the next question answered', async () => {
  const { input, output, answered } = conversation(false, true);
  const out = text(output);
  said = '';
  input.end(`${questions[0]}\n\n\u00ad\n${questions[1]}\n`);
  assert.equal(await answered, 2);
  const paint = painter(output);
  const [first, second] = await Promise.all(questions.slice(0, 2).map((question) => ask(main, question)));
  // No terminal takes the answers: prompts and what is typed are kept out of them.
  const expected = [first, second].map((asked) => `${answeredLines(asked, paint).join('\n')}\n\n`);
  assert.equal(await out, expected.join(''));
  assert.match(said, /\? /);
  assert.match(said, /realm: a question has no letter or digit; write it as text/);
});

test('a line without a letter or digit is refused with its number, and the lines before it are answered', async () => {
  const { input, output, answered } = conversation(true);
  const out = text(output);
  input.end(`${questions[0]}\n\n${questions[1]}\n???\n${questions[2]}\n`);
  await assert.rejects(
    answered,
    (error) =>
      error instanceof UserError &&
      /^-: line 4: a question has no letter or digit; write it as text/.test(error.message),
  );
  const asked: AnsweredQuestion[] = (await out)
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    asked.map(({ question }) => question),
    questions.slice(0, 2),
  );
});

const ASKED: AnsweredQuestion = {
  question: 'Where was Orla Venn born?',
  answers: [
    {
      answer: 'Quenfell',
      probability: 0.5,
      retrieval: 0.75,
      reading: 0.9,
      title: 'Orla Venn',
      document: '7',
      before: 'Orla Venn was born in ',
      after: ' in 1912.',
    },
    {
      answer: '1912',
      probability: 0.125,
      retrieval: 0.25,
      reading: 0.5,
      title: '',
      document: 'notes.txt',
      before: 'In ',
      after: '.',
      extraDocument: true,
    },
  ],
  nullProbability: 0.031,
  retrievalUtility: 2.345,
  truncated: true,
};

test('an answer is shown in its passage, with what led to it', () => {
  assert.deepEqual(
    answeredLines(ASKED, (answer) => `<${answer}>`),
    [
      'Quenfell',
      '',
      '  Orla Venn: Orla Venn was born in <Quenfell> in 1912.',
      '  p(z|x) 75.0 %   p(y|z,x) 90.0 %   in all 50.0 %',
      '  null document 3.1 %   retrieval utility 2.35 nats',
      '  the question is longer than text.questionTokens: its end was not read',
      '',
      'also read:',
      '  1912 (notes.txt (extra document); p(z|x) 25.0 %, p(y|z,x) 50.0 %, in all 12.5 %)',
    ],
  );
  const { nullProbability: _, retrievalUtility: _u, truncated: _c, ...rest } = ASKED;
  const few = answeredLines({ ...rest, answers: ASKED.answers.slice(0, 1) }, String);
  assert.equal(few.length, 4);
  assert.match(answeredLines({ ...rest, answers: [] }, String)[0], /no block was retrieved/);
});

test('the answer is bold and underlined on a terminal with colours, in brackets elsewhere', () => {
  const stream = (isTTY: boolean, colours: boolean) =>
    Object.assign(new PassThrough(), { isTTY, hasColors: () => colours });
  assert.equal(painter(stream(true, true))('1912'), '\u001b[1;4m1912\u001b[0m');
  assert.equal(painter(stream(true, false))('1912'), '[1912]');
  assert.equal(painter(stream(false, true))('1912'), '[1912]');
  assert.equal(painter(new PassThrough())('1912'), '[1912]');
});

test('--documents is a file of documents in any format, or a text', async () => {
  const document = { id: 'orla', title: 'Orla Venn', text: 'Orla Venn was born in Quenfell.' };
  const file = (name: string, content: string | Buffer) => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  const line = `${JSON.stringify(document)}\n`;
  assert.deepEqual(await readExtraDocuments(file('book.jsonl.gz', gzipSync(line))), [document]);
  assert.deepEqual(
    await readExtraDocuments(file('book.tsv', `id\ttext\ttitle\norla\t${document.text}\tOrla Venn\n`)),
    [document],
  );
  assert.deepEqual(await readExtraDocuments(file('Orla Venn.txt', document.text)), [
    { ...document, id: 'Orla Venn.txt' },
  ]);
  const refused = (told: RegExp) => (error: unknown) =>
    error instanceof UserError && told.test(error.message);
  await assert.rejects(readExtraDocuments(join(folder, 'none.jsonl')), refused(/none\.jsonl: no such file/));
  const long = line.replace('Quenfell', 'x'.repeat(EXTRA_DOCUMENTS_LIMIT >> 1));
  await assert.rejects(
    readExtraDocuments(file('long.jsonl', long.repeat(3))),
    refused(/long\.jsonl: more than/),
  );
  await assert.rejects(
    readExtraDocuments(file('long.txt', 'x'.repeat(EXTRA_DOCUMENTS_LIMIT))),
    refused(/long\.txt: more than/),
  );
  for (const name of ['empty.jsonl', 'empty.txt']) {
    await assert.rejects(
      ask(main, 'Who?', { documents: file(name, '\n') }),
      refused(new RegExp(`${name}: holds no document with text`)),
    );
  }
  const streams = { input: new PassThrough(), output: new PassThrough(), json: false };
  await assert.rejects(
    askLines(main, streams, { documents: '-' }),
    refused(/^--documents -: standard input/),
  );

  const { answers } = await ask(main, 'Where was Orla Venn born?', { documents: join(folder, 'book.tsv') });
  for (const answer of answers.filter(({ extraDocument }) => extraDocument))
    assert.equal(answer.document, 'orla');
});

test('the command answers an argument or its standard input, and says where neither brings a question', async () => {
  const realm = (stdin: string, ...args: string[]) => {
    const bin = join(import.meta.dirname, '../../bin/realm');
    const child = spawn(process.execPath, [
      bin,
      'ask',
      '--run',
      main.run.dir,
      '--engine',
      main.engine,
      ...args,
    ]);
    child.stdin.end(stdin);
    const code = new Promise<number | null>((resolve) => child.on('close', resolve));
    return Promise.all([code, text(child.stdout), text(child.stderr)]);
  };
  const config = readFileSync(main.run.config, 'utf8');
  const expected = await ask(main, questions[0]);
  const [one, piped, none] = await Promise.all([
    realm('', '--json', questions[0]),
    realm(`${questions[0]}\n`, '--json', '--set', 'qa.readerBlocks=1'),
    realm('\n'),
  ]);
  assert.equal(one[0], 0, one[2]);
  const asked: AnsweredQuestion = JSON.parse(one[1]);
  assert.deepEqual(Object.keys(asked), ['question', 'answers', 'nullProbability', 'retrievalUtility']);
  assert.deepEqual(answersOf(asked), answersOf(expected));
  assert.equal(piped[0], 0, piped[2]);
  assert.equal(JSON.parse(piped[1]).answers.length, 1);
  assert.deepEqual([none[0], none[1]], [2, '']);
  assert.match(none[2], /realm: -: no question came on standard input/);
  assert.equal(
    readFileSync(main.run.config, 'utf8'),
    config,
    'what --set says counts for that command alone',
  );
});

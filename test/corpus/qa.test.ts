import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { readQuestions } from '../../src/corpus/qa.ts';
import { UserError } from '../../src/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'qa-'));
after(() => rmSync(folder, { recursive: true }));

function read(content: string | Uint8Array, name = 'questions.jsonl') {
  writeFileSync(join(folder, name), content);
  return readQuestions(join(folder, name));
}
function refuses(content: string | Uint8Array, message: RegExp, name?: string) {
  assert.throws(
    () => read(content, name),
    (error) => error instanceof UserError && message.test(error.message),
  );
}

test('reads questions, their answers and the passage where it is told', () => {
  const lines =
    '{"question": "who", "answer": ["A", "B"], "passage_id": "p1"}\n{"question": "when", "answers": ["1990"]}\n{"question": "x", "answer": "y"}\n';
  const expected = [
    { question: 'who', answers: ['A', 'B'], passageId: 'p1' },
    { question: 'when', answers: ['1990'] },
    { question: 'x', answers: ['y'] },
  ];
  assert.deepEqual(read(lines), expected);
  assert.deepEqual(read(gzipSync(lines), 'questions.jsonl.gz'), expected);
});

test('a bad line is told by file and number', () => {
  refuses('{"question": "who", "answer": ["A"]}\n{"question": "who"}', /line 2: "answer" must be a list/);
  refuses('{"question": "who", "answer": []}', /line 1: "answer" must be a list of one or more/);
  refuses('{"question": "who", "answer": [1]}', /line 1: "answer"/);
  refuses('{"answer": ["A"]}', /line 1: has no "question"/);
  refuses('nonsense', /line 1: is not JSON/);
  refuses('\n', /holds no question/);
  refuses('not gzip', /is not a whole gzip file/, 'questions.jsonl.gz');
  assert.throws(() => readQuestions(join(folder, 'none')), /none: no such file/);
});

test('what is no text, or unpacks to more than questions can be, is refused', () => {
  const line = '{"question": "who", "answer": ["A"]}\n';
  refuses(Buffer.from(`${line}{"question": "caf\xe9"}\n`, 'latin1'), /line 2: is not UTF-8 text/);
  refuses('{"question": "who", "answer": ["\\ud800"]}', /line 1: holds \\ud800/);
  refuses(
    gzipSync(Buffer.alloc(80 << 20)),
    /unpacks to more than 64 MiB; .* unpack it/,
    'questions.jsonl.gz',
  );
  assert.equal(read(line.repeat(20_000)).length, 20_000);
});

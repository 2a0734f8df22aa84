import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { matchPredictions, readPredictions } from '../../src/eval/predictions.ts';
import type { Interval } from '../../src/eval/statistics.ts';
import { scorePredictions } from '../../src/pipeline/evaluate-answers.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Four questions; in every format below the first two are right, the third is wrong, and the fourth is missing or empty.

const folder = temporaryFolder('predictions');
const write = (name: string, content: string) => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
const lines = (objects: unknown[]) => objects.map((object) => `${JSON.stringify(object)}\n`).join('');

const WHO = ['who wrote it', 'where is it', 'when was it', 'who found it'];
const RIGHT = [['Ann Osk', 'A. Osk'], ['the Vell'], ['1812'], ['Drost']];
const SAID = ['ann osk', 'Vell', '1813'];
let plain: string;
let squad: string;
let kilt: string;
before(() => {
  mock.method(process.stderr, 'write', () => true);
  plain = write('questions.jsonl', lines(WHO.map((question, i) => ({ question, answer: RIGHT[i] }))));
  const qas = WHO.map((question, i) => ({
    id: `q${i}`,
    question,
    answers: RIGHT[i].map((text) => ({ text, answer_start: 0 })),
  }));
  squad = write(
    'squad.json',
    JSON.stringify({ data: [{ title: 'T', paragraphs: [{ context: 'c', qas }] }] }),
  );
  const output = (i: number) => RIGHT[i].map((answer) => ({ answer }));
  kilt = write('kilt.jsonl', lines(WHO.map((input, i) => ({ id: `k${i}`, input, output: output(i) }))));
});

const value = (metric: unknown) => (metric as Interval).value;

for (const [form, name, content, asked] of [
  [
    "ORQA's lines",
    'orqa.jsonl',
    () => lines(SAID.map((prediction, i) => ({ question: WHO[i], prediction }))),
    () => plain,
  ],
  [
    'our lines, with answers',
    'ours.jsonl',
    () =>
      lines(
        [...SAID, ''].map((prediction, i) => ({
          question: WHO[i],
          answers: RIGHT[i],
          answerKind: 'string',
          prediction,
        })),
      ),
    () => undefined,
  ],
  ["SQuAD's", 'by-id.json', () => JSON.stringify({ q2: SAID[2], q1: SAID[1], q0: SAID[0] }), () => squad],
  [
    "KILT's",
    'guess.jsonl',
    () => lines(SAID.map((answer, i) => ({ id: `k${i}`, input: '', output: [{ answer, provenance: [] }] }))),
    () => kilt,
  ],
  [
    "DrQA's, a list of spans a line",
    'pipeline.preds',
    () =>
      lines([
        ...SAID.map((span) => [
          { doc_id: 'd', span, doc_score: 1, span_score: 2 },
          { doc_id: 'e', span: 'Drost', doc_score: 1, span_score: 1 },
        ]),
        [],
      ]),
    () => plain,
  ],
  [
    "DPR's reader, of which the most passages count",
    'dpr.json',
    () =>
      JSON.stringify(
        [...SAID, ''].map((text, i) => ({
          question: WHO[i],
          gold_answers: RIGHT[i],
          predictions: [
            { top_k: 10, prediction: { text: 'no', score: 1, passage_idx: 0, passage: 'p' } },
            { top_k: 50, prediction: { text, score: 1, passage_idx: 0, passage: 'p' } },
            { top_k: 20, prediction: { text: 'no', score: 1, passage_idx: 0, passage: 'p' } },
          ],
        })),
        null,
        4,
      ),
    () => undefined,
  ],
] as [string, string, () => string, () => string | undefined][]) {
  test(`predictions in ${form}`, async () => {
    const result = await scorePredictions(write(name, content()), { questions: asked(), protocol: 'orqa' });
    assert.equal(result.questions, 4);
    assert.equal(value(result.figures.exactMatch), 0.5);
    assert.equal(value(result.figures.f1), 0.5);
    assert.deepEqual(
      result.questionWords.map(({ name, questions, exactMatch }) => [name, questions, exactMatch.value]),
      [
        ['who', 2, 0.5],
        ['when', 1, 0],
        ['where', 1, 1],
      ],
    );
  });
}

test('two files of predictions are compared question by question, on those that both have', async () => {
  const first = write('first.jsonl', lines(SAID.map((prediction, i) => ({ question: WHO[i], prediction }))));
  const all = ['x', 'Vell', '1812', 'Drost'].map((prediction, i) => ({ question: WHO[3 - i], prediction }));
  const second = write('second.jsonl', lines(all)); // in a different order: Drost, 1812, Vell, x
  const { against } = await scorePredictions(first, { questions: plain, against: second });
  // First: right, right, wrong, none. Second: wrong, wrong, wrong, wrong.
  assert.deepEqual([against!.questions, against!.better, against!.worse, against!.pValue], [3, 2, 0, 0.5]);
  assert.equal(against!.difference.value, 2 / 3);
  const turned = await scorePredictions(second, { questions: plain, against: first });
  assert.deepEqual([turned.against!.questions, turned.against!.better, turned.against!.worse], [3, 0, 2]);
  assert.equal(turned.against!.difference.value, -2 / 3);
  const overlap = await scorePredictions(first, { questions: plain, against: second }, 'f1');
  assert.equal(overlap.against!.difference.value, 2 / 3);
});

test('regular expressions are matched and have no F1; ORQA counts a question once, with its last answers', async () => {
  const questions = write(
    'curatedtrec.jsonl',
    lines([
      { question: 'when', answer: ['Feb(ruary)?'] },
      { question: 'when', answer: ['Sept?(ember)?'] },
      { question: 'who', answer: ['Ann.*'] },
    ]),
  );
  const predictions = write(
    'trec.jsonl',
    lines([
      { question: 'when', prediction: 'September 2004' },
      { question: 'who', prediction: 'by Ann' },
    ]),
  );
  const score = async (protocol: 'orqa' | 'dpr') => {
    const { questions: n, figures } = await scorePredictions(predictions, { questions, protocol });
    return [n, value(figures.exactMatch), figures.f1];
  };
  assert.deepEqual(await score('orqa'), [2, 0.5, undefined]); // anchored at the start
  const [asked] = await score('dpr');
  assert.equal(asked, 3);
});

test("with ORQA's protocol the last prediction of a question counts, also when matched by order, and in a file with its own answers", async () => {
  const asked = [WHO[0], WHO[1], WHO[0]];
  const answers = [['x'], ['Vell'], ['Osk']];
  const questions = write(
    'twice.jsonl',
    lines(asked.map((question, i) => ({ question, answer: answers[i] }))),
  );
  const drqa = write('twice.drqa.jsonl', lines(['y', 'Vell', 'Osk'].map((span) => [{ span }])));
  const own = write(
    'twice.own.jsonl',
    lines(asked.map((question, i) => ({ question, answers: answers[i], prediction: ['x', 'z', 'osk'][i] }))),
  );
  const score = async (file: string, protocol: 'orqa' | 'dpr', asked?: string) => {
    const scored = await scorePredictions(file, { questions: asked, protocol, against: file });
    return [scored.questions, value(scored.figures.exactMatch), scored.against!.questions];
  };
  assert.deepEqual(await score(drqa, 'orqa', questions), [2, 1, 2]);
  assert.deepEqual(await score(drqa, 'dpr', questions), [3, 2 / 3, 3]);
  assert.deepEqual(await score(own, 'orqa'), [2, 0.5, 2]);
});

test('ORQA counts a question once, also in a file that has its own answers', async () => {
  const file = write(
    'own-twice.jsonl',
    lines([
      { question: 'who', prediction: 'Ann', answers: ['Ann'] },
      { question: 'who', prediction: 'Ann', answers: ['Osk'] },
      { question: 'where', prediction: 'Vell', answers: ['Vell'] },
    ]),
  );
  const score = async (protocol: 'orqa' | 'dpr') => {
    const { questions, figures } = await scorePredictions(file, { protocol });
    return [questions, value(figures.exactMatch)];
  };
  assert.deepEqual(await score('orqa'), [2, 0.5]);
  assert.deepEqual(await score('dpr'), [3, 2 / 3]);
});

test('files that are not predictions, or for other questions, are refused', async () => {
  const refuses = (content: string, name: string, questions: string | undefined, message: RegExp) =>
    assert.rejects(
      scorePredictions(write(name, content), { questions }),
      (error) => error instanceof UserError && message.test(error.message),
    );
  const good = '{"question": "who wrote it", "prediction": "x"}\n';
  await refuses(`${good}{"answer": "x"}\n`, 'a.jsonl', plain, /a\.jsonl: line 2: is not a prediction/);
  await refuses(
    `${good}[{"span": "x"}]\n`,
    'a.jsonl',
    plain,
    /line 2: has another format than the lines before/,
  );
  await refuses(`${good}{"question": 3, "prediction": "x"}\n`, 'a.jsonl', plain, /line 2: has "question" 3/);
  await refuses(`${good}"x"\n`, 'a.jsonl', plain, /line 2: is not a JSON object/);
  await refuses('', 'a.jsonl', plain, /holds no predictions/);
  await refuses(good, 'a.jsonl', undefined, /holds no right answers; give the questions/);
  await refuses('{"question": "what", "prediction": "x"}', 'a.jsonl', plain, /for any of the 4 questions/);
  await refuses('[{"span": "x"}]\n', 'a.preds', plain, /has 1 lines for 4 questions/);
  await refuses('{"id": "k0", "output": []}', 'a.jsonl', plain, /the file of questions has no ids/);
  await refuses('{"output": []}', 'a.jsonl', plain, /has no "id"/);
  await refuses('{"q0": ["x"]}', 'a.json', squad, /the prediction of "q0" is \["x"\]/);
  await refuses('{"q0": [{"text": "x"}]}', 'a.json', squad, /is not a prediction of DPR's reader/);
  await refuses('{}', 'a.json', squad, /holds no predictions/);
  await assert.rejects(readPredictions(join(folder, 'none.jsonl')), /none\.jsonl: no such file/);
  await assert.rejects(
    scorePredictions(write('a.jsonl', good), { questions: plain, against: folder }),
    (error) => error instanceof UserError && /holds no predictions\.jsonl; make it with/.test(error.message),
  );
});

test('a later prediction for a question replaces an earlier one, and predictions for other questions are counted', async () => {
  const file = await readPredictions(
    write(
      'twice.jsonl',
      lines([
        { question: 'a', prediction: 'x' },
        { question: 'b', prediction: 'y' },
        { question: 'a', prediction: 'z' },
      ]),
    ),
  );
  const question = { question: 'a', answers: ['z'], answerKind: 'string' as const };
  const { predictions, others } = matchPredictions(file, [question]);
  assert.deepEqual([predictions, others], [['z'], 1]);
});

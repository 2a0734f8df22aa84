import assert from 'node:assert/strict';
import { test } from 'node:test';
import { byQuestionWord, bySeenAnswer, questionWord } from '../../src/eval/breakdown.ts';
import {
  compare,
  mcnemar,
  mean,
  meanInterval,
  randomisationTest,
  ratioInterval,
} from '../../src/eval/statistics.ts';
import { random } from '../../src/random.ts';

const near = (actual: number, expected: number, tolerance = 1e-12) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual}, not ${expected}`);

test("McNemar's exact test, by hand and against the normal approximation", () => {
  near(mcnemar(0, 0), 1);
  near(mcnemar(1, 0), 1); // 2 · 1/2
  near(mcnemar(5, 0), 2 / 32);
  near(mcnemar(1, 6), (2 * (1 + 7)) / 128);
  near(mcnemar(6, 1), mcnemar(1, 6));
  near(mcnemar(3, 3), 1); // 2 · (1 + 6 + 15 + 20) / 64 is more than 1
  near(mcnemar(2, 8), (2 * (1 + 10 + 45)) / 1024);
  // z = (|b − c| − 1) / √(b + c) = 97 / √2498 = 1.9408 with the usual correction: p = 0.0523.
  near(mcnemar(1200, 1298), 0.0523, 2e-4);
  near(mcnemar(20000, 20000), 1, 0.01); // beyond the range of doubles without logarithms
});

test('bootstrap interval: seeded, around the mean, with the theoretical width', () => {
  const rng = random(1);
  const values = Float32Array.from({ length: 400 }, () => (rng.float() < 0.3 ? 1 : 0));
  const p = mean(values);
  const { low, high } = meanInterval(values, 5);
  assert.deepEqual(meanInterval(values, 5), { value: p, low, high });
  assert.notDeepEqual(meanInterval(values, 6), { value: p, low, high });
  const half = 1.96 * Math.sqrt((p * (1 - p)) / 400);
  assert.ok(
    Math.abs(p - low - half) < 0.15 * half && Math.abs(high - p - half) < 0.15 * half,
    `${low} ${p} ${high}`,
  );
  assert.deepEqual(meanInterval([2, 2], 1), { value: 2, low: 2, high: 2 });
  assert.deepEqual(meanInterval([], 1), { value: 0, low: 0, high: 0 });
  assert.equal(mean([]), 0);
});

test('two systems on the same questions', () => {
  const first = [1, 1, 1, 0, 1, 0, 1, 1];
  const second = [1, 0, 0, 0, 0, 1, 1, 0];
  const { questions, difference, better, worse, pValue } = compare(first, second, 1);
  assert.deepEqual([questions, better, worse], [8, 4, 1]);
  near(difference.value, 3 / 8);
  near(pValue!, (2 * (1 + 5)) / 32);
  assert.ok(difference.low <= 3 / 8 && difference.high >= 3 / 8);
  assert.equal(compare([0.5, 1], [0, 1], 1).pValue, undefined, 'F1 is not just right or wrong');
  assert.deepEqual(compare(first, first, 1).difference, { value: 0, low: 0, high: 0 });
});

test('a paired interval is narrower than two unpaired ones, with the theoretical width', () => {
  const rng = random(4);
  const first = Float32Array.from({ length: 500 }, () => (rng.float() < 0.5 ? 1 : 0));
  const second = first.map((v) => (rng.float() < 0.1 ? 1 - v : v));
  const { difference } = compare(first, second, 2);
  const differences = first.map((v, i) => v - second[i]);
  const variance = differences.reduce((s, d) => s + (d - difference.value) ** 2, 0) / 500;
  const half = 1.96 * Math.sqrt(variance / 500);
  assert.ok(Math.abs((difference.high - difference.low) / 2 - half) < 0.15 * half);
  const unpaired = meanInterval(first, 2);
  assert.ok(unpaired.high - unpaired.low > 1.4 * (difference.high - difference.low));
});

test('a ratio of sums: by hand, and its theoretical interval', () => {
  const { value } = ratioInterval([3, 1], [2, 6], 1);
  near(value, 4 / 8);
  assert.deepEqual(ratioInterval([2, 4], [1, 2], 1), { value: 2, low: 2, high: 2 });
  assert.deepEqual(ratioInterval([], [], 1), { value: 0, low: 0, high: 0 });
  const rng = random(8);
  const values = Array.from({ length: 400 }, () => rng.float());
  // With equal weights it equals the mean and its interval.
  const ratio = ratioInterval(
    values.map((v) => 3 * v),
    values.map(() => 3),
    5,
  );
  const plain = meanInterval(values, 5);
  near(ratio.value, plain.value, 1e-9);
  near(ratio.low, plain.low, 1e-9);
  near(ratio.high, plain.high, 1e-9);
});

test('the question word is the first of them', () => {
  for (const [question, word] of [
    ['Who wrote the book?', 'who'],
    ['whose river is it when it rains', 'who'],
    ['To whom did it go', 'who'],
    ['In which year did it happen', 'which'],
    ["what's the name", 'what'],
    ['how many', 'how'],
    ['Name the city where it is', 'where'],
    ['Is it somewhere', 'other'],
    ['', 'other'],
  ])
    assert.equal(questionWord(question), word, question);
});

test('exact match by question word and by answers seen in training', () => {
  const asked = (question: string, ...answers: string[]) => ({
    question,
    answers,
    answerKind: 'string' as const,
  });
  const questions = [
    asked('who', 'The Osk'),
    asked('when', '1812', 'in 1812'),
    asked('who', 'Vell'),
    asked('name it', 'Drost'),
  ];
  const shown = (parts: ReturnType<typeof byQuestionWord>) =>
    parts.map(({ name, questions, exactMatch }) => [name, questions, exactMatch.value]);
  assert.deepEqual(shown(byQuestionWord(questions, [1, 0, 0, 1], 1)), [
    ['who', 2, 0.5],
    ['when', 1, 0],
    ['other', 1, 1],
  ]);
  const trained = new Set(['osk', 'in 1812', 'salt']);
  assert.deepEqual(shown(bySeenAnswer(questions, trained, [1, 0, 0, 1], 'orqa', 1)), [
    ['seen in training', 2, 0.5],
    ['unseen', 2, 0.5],
  ]);
});

test('paired randomisation test: all exchanges of few questions, drawn ones of many, as SciPy has it', () => {
  // scipy.stats.permutation_test((d,), mean, permutation_type='samples') of SciPy 1.17.1: all exchanges, then 999,999.
  near(randomisationTest([0.3, -0.1, 0.25, 0, 0.6, -0.2, 0.15, 0.4, -0.05, 0.1], 1), 0.109375);
  const many = Array.from({ length: 60 }, (_, i) => (((i * 37) % 101) - 45) / 100);
  near(randomisationTest(many, 1), 0.2397, 0.013); // three standard errors of 10,000 draws
  assert.equal(randomisationTest(many, 1), randomisationTest(many, 1));
  near(randomisationTest([0, 0], 1), 1);
  near(randomisationTest([0.5, 0.5], 1), 1 / 2);
  // Of scores that are 0 or 1 it is McNemar's exact test.
  near(randomisationTest([1, 1, 1, 1, 1, -1, 0], 1), mcnemar(5, 1));
});

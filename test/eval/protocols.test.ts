import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import { f1, isCorrect, PROTOCOLS, type Protocol } from '../../src/answers/metrics.ts';
import type { AnswerKind } from '../../src/datasets/types.ts';

// Predictions of two demo runs, hand-made hard cases and random strings, scored by the published scripts themselves;
// scripts/protocols/score.py made them and explains how. null: the script has no such rule.

interface Case {
  prediction: string;
  answers: string[];
  answerKind?: AnswerKind;
  passages: string[];
  scores: Record<
    Exclude<Protocol, 'mlqa'>,
    { correct: boolean | null; f1: number | null; has: boolean[] | null }
  >;
}

const file =
  process.env.REALM_PROTOCOL_SCORES ??
  new URL('../fixtures/protocols/scores.jsonl.gz', import.meta.url).pathname;
const [, ...cases]: Case[] = gunzipSync(readFileSync(file))
  .toString()
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line));

const SCORED = PROTOCOLS.filter((protocol) => protocol !== 'mlqa');

for (const protocol of SCORED) {
  test(`${protocol}: every score equals that of the published script`, () => {
    const seen = { right: 0, wrong: 0, partly: 0, held: 0, missing: 0 };
    const unlike: unknown[] = [];
    for (const { prediction, answers, answerKind = 'string', passages, scores } of cases) {
      const accepted = { answers, answerKind };
      const { correct, f1: expectedF1, has } = scores[protocol];
      const compare = (what: string, ours: unknown, theirs: unknown) => {
        if (ours !== theirs) unlike.push({ what, prediction, answers, passages, ours, theirs });
      };
      if (correct !== null) {
        compare('correct', isCorrect(prediction, accepted, protocol), correct);
        seen[correct ? 'right' : 'wrong']++;
      }
      if (expectedF1 !== null) {
        compare('f1', f1(prediction, answers, protocol), expectedF1);
        if (expectedF1 > 0 && expectedF1 < 1) seen.partly++;
      }
      has?.forEach((held, i) => {
        compare(`passage ${i}`, hasAnswer(passages[i], accepted, protocol), held);
        seen[held ? 'held' : 'missing']++;
      });
    }
    assert.deepEqual(unlike, []);

    assert.ok(seen.right > 400 && seen.wrong > 250, 'both outcomes are common');
    if (protocol === 'drqa' || protocol === 'hf') assert.ok(seen.partly > 15, 'partial scores occur');
    if (protocol !== 'hf')
      assert.ok(seen.held > 600 && seen.missing > 400, 'passages with and without an answer');
  });
}

test('the protocols differ as the scripts do', () => {
  const by = (
    pick: (s: Case['scores'][keyof Case['scores']]) => unknown,
    a: keyof Case['scores'],
    b: keyof Case['scores'],
  ) =>
    cases
      .filter(({ scores }) => pick(scores[a]) !== null && pick(scores[b]) !== null)
      .filter(({ scores }) => JSON.stringify(pick(scores[a])) !== JSON.stringify(pick(scores[b]))).length;
  for (const [i, a] of SCORED.entries()) {
    for (const b of SCORED.slice(i + 1)) assert.ok(by((s) => s.correct, a, b) > 0, `${a} and ${b}`);
  }
  for (const [a, b] of [
    ['orqa', 'dpr'],
    ['dpr', 'drqa'],
    ['orqa', 'drqa'],
  ] as const) {
    assert.ok(by((s) => s.has, a, b) > 10, `${a} and ${b}`);
  }
});

test("mlqa: every score equals that of MLQA's script, in Chinese and English", () => {
  const scored: { prediction: string; answers: string[]; exactMatch: number; f1: number }[] = readFileSync(
    new URL('../fixtures/protocols/mlqa.jsonl', import.meta.url), // made by scripts/protocols/mlqa.py
    'utf8',
  )
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const seen = { right: 0, partly: 0 };
  for (const { prediction, answers, exactMatch, f1: expected } of scored) {
    const accepted = { answers, answerKind: 'string' as const };
    assert.equal(Number(isCorrect(prediction, accepted, 'mlqa')), exactMatch, `${prediction} ${answers}`);
    assert.equal(f1(prediction, answers, 'mlqa'), expected, `${prediction} ${answers}`);
    seen.right += exactMatch;
    if (expected > 0 && expected < 1) seen.partly++;
  }
  assert.ok(seen.right > 20 && seen.partly > 50);
});

test('mlqa separates the characters of every script without spaces', () => {
  const f = (prediction: string, answer: string) => f1(prediction, [answer], 'mlqa');
  assert.equal(f('カール・バ', 'カールバ'), 1);
  assert.equal(f('กขค', 'กข'), 0.8); // 2 of 3 and 2 of 2
  assert.equal(f('ភ្នំ', 'ភ'), 0); // a letter with its marks is one word
  assert.equal(f('서울특별', '서울'), 0, 'Korean has spaces');
});

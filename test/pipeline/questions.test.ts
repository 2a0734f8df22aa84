import assert from 'node:assert/strict';
import { test } from 'node:test';
import { aboutLongQuestions } from '../../src/pipeline/questions.ts';
import { tinyConfig } from '../support/tiny.ts';

test('questions that are too long for the model are counted, and the message names the setting', () => {
  const config = tinyConfig('text.questionTokens=12');
  const questions = [9, 10, 11, 40].map((length) => ({ ids: new Int32Array(length) }));
  assert.equal(
    aboutLongQuestions(questions, config),
    '2 of 4 questions are longer than text.questionTokens (12); they are truncated',
  );
  assert.equal(aboutLongQuestions(questions.slice(0, 2), config), undefined);
});

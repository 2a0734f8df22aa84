import assert from 'node:assert/strict';
import { test } from 'node:test';
import { aboutLongQuestions } from '../../src/pipeline/questions.ts';
import { tinyConfig } from '../support/tiny.ts';

test('questions that are longer than the model reads them are counted, with the setting', () => {
  const config = tinyConfig('text.questionTokens=12');
  const questions = [9, 10, 11, 40].map((length) => ({ ids: new Int32Array(length) }));
  assert.equal(
    aboutLongQuestions(questions, config),
    '2 of 4 questions are longer than text.questionTokens (12); their ends are not read',
  );
  assert.equal(aboutLongQuestions(questions.slice(0, 2), config), undefined);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withRecentAnswers } from '../../src/serve/recent-answers.ts';

/** Answers in capital letters with the model's name, and a record of what was computed. */
function recorded(most: number) {
  const computed: string[][] = [];
  const ask = withRecentAnswers(most, async (model: { name: string }, questions: readonly string[]) => {
    computed.push([...questions]);
    return questions.map((question) => `${model.name} ${question.toUpperCase()}`);
  });
  return { computed, ask, model: { name: 'one' } };
}

test('a question asked again is answered without computing, in its place', async () => {
  const { computed, ask, model } = recorded(10);
  assert.deepEqual(await ask(model, ['a', 'b']), ['one A', 'one B']);
  assert.deepEqual(await ask(model, ['c', 'a', 'd', 'b']), ['one C', 'one A', 'one D', 'one B']);
  assert.deepEqual(await ask(model, ['a']), ['one A']);
  assert.deepEqual(computed, [
    ['a', 'b'],
    ['c', 'd'],
  ]);
});

test('a question that occurs twice is computed once, also if no answer is kept', async () => {
  const { computed, ask, model } = recorded(0);
  assert.deepEqual(await ask(model, ['a', 'b', 'a']), ['one A', 'one B', 'one A']);
  assert.deepEqual(await ask(model, ['a']), ['one A']);
  assert.deepEqual(computed, [['a', 'b'], ['a']]);
});

test('the answers that were asked for last are kept', async () => {
  const { computed, ask, model } = recorded(2);
  for (const question of ['a', 'b', 'a', 'c', 'a', 'b']) await ask(model, [question]);
  assert.deepEqual(computed.flat(), ['a', 'b', 'c', 'b']);
});

test('another model answers again, and a failure keeps nothing', async () => {
  const { computed, ask, model } = recorded(10);
  await ask(model, ['a']);
  assert.deepEqual(await ask({ name: 'two' }, ['a']), ['two A']);
  assert.deepEqual(computed, [['a'], ['a']]);
  let fails = true;
  const once = withRecentAnswers(10, async (_, questions: readonly string[]) => {
    if (fails) throw new Error('out of memory');
    return questions.map(() => 'answered');
  });
  await assert.rejects(once(model, ['a']), /out of memory/);
  fails = false;
  assert.deepEqual(await once(model, ['a']), ['answered']);
});

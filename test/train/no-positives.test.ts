import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { watchPositives } from '../../src/train/no-positives.ts';

/** What is warned while these steps' metrics are looked at. */
function warnings(steps: number, metrics: Record<string, number>[], first = 0): string[] {
  const said: string[] = [];
  const written = mock.method(process.stderr, 'write', (text: string) => {
    said.push(text);
    return true;
  });
  try {
    const watch = watchPositives(steps);
    metrics.forEach((of, i) => {
      watch(first + i, of);
    });
  } finally {
    written.mock.restore();
  }
  return said.filter((text) => text.includes('nothing is learnt'));
}

const none = { loss: 0, retrieved: 0, read: 0 };
const some = { loss: 1, retrieved: 0.5, read: 0 };

test('a warning once, after ten steps without a positive or at the end of a shorter stage', () => {
  assert.equal(warnings(100, Array(9).fill(none)).length, 0);
  assert.equal(warnings(100, Array(30).fill(none)).length, 1);
  assert.equal(warnings(3, Array(3).fill(none)).length, 1);
  assert.equal(warnings(100, Array(12).fill(none), 50).length, 1, 'also after a stage was resumed');
});

test('no warning where any question of the first steps has an answer in its blocks', () => {
  assert.equal(warnings(100, [...Array(8).fill(none), some, ...Array(30).fill(none)]).length, 0);
  assert.equal(warnings(1, [{ ...none, contrastiveLoss: 2 }]).length, 0);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { wholeLeft } from '../../src/pipeline/demo.ts';

test('the time left of a demo follows from the stages that are done', () => {
  assert.equal(wholeLeft([1, 9, 20, 30], [2]), undefined, 'too little is known');
  assert.equal(wholeLeft([1, 9, 20, 30], [2, 18]), 100); // twice as slow as expected
  assert.equal(wholeLeft([1, 9, 20, 30], [1, 9, 20, 30]), 0);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shown } from '../../src/system/errors.ts';

test('a value in a message is shortened, and replaced by a remark if it is nested too deep, on every version of Node', () => {
  const nested = (levels: number) => JSON.parse('['.repeat(levels) + ']'.repeat(levels));
  assert.equal(shown({ a: [1, null] }), '{"a":[1,null]}');
  assert.equal(shown('x'.repeat(100)), `"${'x'.repeat(39)}…`);
  assert.equal(shown(undefined), 'nothing');
  assert.equal(shown(nested(100)), `${'['.repeat(40)}…`);
  for (const levels of [102, 1000, 50_000])
    assert.equal(shown(nested(levels)), 'something nested too deep to show');
  const circle: unknown[] = [];
  circle.push(circle);
  assert.equal(shown(circle), 'something nested too deep to show');
});

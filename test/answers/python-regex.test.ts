import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Flavour, pythonRegex } from '../../src/answers/python-regex.ts';

// What expressions match is compared with Python's own in protocols.test.ts; here is where they stop.

const taken = (pattern: string, flavour: Flavour) => pythonRegex(pattern, flavour) !== undefined;

test('patterns that a Python module refuses are refused for that module', () => {
  for (const pattern of [
    '(',
    'a)',
    '*a',
    'x**',
    'a{2}{3}',
    'a{3,2}',
    '[a-z',
    '[z-a]',
    '\\',
    '\\q',
    '\\x4',
    '(a)\\2',
  ]) {
    for (const flavour of ['re', 'regex'] as const) assert.equal(taken(pattern, flavour), false, pattern);
  }
  for (const pattern of ['\\p{L}', '(?<name>a)']) {
    assert.equal(taken(pattern, 're'), false, pattern);
    assert.equal(taken(pattern, 'regex'), true, pattern);
  }
});

test('patterns that JavaScript refuses and Python accepts', () => {
  for (const pattern of [
    'a]',
    'a}',
    'a{',
    'a{2',
    'a{,3}',
    'twenty\\-one',
    "\\'",
    '\\£',
    '[]a]',
    '[[a]',
    '[a&&b]',
    '(?P<n>a)(?P=n)',
    '(?i)a',
  ]) {
    for (const flavour of ['re', 'regex'] as const) assert.equal(taken(pattern, flavour), true, pattern);
  }
});

test('the documented differences: patterns that Python accepts and JavaScript cannot express', () => {
  for (const pattern of ['a++', '(?>a)', '(a)?(?(1)b|c)', '(?=a)*', 'a(?i)', '(?x)a b']) {
    assert.equal(taken(pattern, 'regex'), false, pattern);
  }
  for (const pattern of ['\\mcat', '\\X', '[[:alpha:]]', '(?|a|b)', '[a-\\d]']) {
    assert.equal(taken(pattern, 'regex'), false, pattern);
  }
  assert.equal(taken('(?<=a+)b', 're'), true);
});

test('flags: global and sticky', () => {
  assert.deepEqual('cat Cat'.match(pythonRegex('cat', 're', 'g')!), ['cat', 'Cat']);
  assert.equal(pythonRegex('cat', 're', 'y')!.test('a cat'), false);
  assert.equal(pythonRegex('cat', 're')!.test('a cat'), true);
});

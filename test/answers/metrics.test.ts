import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  exactMatch,
  f1,
  isCorrect,
  normalizeAnswer,
  regexMatch,
  regexMatches,
} from '../../src/answers/metrics.ts';
import { UserError } from '../../src/system/errors.ts';

// What Python 3.13 gives for the two published normalisers (`re` after NFD; `regex` without).
const normalised: [text: string, orqa: string, dpr: string][] = [
  ['The Beatles', 'beatles', 'beatles'],
  ['a', '', ''],
  ['An apple a day', 'apple day', 'apple day'],
  ['the U.S. of A.', 'us of', 'us of'],
  ['9/11', '911', '911'],
  ['the_a', 'thea', 'thea'],
  ['  x\t y\n', 'x y', 'x y'],
  ["it's-a me", 'itsa me', 'itsa me'],
  ['Jean-Luc the 2nd', 'jeanluc 2nd', 'jeanluc 2nd'],
  ['a\u2019b \u201ca\u201d', '\u2019b \u201c \u201d', '\u2019b \u201c \u201d'],
  ['caf\u00e9 a\u00e9', 'cafe\u0301 ae\u0301', 'caf\u00e9 a\u00e9'],
  ['\u00e0 la carte', '\u0300 la carte', '\u00e0 la carte'],
  ['a\u0300 la', '\u0300 la', 'a\u0300 la'],
  ['\u4e2da\u4e2d', '\u4e2da\u4e2d', '\u4e2da\u4e2d'],
  // An article is a whole word: a pattern such as "a|an|the" with loose boundaries eats parts of these
  // (EleutherAI/lm-evaluation-harness issue 1303).
  ['Then a man, and another', 'then man and another', 'then man and another'],
  ['theatre', 'theatre', 'theatre'],
  ['Athens', 'athens', 'athens'],
  ['banana the', 'banana', 'banana'],
];
for (const [text, orqa, dpr] of normalised) {
  test(`normalised: ${JSON.stringify(text)}`, () => {
    assert.equal(normalizeAnswer(text, 'orqa'), orqa);
    assert.equal(normalizeAnswer(text, 'dpr'), dpr);
    // DrQA's is DPR's after NFD, that of SQuAD's script is ORQA's without.
    assert.equal(normalizeAnswer(text, 'drqa'), normalizeAnswer(text.normalize('NFD'), 'dpr'));
    assert.equal(normalizeAnswer(text.normalize('NFD'), 'hf'), orqa);
  });
}

test('exact match uses the best answer, and the protocols differ in accents', () => {
  assert.equal(exactMatch('the Eiffel Tower!', ['Louvre', 'eiffel tower'], 'orqa'), true);
  assert.equal(exactMatch('Eiffel', ['Louvre', 'eiffel tower'], 'orqa'), false);
  assert.equal(exactMatch('caf\u00e9', ['cafe\u0301'], 'orqa'), true);
  assert.equal(exactMatch('caf\u00e9', ['cafe\u0301'], 'dpr'), false);
  assert.equal(exactMatch('caf\u00e9', ['cafe'], 'orqa'), false);
  assert.equal(exactMatch('x', [], 'orqa'), false);
});

test('F1 counts shared words as often as both have them', () => {
  assert.equal(f1('the cat sat', ['a cat sat'], 'orqa'), 1);
  assert.equal(f1('cat cat dog', ['cat bird'], 'orqa'), (2 * 1) / (3 + 2));
  assert.equal(f1('cat', ['dog', 'cat dog'], 'orqa'), 2 / 3);
  assert.equal(f1('cat', ['dog'], 'orqa'), 0);
  assert.equal(f1('the', ['a'], 'orqa'), 0);
});

test('regular expressions: orqa and drqa anchor at the start, dpr searches, hf has none; bad patterns never match', () => {
  assert.equal(regexMatch('Mount Everest', ['everest'], 'drqa'), false);
  assert.equal(regexMatch('Everest', ['K2', 'everest'], 'drqa'), true);
  assert.throws(() => regexMatch('Everest', ['everest'], 'hf'), UserError);
  assert.equal(regexMatch('Mount Everest', ['everest'], 'orqa'), false);
  assert.equal(regexMatch('Mount Everest', ['everest'], 'dpr'), true);
  assert.equal(regexMatch('mount everest, Nepal', ['K2', '(Mt\\.?|Mount) Everest'], 'orqa'), true);
  assert.equal(regexMatch('1969', ['19(69|70)$'], 'orqa'), true);
  assert.equal(regexMatch('in\n1969', ['^1969'], 'dpr'), true);
  assert.equal(regexMatch('in\n1969', ['^1969'], 'orqa'), false);
  assert.equal(regexMatch('\u00c9clair', ['\u00e9clair'], 'orqa'), true);
  assert.equal(regexMatch('twenty-one', ['twenty\\-one'], 'orqa'), true);
  assert.equal(regexMatch('(', ['('], 'orqa'), false);
});

test('answers are compared as texts or as regular expressions, according to their kind', () => {
  const answers = ['Sept?(ember)?|Feb(ruary)?'];
  assert.equal(isCorrect('September 2004', { answers, answerKind: 'regex' }, 'orqa'), true);
  assert.equal(isCorrect('September 2004', { answers, answerKind: 'regex' }, 'orqa'), true); // a second time as the first
  assert.equal(isCorrect('in September', { answers, answerKind: 'regex' }, 'orqa'), false);
  assert.equal(isCorrect('in September', { answers, answerKind: 'regex' }, 'dpr'), true);
  assert.equal(isCorrect('September', { answers, answerKind: 'string' }, 'orqa'), false);
  assert.equal(isCorrect('the Alps', { answers: ['Alps'], answerKind: 'string' }, 'orqa'), true);
});

test('the texts that regular expressions match, each once and without white space around it', () => {
  const text = 'In sept 1999 and Sept 2000, not in February.';
  assert.deepEqual(regexMatches(text, ['Sept?(ember)?|Feb(ruary)?', '\\s\\d{4}']), [
    'sept',
    'Sept',
    'February',
    '1999',
    '2000',
  ]);
  assert.deepEqual(regexMatches(text, ['x*', '(']), []);
});

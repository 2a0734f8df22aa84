import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { splitSentences } from '../../../src/corpus/sentences.ts';
import { salientSpans } from '../../../src/corpus/spans/salient-spans.ts';
import { random } from '../../../src/random.ts';
import { NO_TEST_DATA, testData } from '../../support/test-data.ts';

const data = testData('passages.jsonl.gz');

function marked(text: string): string {
  let out = '';
  let at = 0;
  for (const { start, end } of salientSpans(text)) {
    assert.ok(start >= at && end > start, 'in order, not empty, none overlapping');
    out += `${text.slice(at, start)}{${text.slice(start, end)}}`;
    at = end;
  }
  return out + text.slice(at);
}
const finds = (expected: string) => assert.equal(marked(expected.replace(/[{}]/g, '')), expected);

test('people, places, organisations and dates', () => {
  finds('{Marie Curie} moved from {Warsaw} to {Paris} in {1891} and taught at the {University of Paris}.');
  finds('In {May 1970} {AT&T} and {Western Union} left {New York} for the {U.S.}');
  finds('The painter {Vincent van Gogh} and {J. R. R. Tolkien} never met Dr. {Martin Luther King}, Jr.');
});

test('invented names, also at the start of a sentence', () => {
  finds('{Talvora Benik} of {Quenfell} was born in {Drost} in {1812}.');
  finds('{Talvora} founded the {Guild} of {Masons}.');
  finds('{Quenfell} lies on the river {Osk}.');
  finds('{Osk}, a river, runs to {Vell}.');
});

test('an ordinary first word is not a name', () => {
  finds('During the war many people left.');
  finds('Scientists found water.');
  finds('Mountain ranges rise, and Apple trees grow.'.replace('Apple', 'apple'));
  finds('Running is healthy.');
  finds('Many {Americans} came.');
  finds("I've seen it, and I know.");
});

test('a name that starts with an ordinary word', () => {
  finds('{New Haven} is a port.');
  finds('{World War II} ended, like {World War I}.');
});

test('a possessive ends a name and is not part of it', () => {
  finds("{China}'s {Great Wall} is {US}-built.");
});

test('a title is not part of a name, unless it is the name', () => {
  finds('The crowd met Senator {Ida Wells}, Lieutenant Colonel {Drake} and the Secretary.');
  finds('It met the {Secretary of State} in {Drost}.');
});

test('the first word of a quotation is like the first word of a sentence', () => {
  finds('He said: "{Paris} is burning," but "The war is over."');
});

test('a sentence in capitals has no names', () => {
  finds('THE RIVER OF THE NORTH IN {1990}');
  finds('there are no names here');
  finds('');
});

test('real sentences: spans are in order, do not overlap, and have no white space at their ends', {
  skip: !existsSync(data) && NO_TEST_DATA,
}, () => {
  const lines = gunzipSync(readFileSync(data)).toString().trim().split('\n');
  let sentences = 0;
  let withSpan = 0;
  for (let i = 0; i < lines.length; i += 40) {
    const { text } = JSON.parse(lines[i]) as { text: string };
    for (const range of splitSentences(text)) {
      const sentence = text.slice(range.start, range.end);
      const spans = salientSpans(sentence);
      let at = 0;
      for (const { start, end } of spans) {
        assert.ok(start >= at && end <= sentence.length, sentence);
        assert.equal(sentence.slice(start, end), sentence.slice(start, end).trim(), sentence);
        at = end;
      }
      sentences++;
      if (spans.length > 0) withSpan++;
    }
  }
  // Three in four sentences of Wikipedia name something.
  assert.ok(withSpan / sentences > 0.65 && withSpan / sentences < 0.85, `${withSpan} of ${sentences}`);
});

test('random texts give the spans of the regular expression that this code replaced', () => {
  const atoms = [
    ...'AbCde12  .-\'’&éÉ\u0301ßⅣ中_½,"(',
    ...['😀', '𝐀', '\ud800', '\udc00', 'U.S.', 'John', 'of', 'the', ': ', 'al-', 'eBay', "'s", 'May 1970'],
  ];
  const { int, pick } = random(7);
  const hash = createHash('sha256');
  for (let i = 0; i < 20_000; i++) {
    const text = Array.from({ length: 1 + int(14) }, () => pick(atoms)).join('');
    hash.update(JSON.stringify([text, salientSpans(text)]));
  }
  assert.equal(hash.digest('hex'), '5ed38b4e07d1a696440c1d743e33378e97af064a80d58cc8ed8a5883237a1289');
});

test('scripts without capitals: dates, titles of works in their quotes, and names in katakana with dots', () => {
  finds('《{红楼梦}》由曹雪芹于{1791年}出版。');
  finds('{カール・バルト}は『{教会教義学}』を{1932年5月}に書いた。ペンです。');
  finds('{Emperor Taizong} of {Tang} (唐太宗) reigned from {1626年}.');
});

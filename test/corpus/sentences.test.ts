import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { splitSentences } from '../../src/corpus/sentences.ts';

const sentences = (text: string) => splitSentences(text).map(({ start, end }) => text.slice(start, end));
/** Expects a text to be split where `marked` has "|". */
const splits = (marked: string) =>
  assert.deepEqual(sentences(marked.replaceAll('|', ' ')), marked.split('|'));

test('full stops, question and exclamation marks', () => {
  splits('It rained.|Did it stop?|No!|He left.');
  splits('"Why?" he asked.|"Go," she said.|"It is late."|They went.');
});

test('abbreviations before a name do not end a sentence', () => {
  splits('Dr. Ames met Mr. and Mrs. Bell in St. Louis.|Gen. Oak came vs. Prof. Elm.');
});

test('initials do not end a sentence', () => {
  splits('J. R. R. Tolkien and George W. Bush read A.B. Smith.|They liked it.');
});

test('"No." ends a sentence unless a number follows', () => {
  splits('Symphony No. 5 and Fig. 3 are here.|He said no.|She said No.|He left.');
  splits('See Vol. IV and p. 12.|The end.');
});

test('an abbreviation that may end a sentence does so before a word that opens one', () => {
  splits('He lives in the U.S. Army base.|She left the U.S.|The end came at 5 p.m.|It was late.');
  splits('Acme Inc. sold Bolt Co. to Nut Ltd.|In 1990 it closed.');
  splits('World War I.|The war ended.');
});

test('lower case continues a sentence', () => {
  splits('The Yahoo! site and e.g. this one.|Text goes on... and on.');
});

test('a line feed ends a sentence, a list number does not', () => {
  assert.deepEqual(sentences('Heading\nText goes\r\n on.'), ['Heading', 'Text goes', 'on.']);
  splits('1. Introduction is first.|2. Methods are next.');
});

test('other scripts have marks of their own, after which no space follows', () => {
  const joined = (marked: string) =>
    assert.deepEqual(sentences(marked.replaceAll('|', '')), marked.split('|'));
  joined('海港大桥建于1901年。|“你好。”|他说。|真的？|是！|(括号。)|后面');
  joined('これはペンです。|「はい。」|と言った。');
  joined('ទីក្រុងភ្នំពេញ។|ជារាជធានី។');
  joined('မြန်မာ။|နိုင်ငံ။');
  joined('यह एक है।|वह दो');
  joined('版本1.2是新的.|好!|他'); // western marks between letters of such scripts
  joined('Yahoo!是公司');
  joined('See it.[1]Then.“Quote.”');
});

test('no sentence begins or ends with white space, and nothing else is lost', () => {
  const text = '  One.  \u00a0Two! \n\n 三。四。 ';
  assert.deepEqual(sentences(text), ['One.', 'Two!', '三。', '四。']);
  assert.deepEqual(splitSentences(' \n '), []);
  assert.deepEqual(splitSentences(''), []);
});

test('a long text is split as its parts are', () => {
  const text = 'Dr. Ames came to Vell at 5 p.m. in May. "Why?" he asked. ';
  const found = sentences(`${text.repeat(5000)}${'X'.repeat(5000)} yes. ${text.repeat(5000)}`);
  const parts = sentences(text);
  assert.deepEqual(found.slice(0, 10_000), Array(5000).fill(parts).flat());
  assert.equal(found[10_000], `${'X'.repeat(5000)} yes.`);
  assert.deepEqual(found.slice(10_001), Array(5000).fill(parts).flat());
});

/** The cost of splitting: each step of the segmenter takes time in proportion to the text that it got. */
function cost(text: string): number {
  let units = 0;
  const { segment } = Intl.Segmenter.prototype;
  const counted = mock.method(Intl.Segmenter.prototype, 'segment', function* (
    this: Intl.Segmenter,
    given: string,
  ) {
    for (const found of segment.call(this, given)) {
      units += given.length;
      yield found;
    }
  } as unknown as typeof segment);
  try {
    splitSentences(text);
  } finally {
    counted.mock.restore();
  }
  return units;
}

test('splitting takes work in proportion to the length of the text, in short sentences or in a long one', () => {
  for (const text of ['It rained. ', 'No end ', 'X']) {
    const once = cost(text.repeat(5000));
    assert.ok(once >= 5000 * text.length, 'the segmenter saw all of it');
    const twice = cost(text.repeat(10_000));
    assert.ok(twice < 2.5 * once, `${text}: ${twice} units for twice the text of ${once}`);
  }
});

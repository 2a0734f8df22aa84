import assert from 'node:assert/strict';
import { test } from 'node:test';
import { random } from '../../src/random.ts';
import { trainVocabulary } from '../../src/tokenizer/train-vocabulary.ts';
import { SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';

const repeated = (counts: Record<string, number>) =>
  Object.entries(counts).flatMap(([word, n]) => Array<string>(n).fill(word));

// hug 10, pug 5, pun 12, bun 4, hugs 5, by hand:
//   u+g 20, then u+n 16, h+ug 15, p+un 12, then p+ug and hug+s 5 each (the older pieces first), b+un 4
const hugs = repeated({ hug: 10, pug: 5, pun: 12, bun: 4, hugs: 5 });
const alphabet = ['b', 'g', 'h', 'n', 'p', 's', 'u', '##g', '##n', '##s', '##u'];
const merged = ['##ug', '##un', 'hug', 'pun', 'pug', 'hugs', 'bun'];

test('joins the most frequent pairs in turn, as by hand', async () => {
  assert.deepEqual(await trainVocabulary(hugs, 100, true), [...SPECIAL_TOKENS, ...alphabet, ...merged]);
});

test('stops at the requested size', async () => {
  const whole = [...SPECIAL_TOKENS, ...alphabet, ...merged];
  for (const size of [19, 20, 22])
    assert.deepEqual(await trainVocabulary(hugs, size, true), whole.slice(0, size));
});

test('a pair seen once makes no piece', async () => {
  assert.deepEqual(await trainVocabulary(['ab', 'cd cd'], 100, true), [
    ...SPECIAL_TOKENS,
    'a',
    'b',
    'c',
    'd',
    '##b',
    '##d',
    'cd',
  ]);
});

test('an overlapping run is joined from the left', async () => {
  // "aaaa" twice: a ##a ##a ##a, where (##a, ##a) is met 4 times and (a, ##a) 2; then a ##aa ##a, 2 and 2.
  const vocabulary = await trainVocabulary(['aaaa aaaa'], 100, true);
  assert.deepEqual(vocabulary.slice(5), ['a', '##a', '##aa', 'aaa', 'aaaa']);
});

test('removes case and accents only if requested', async () => {
  assert.deepEqual((await trainVocabulary(['Éé Éé'], 100, true)).slice(5), ['e', '##e', 'ee']);
  assert.deepEqual((await trainVocabulary(['Éé Éé'], 100, false)).slice(5), ['É', 'é', '##é', 'Éé']);
});

test('a vocabulary too small for every character keeps the frequent ones', async () => {
  const vocabulary = await trainVocabulary(['aaaa bbb cc d'], 9, true);
  assert.deepEqual(vocabulary.slice(5), ['a', 'b', '##a', '##b']);
});

/** Pieces by the plain definition: count all pairs anew before every merge. */
function naive(texts: string[], size: number): string[] {
  const words = texts.map((text) => [...text].map((character, i) => (i > 0 ? `##${character}` : character)));
  const letters = [...new Set(texts.join(''))].sort();
  const continued = [...new Set(words.flatMap((word) => word.slice(1)))].sort();
  const vocabulary = [...SPECIAL_TOKENS, ...letters, ...continued];
  while (vocabulary.length < size) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const key = `${word[i]} ${word[i + 1]}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    }
    const rank = (key: string) => key.split(' ').map((piece) => vocabulary.indexOf(piece));
    const best = [...counts].sort(
      (x, y) => y[1] - x[1] || rank(x[0])[0] - rank(y[0])[0] || rank(x[0])[1] - rank(y[0])[1],
    )[0];
    if (best === undefined || best[1] < 2) break;
    const [a, b] = best[0].split(' ');
    if (!vocabulary.includes(a + b.slice(2))) vocabulary.push(a + b.slice(2));
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++)
        if (word[i] === a && word[i + 1] === b) word.splice(i, 2, a + b.slice(2));
    }
  }
  return vocabulary;
}

test('equals the plain definition on random words', async () => {
  const rng = random(5);
  for (let round = 0; round < 20; round++) {
    const texts = Array.from({ length: 60 }, () =>
      Array.from({ length: 1 + rng.int(7) }, () => rng.pick(['a', 'b', 'c', 'd'])).join(''),
    );
    assert.deepEqual(await trainVocabulary(texts, 60, true), naive(texts, 60), texts.join(' '));
  }
});

test('every word is encodable, and the order of the texts does not matter', async () => {
  const rng = random(7);
  const texts = Array.from({ length: 500 }, () =>
    Array.from({ length: 1 + rng.int(9) }, () => String.fromCharCode(97 + rng.int(26))).join(''),
  );
  const vocabulary = await trainVocabulary(texts, 300, true);
  assert.equal(vocabulary.length, 300);
  assert.equal(new Set(vocabulary).size, 300);
  const tokenizer = wordPiece(vocabulary, true);
  assert.equal(tokenizer.pad, 0);
  for (const text of texts) assert.ok(!tokenizer.encode(text).ids.includes(tokenizer.unk), text);
  async function* backwards() {
    yield* texts.toReversed();
  }
  assert.deepEqual(await trainVocabulary(backwards(), 300, true), vocabulary);
});

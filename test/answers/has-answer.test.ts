import assert from 'node:assert/strict';
import { test } from 'node:test';
import { protocolFor } from '../../src/answers/default-protocol.ts';
import { answerSpans, foldedHasAnswer, foldText, hasAnswer } from '../../src/answers/has-answer.ts';
import { PROTOCOLS } from '../../src/answers/metrics.ts';
import { random } from '../../src/random.ts';

const cases: [text: string, answer: string, has: boolean][] = [
  ['The art of Paris.', 'art', true],
  ['The party in Paris.', 'art', false],
  ['Born in 1984.', '1984', true],
  ['Born in 19841.', '1984', false],
  ['It cost $12 then.', '$12', true],
  ['It cost $ 12 then.', '$12', true],
  ['It cost 12 then.', '$12', false],
  ['a well-known man', 'well known', false],
  ['a well known man', 'well-known', false],
  ['a well - known man', 'well-known', true],
  ['the  Great\n\tWall stands', 'great wall', true],
  ['the GreatWall stands', 'great wall', false],
  ['caf\u00e9 society', 'CAFE\u0301', true],
  ['cafe society', 'caf\u00e9', false],
  ['\u0130stanbul', 'i\u0307stanbul', true],
  ['U.S.A.', 'u.s', true],
  ['costs (5)', '(5)', true],
  ['a [b] c.d', 'c.d', true],
  ['a [b] cxd', 'c.d', false],
  ['rated \u{1F600} twice', '\u{1F600}', true],
  ['anything', '', true], // as DPR's loop has it
  ['', 'anything', false],
  ['anything', ' \n ', true],
];
for (const [text, answer, has] of cases) {
  test(`${JSON.stringify(text)} ${has ? 'holds' : 'does not hold'} ${JSON.stringify(answer)}`, () => {
    assert.equal(hasAnswer(text, strings(answer)), has);
    assert.equal(hasAnswer(text, strings('zzz', answer)), has);
  });
}

/** DPR's rule word for word: tokenise both, look for one list in the other. */
function slowly(text: string, answer: string): boolean {
  const tokens = (s: string) =>
    s
      .normalize('NFD')
      .match(/[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]/gu)
      ?.map((t) => t.toLowerCase()) ?? [];
  const [all, part] = [tokens(text), tokens(answer)];
  return part.length === 0 || all.some((_, i) => part.every((token, j) => all[i + j] === token));
}

const strings = (...answers: string[]) => ({ answers, answerKind: 'string' as const });

test('agrees with tokenising both sides on random strings', () => {
  const rng = random(3);
  const alphabet = [
    'a',
    'b',
    'A',
    '1',
    ' ',
    ' ',
    '-',
    '.',
    '\u00e9',
    '\u0301',
    '\t',
    '$',
    '^',
    '\u4e2d',
    '\u{1F600}',
  ];
  const word = (n: number) => Array.from({ length: n }, () => rng.pick(alphabet)).join('');
  let positive = 0;
  for (let i = 0; i < 4000; i++) {
    const text = word(12);
    const answer = word(1 + rng.int(3));
    const want = slowly(text, answer);
    if (want) positive++;
    assert.equal(hasAnswer(text, strings(answer)), want, JSON.stringify([text, answer]));
  }
  assert.ok(positive > 300, 'both outcomes are common');
});

test('answer spans: every match of every answer once, in order', () => {
  const block = Int32Array.of(5, 6, 5, 6, 7, 5);
  const spans = (...answers: number[][]) => [
    ...answerSpans(
      block,
      answers.map((a) => Int32Array.from(a)),
    ),
  ];
  assert.deepEqual(spans([5, 6]), [0, 2, 2, 4]);
  assert.deepEqual(spans([6, 7], [5], [5]), [0, 1, 2, 3, 3, 5, 5, 6]);
  assert.deepEqual(spans([5, 6], [5]), [0, 1, 0, 2, 2, 3, 2, 4, 5, 6]);
  assert.deepEqual(spans([5, 7], [], [5, 6, 5, 6, 7, 5, 5]), []);
  assert.deepEqual(spans([5, 6, 5, 6, 7, 5]), [0, 6]);
  assert.deepEqual([...answerSpans(Int32Array.of(1, 1, 1), [Int32Array.of(1, 1)])], [0, 2, 1, 3]);
  assert.deepEqual([...answerSpans(Int32Array.of(9, 1, 1, 2).subarray(1, 3), [Int32Array.of(1, 2)])], []);
});

test('each protocol follows its own script', () => {
  const text = 'Shakespeare wrote \u201cHamlet\u201d by 1,000 candles.';
  const held = (answer: string) => PROTOCOLS.filter((protocol) => hasAnswer(text, strings(answer), protocol));
  assert.deepEqual(held('hamlet'), ['dpr', 'drqa', 'hf', 'mlqa']);
  assert.deepEqual(held('Ham'), ['orqa']);
  assert.deepEqual(held('"Hamlet"'), ['drqa']);
  assert.deepEqual(held('000'), ['orqa', 'dpr', 'hf', 'mlqa']);
  const regex = { answers: ['Othello', 'hamlet'], answerKind: 'regex' as const };
  assert.deepEqual(
    PROTOCOLS.filter((protocol) => hasAnswer(text, regex, protocol)),
    ['orqa', 'dpr', 'hf', 'mlqa'], // DrQA's script reads the first expression alone
  );
});

test('a regular expression matches anywhere in the text, both in NFD, in any case', () => {
  const regex = (...answers: string[]) => ({ answers, answerKind: 'regex' as const });
  const text = 'Lindbergh took off from Roosevelt Field in New York; it was caf\u00e9 weather.';
  assert.equal(hasAnswer(text, regex('Long Island|New\\s?York|roosevelt field')), true);
  assert.equal(hasAnswer(text, strings('Long Island|New\\s?York|roosevelt field')), false);
  assert.equal(hasAnswer(text, regex('Newark', 'CAFE\u0301')), true);
  assert.equal(hasAnswer(text, regex('^New York')), false);
  assert.equal(hasAnswer(text, regex('(')), false);
});

test('in scripts without spaces protocol mlqa finds an answer anywhere in a clause, the others as their scripts do', () => {
  const cases: [text: string, answer: string, has: boolean][] = [
    ['南河镇建于1751年，人口不多。', '1751年', true],
    ['南河镇建于1751年，人口不多。', '1751', true],
    ['南河镇建于1751年，人口不多。', '751年', false], // numbers stay whole
    ['南河镇建于1751年', '河镇', true],
    ['南 河镇', '南河', true],
    ['东京', '京都', false],
    ['エルサレムはどこ', 'エルサレム', true],
    ['かき', 'が', false],
    ['がき', 'か', false], // a voiced letter is another one
    ['เมืองหลวงคือกรุงเทพ', 'กรุงเทพ', true],
    ['ទីក្រុងភ្នំពេញ', 'ភ្នំពេញ', true],
    ['ប្រទេសកម្ពុជា', 'ប', false], // the letter has a mark
    ['用Python写的', 'python', true],
    ['用Python3写的', 'python', false],
    ['The art of 東京都', '東京', true],
    ['The party in 東京', 'art', false],
  ];
  for (const [text, answer, has] of cases) {
    assert.equal(hasAnswer(text, strings(answer), 'mlqa'), has, `${text} ${answer}`);
    assert.equal(foldedHasAnswer(foldText(text), [answer]), has, `training: ${text} ${answer}`);
    assert.equal(hasAnswer(text, strings(answer), 'dpr'), slowly(text, answer), `dpr: ${text} ${answer}`);
  }
});

test('most answers in a script without spaces choose protocol mlqa; some are warned of', () => {
  const chinese = strings('海港');
  const english = strings('harbour');
  assert.equal(protocolFor([chinese, chinese, english], undefined), 'mlqa');
  assert.equal(protocolFor([chinese], 'dpr'), 'dpr');
  assert.equal(protocolFor([english, english], undefined), undefined);
  assert.equal(protocolFor([english, english, chinese], undefined), undefined);
  assert.equal(protocolFor([{ answers: ['海.*'], answerKind: 'regex' }], undefined), undefined);
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { random } from '../../src/random.ts';
import { maskSpan, maskSpans, maskTokens, spanLength } from '../../src/train/masking.ts';

const MASK = 4;

describe('a salient span', () => {
  const sentence = Int32Array.of(11, 12, 13, 14, 15, 16);
  const spans = Int32Array.of(0, 1, 2, 5);
  const mask = (chosen: number, maxMasks: number) =>
    maskSpan(sentence, spans, 7, maxMasks, MASK, { int: () => chosen });

  test('every word piece of the chosen span is masked, and positions are counted from [CLS]', () => {
    assert.deepEqual(mask(1, 10), {
      sentence,
      masked: Int32Array.of(11, 12, 4, 4, 4, 16),
      positions: [3, 4, 5],
      targets: [13, 14, 15],
      source: 7,
    });
    assert.deepEqual(mask(0, 10).masked, Int32Array.of(4, 12, 13, 14, 15, 16));
    assert.deepEqual(mask(0, 10).positions, [1]);
    assert.deepEqual([...sentence], [11, 12, 13, 14, 15, 16], 'the sentence itself is not changed');
  });

  test('a span longer than allowed is masked whole, but only its first pieces are predicted', () => {
    const { masked, positions, targets } = mask(1, 2);
    assert.deepEqual(masked, Int32Array.of(11, 12, 4, 4, 4, 16));
    assert.deepEqual(
      [positions, targets],
      [
        [3, 4],
        [13, 14],
      ],
    );
  });
});

/** Word pieces 10, 11, …, each once; every third continues the word before. */
const sentenceOf = (length: number) => Int32Array.from({ length }, (_, t) => 10 + t);
const vocabulary = Array.from({ length: 200 }, (_, id) =>
  id >= 10 && (id - 10) % 3 === 2 ? `##${id}` : `${id}`,
);
const isWordStart = (t: number) => t % 3 !== 2;

for (const [name, mask] of [
  ['tokens', (s: Int32Array, most: number, seed: number) => maskTokens(s, 3, most, MASK, random(seed))],
  [
    'spans',
    (s: Int32Array, most: number, seed: number) =>
      maskSpans(s, 3, most, { mask: MASK, vocabulary }, random(seed)),
  ],
] as const) {
  describe(`random masks, ${name}`, () => {
    test('15 % of the pieces are masked, at least one and no more than allowed, and all of them are predicted', () => {
      for (const [length, most, wanted] of [
        [1, 10, 1],
        [3, 10, 1],
        [20, 10, 3],
        [40, 10, 6],
        [94, 10, 10],
        [94, 5, 5],
      ]) {
        const sentence = sentenceOf(length);
        for (let seed = 0; seed < 20; seed++) {
          const example = mask(sentence, most, seed);
          const hidden = [...sentence.keys()].filter((t) => example.masked[t] === MASK);
          assert.equal(hidden.length, wanted);
          assert.deepEqual(
            example.positions,
            hidden.map((t) => t + 1),
          );
          assert.deepEqual(
            example.targets,
            hidden.map((t) => sentence[t]),
          );
          assert.ok(
            [...sentence.keys()].every((t) => hidden.includes(t) || example.masked[t] === sentence[t]),
          );
          assert.equal(example.source, 3);
          assert.deepEqual(sentence, sentenceOf(length), 'the sentence itself is not changed');
        }
      }
    });
  });
}

test('single pieces are masked with the same probability at every position', () => {
  const [length, rounds] = [20, 20_000];
  const rng = random(3);
  const times = new Array(length).fill(0);
  for (let i = 0; i < rounds; i++)
    for (const position of maskTokens(sentenceOf(length), 0, 10, MASK, rng).positions) times[position - 1]++;
  // 3 of 20 each time: each position is masked with p = 0.15, a binomial count; five standard deviations.
  const wanted = 0.15 * rounds;
  for (const n of times) assert.ok(Math.abs(n - wanted) < 5 * Math.sqrt(wanted * 0.85), `${times}`);
});

test('span lengths are geometric, clipped at ten and normalised; their mean is 3.8', () => {
  const rng = random(5);
  const rounds = 100_000;
  const times = new Array(11).fill(0);
  for (let i = 0; i < rounds; i++) times[spanLength(rng)]++;
  // SpanBERT's code: p (1 − p)^(n − 1) for n from 1 to 10, divided by their sum.
  const weights = Array.from({ length: 10 }, (_, i) => 0.2 * 0.8 ** i);
  const sum = weights.reduce((a, b) => a + b);
  let mean = 0;
  weights.forEach((w, i) => {
    const wanted = (w / sum) * rounds;
    assert.ok(
      Math.abs(times[i + 1] - wanted) < 5 * Math.sqrt(wanted),
      `${i + 1}: ${times[i + 1]}, ${wanted}`,
    );
    mean += ((i + 1) * times[i + 1]) / rounds;
  });
  assert.equal(times[0], 0);
  assert.ok(Math.abs(mean - 3.797) < 0.05, `${mean}`);
  assert.equal(spanLength({ float: () => 0 }), 1);
  assert.equal(spanLength({ float: () => 1 - 2 ** -32 }), 10);
});

test('spans start at any word with the same probability', () => {
  const [length, rounds] = [21, 20_000];
  const rng = random(9);
  const times = new Array(length).fill(0);
  // One piece is masked, the first of a span.
  for (let i = 0; i < rounds; i++)
    times[maskSpans(sentenceOf(length), 0, 1, { mask: MASK, vocabulary }, rng).positions[0] - 1]++;
  const wanted = rounds / 14;
  times.forEach((n, t) => {
    if (isWordStart(t)) assert.ok(Math.abs(n - wanted) < 5 * Math.sqrt(wanted), `${times}`);
    else assert.equal(n, 0);
  });
});

test('spans start and end at word boundaries, except when the number of masks is used up', () => {
  const sentence = sentenceOf(94);
  const rng = random(7);
  const runs = new Array(11).fill(0);
  for (let i = 0; i < 500; i++) {
    const hidden = maskSpans(sentence, 0, 10, { mask: MASK, vocabulary }, rng).positions.map((p) => p - 1);
    const starts = hidden.filter((t) => !hidden.includes(t - 1));
    assert.ok(starts.every(isWordStart), `${hidden}`);
    const unfinished = hidden.filter(
      (t) => !hidden.includes(t + 1) && t + 1 < sentence.length && !isWordStart(t + 1),
    );
    assert.ok(unfinished.length <= 1, `${hidden}`);
    for (const start of starts) {
      let end = start;
      while (hidden.includes(end)) end++;
      runs[end - start]++;
    }
  }
  // Masking 15 % of single pieces would give runs with a mean length of 1.2.
  const mean = runs.reduce((sum, n, length) => sum + n * length, 0) / runs.reduce((a, b) => a + b);
  assert.ok(mean > 3, `${mean}`);
});

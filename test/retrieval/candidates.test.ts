import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { random } from '../../src/random.ts';
import { dropTrivial } from '../../src/retrieval/candidates.ts';

/** A corpus of bodies only; blocks with the same body have the same hash, unless `hashes` is given. */
function corpusOf(bodies: number[][], hashes?: bigint[]): Corpus {
  const keys = bodies.map((body) => body.join());
  return {
    blocks: bodies.length,
    bodyIds: (block: number) => Int32Array.from(bodies[block]),
    hash: (block: number) => hashes?.[block] ?? BigInt(keys.indexOf(keys[block])),
  } as Corpus;
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
const drop = (corpus: Corpus, sentence: number[], source: number, retrieved: number[], limit = 9) =>
  dropTrivial(corpus, Int32Array.from(sentence), source, retrieved, limit, 0.8);

test('neither the block that a sentence came from nor a copy of it is a candidate', () => {
  // Only the hashes show it: no body shares a word piece with the sentence.
  const corpus = corpusOf([[1], [2], [3], [4]], [11n, 22n, 22n, 44n]);
  assert.deepEqual(drop(corpus, range(100, 120), 1, [3, 1, 0, 2]), { candidates: [3, 0], dropped: 2 });
  assert.deepEqual(drop(corpus, range(100, 120), -1, [3, 1, 0, 2]), { candidates: [3, 1, 0, 2], dropped: 0 });
});

test('a block that contains the sentence, at any position, is not a candidate', () => {
  const sentence = range(100, 112);
  const corpus = corpusOf([
    [...range(0, 20), ...sentence],
    [...sentence, ...range(0, 20)],
    range(0, 30),
    [...sentence.slice(6), ...sentence.slice(0, 6)],
  ]);
  // With its two halves swapped, a block keeps 4 of 8 five-grams.
  assert.deepEqual(drop(corpus, sentence, -1, [2, 1, 3, 0]), { candidates: [2, 3], dropped: 2 });
});

test('the share of 5-grams decides: at the limit a block is dropped, below it is kept', () => {
  const sentence = range(100, 114); // ten 5-grams
  const corpus = corpusOf([sentence.slice(0, 12), sentence.slice(0, 11), sentence.slice(0, 4)]);
  assert.deepEqual(drop(corpus, sentence, -1, [0, 1, 2]), { candidates: [1, 2], dropped: 1 });
});

test('candidates keep the order of retrieval, and no more blocks are examined than needed', () => {
  const sentence = range(100, 112);
  const corpus = corpusOf([sentence, [1, 2], [3, 4], [5, 6], sentence]);
  assert.deepEqual(drop(corpus, sentence, -1, [3, 0, 1, 2, 4], 2), { candidates: [3, 1], dropped: 1 });
  assert.deepEqual(drop(corpus, sentence, -1, [], 2), { candidates: [], dropped: 0 });
  assert.deepEqual(drop(corpus, sentence, -1, [1, 2], 0), { candidates: [], dropped: 0 });
});

test('on random texts of few word pieces the result equals comparing gram by gram', () => {
  const source = random(5);
  const text = (n: number) => Array.from({ length: n }, () => source.int(3));
  let droppedInAll = 0;
  let keptInAll = 0;
  for (let round = 0; round < 300; round++) {
    const sentence = text(5 + source.int(12));
    const bodies = Array.from({ length: 6 }, () =>
      source.float() < 0.3 ? [...text(3), ...sentence.slice(source.int(4)), ...text(3)] : text(40),
    );
    const corpus = corpusOf(bodies);
    const grams = new Set(sentence.slice(4).map((_, i) => sentence.slice(i, i + 5).join(' ')));
    const wanted = [0, 1, 2, 3, 4, 5].filter((block) => {
      const whole = ` ${bodies[block].join(' ')} `;
      const found = [...grams].filter((gram) => whole.includes(` ${gram} `)).length;
      return found / grams.size < 0.8;
    });
    const { candidates, dropped } = drop(corpus, sentence, -1, [0, 1, 2, 3, 4, 5]);
    assert.deepEqual(candidates, wanted, `round ${round}`);
    assert.equal(dropped, 6 - wanted.length);
    droppedInAll += dropped;
    keptInAll += wanted.length;
  }
  assert.ok(droppedInAll > 200 && keptInAll > 200, `${droppedInAll} dropped, ${keptInAll} kept`);
});

test('a sentence shorter than five word pieces is a single gram of its own length', () => {
  const corpus = corpusOf([[9, 7, 8, 9, 1, 2], range(20, 30)]);
  assert.deepEqual(drop(corpus, [7, 8, 9], -1, [0, 1]), { candidates: [1], dropped: 1 });
  assert.deepEqual(drop(corpus, [7, 9, 8], -1, [0, 1]), { candidates: [0, 1], dropped: 0 });
});

test('large word-piece ids do not collide', () => {
  const sentence = range(119_000, 119_012);
  const near = sentence.map((id, i) => (i % 5 === 0 ? id + 1 : id));
  const corpus = corpusOf([near, sentence]);
  assert.deepEqual(drop(corpus, sentence, -1, [0, 1]), { candidates: [0], dropped: 1 });
});

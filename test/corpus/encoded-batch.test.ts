import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noCounts } from '../../src/corpus/counts.ts';
import {
  type BatchParts,
  batchEncoder,
  decodeBatch,
  type EncodedBatch,
} from '../../src/corpus/encoded-batch.ts';
import { random } from '../../src/random.ts';

type Call = [keyof BatchParts, ...unknown[]];

function play(calls: readonly Call[], parts: BatchParts): void {
  for (const [name, ...fields] of calls) (parts[name] as (...fields: unknown[]) => void)(...fields);
}

/** The calls that decoding makes, with copies of the lists. */
function decoded(batch: EncodedBatch): Call[] {
  const calls: Call[] = [];
  const list = (items: ArrayLike<number>) => Array.from(items);
  decodeBatch(batch, {
    document: (index, titleIds) => void calls.push(['document', index, list(titleIds)]),
    block: (text, ids, starts) => void calls.push(['block', text, list(ids), list(starts)]),
    sentence: (start, length, spans) => void calls.push(['sentence', start, length, list(spans)]),
    externalSentence: (ids, spans) => void calls.push(['externalSentence', list(ids), list(spans)]),
  });
  return calls;
}

function roundTrip(calls: readonly Call[]): Call[] {
  const encoder = batchEncoder();
  play(calls, encoder);
  return decoded(structuredClone(encoder.encoded(noCounts())));
}

test('every part of a batch comes back, in order and with its fields', () => {
  const calls: Call[] = [
    ['document', 0, [7, 8]],
    ['block', 'One. Two.', [1, 2, 3, 4], [0, 2]],
    ['sentence', 0, 2, [0, 1]],
    ['sentence', 2, 2, [0, 1, 1, 2]],
    ['block', 'Three.', [5], [0]],
    ['document', 3, []],
    ['block', '', [], []],
    ['externalSentence', [9, 10], [0, 2]],
  ];
  assert.deepEqual(roundTrip(calls), calls);
  assert.deepEqual(roundTrip([]), []);
});

test('a batch longer than the first buffer comes back', () => {
  const rng = random(5);
  const ids = (n: number) => Array.from({ length: n }, () => rng.int(1 << 30));
  const calls = Array.from({ length: 2000 }, (_, i): Call => {
    if (i % 4 === 0) return ['document', i, ids(rng.int(20))];
    if (i % 4 === 1) return ['block', `text ${i}`, ids(rng.int(400)), ids(rng.int(9))];
    if (i % 4 === 2) return ['sentence', rng.int(99), rng.int(99), ids(2 * rng.int(5))];
    return ['externalSentence', ids(rng.int(300)), ids(2)];
  });
  calls.push(['externalSentence', ids(300_000), ids(2)]);
  assert.deepEqual(roundTrip(calls), calls);
});

test('numbers that are not an encoded batch are an error', () => {
  const batch: EncodedBatch = { texts: [], numbers: Int32Array.of(9), counts: noCounts() };
  assert.throws(() => decoded(batch), /no record of kind 9/);
});

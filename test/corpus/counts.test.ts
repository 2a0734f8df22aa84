import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noCounts, summaryOf } from '../../src/corpus/counts.ts';

const counts = (some: Partial<ReturnType<typeof noCounts>>) => ({ ...noCounts(), ...some });

test('what was read and kept is counted in one line', () => {
  const whole = counts({ documents: 1200, blocks: 1, tokens: 50_241, readBytes: 242_657 });
  assert.deepEqual(summaryOf(whole, 64), [
    'prepare: read 1,200 documents (242,657 bytes of text), kept 1,200 documents as 1 block of 50,241 tokens',
  ]);
});

test('what was left out is counted with its reason', () => {
  const lines = summaryOf(
    counts({ documents: 7, emptyDocuments: 1, skippedPages: 2, duplicateIds: 3, splitSentences: 1 }),
    64,
  );
  assert.match(lines[0], /read 10 documents .* kept 7 documents/);
  assert.deepEqual(lines.slice(1), [
    'prepare: left out 1 document without text',
    'prepare: left out 2 documents that are lists or disambiguation pages (data.articlesOnly)',
    'prepare: 3 documents with the id of an earlier one',
    'prepare: 1 sentence longer than a block, continued in the next one',
  ]);
});

test('a corpus that keeps less than 99 % of its text warns, and names the setting', () => {
  const cut = { documents: 9, readBytes: 11_000, skippedBytes: 1000, cutTokens: 30 };
  const [, warning] = summaryOf(counts({ ...cut, cutBytes: 101 }), 64);
  assert.match(
    warning,
    /warning: 101 bytes \(30 tokens\) .* 98\.9 % of the text is kept.*text\.blockTokens \(64\)/,
  );
  const [, note] = summaryOf(counts({ ...cut, cutBytes: 100 }), 64);
  assert.match(note, /^prepare: 100 bytes .* 99\.0 % of the text is kept$/);
});

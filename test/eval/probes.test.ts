import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { clozeText } from '../../src/eval/probes.ts';
import type { Random } from '../../src/random.ts';
import { SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { maskSpan } from '../../src/train/masking.ts';
import { temporaryFolder, tinyConfig, tinyCorpus } from '../support/tiny.ts';

const folder = temporaryFolder('cloze');
let corpus: Corpus;
before(async () => {
  ({ corpus } = await tinyCorpus(folder, tinyConfig()));
});
after(() => corpus.close());

const first = { int: () => 0 } as unknown as Random;

test('a masked sentence is shown in the words of its block, with the whole span as the answer', () => {
  const { sentences, tokenizer } = corpus;
  for (let i = 0; i < sentences.count; i++) {
    const [ids, spans, source] = [sentences.ids(i), sentences.spans(i), sentences.source(i)];
    const { query, answer } = clozeText(corpus, maskSpan(ids, spans, source, 1, tokenizer.mask, first));
    const [before, behind, ...more] = query.split('____');
    assert.equal(more.length, 0);
    const text = corpus.text(source);
    assert.ok(text.includes(before + answer + behind), `${query} / ${answer} / ${text}`);
    assert.deepEqual([...tokenizer.encode(before + answer + behind).ids], [...ids]);
    assert.deepEqual([...tokenizer.encode(answer).ids], [...ids.subarray(spans[0], spans[1])]);
  }
});

test('a sentence from elsewhere is joined from its word pieces', () => {
  const vocabulary = [
    ...SPECIAL_TOKENS,
    'in',
    '19',
    '##12',
    ',',
    '(',
    'or',
    ')',
    'she',
    'was',
    'born',
    '.',
    '"',
    "'",
    's',
  ];
  const tokenizer = wordPiece(vocabulary, true);
  const cloze = (text: string, start: number, end: number) => {
    const { ids } = tokenizer.encode(text);
    const example = maskSpan(ids, Int32Array.of(start, end), -1, 10, tokenizer.mask, first);
    return clozeText({ tokenizer } as Corpus, example);
  };
  const text = 'In 1912, (or in 1912) she was born.';
  assert.deepEqual(cloze(text, 1, 3), { query: 'in ____, (or in 1912) she was born.', answer: '1912' });
  assert.deepEqual(cloze(text, 0, 3), { query: '____, (or in 1912) she was born.', answer: 'in 1912' });
  assert.deepEqual(cloze(text, 12, 14), { query: 'in 1912, (or in 1912) she was ____', answer: 'born.' });
  assert.deepEqual(cloze(text, 5, 9), { query: 'in 1912, (____) she was born.', answer: 'or in 1912' });
  assert.deepEqual(cloze('In 1912\'s "born or (in 1912)".', 0, 1), {
    query: '____ 1912\'s "born or (in 1912)".',
    answer: 'in',
  });
});

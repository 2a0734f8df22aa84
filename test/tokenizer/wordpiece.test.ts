import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { UserError } from '../../src/system/errors.ts';
import { basicTokenizer } from '../../src/tokenizer/basic.ts';
import { bertNormalizer } from '../../src/tokenizer/normalizer.ts';
import { type Encoding, loadWordPiece, SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { NO_TEST_DATA, testData } from '../support/test-data.ts';

const fixtures = join(import.meta.dirname, '../fixtures/tokenizer');
const data = testData();
const noData = existsSync(join(data, 'passages.jsonl.gz')) ? false : NO_TEST_DATA;
const folder = mkdtempSync(join(tmpdir(), 'wordpiece-'));
after(() => rmSync(folder, { recursive: true }));

function basicWords(text: string, lowercase: boolean): string[] {
  const words = basicTokenizer(bertNormalizer(lowercase))(text, 0, text.length);
  const found: string[] = [];
  for (let w = 0, first = 0; w < words.count; first = words.ends[w++]) {
    found.push(String.fromCharCode(...words.units.subarray(first, words.ends[w])));
  }
  return found;
}

function pieces(vocabulary: string[], text: string, lowercase = true): string[] {
  return [...wordPiece(vocabulary, lowercase).encode(text).ids].map((id) => vocabulary[id]);
}

// The cases of google-research/bert tokenization_test.py, on a vocabulary with the special tokens we require.
const small = [...SPECIAL_TOKENS, 'want', '##want', '##ed', 'wa', 'un', 'runn', '##ing', ','];

test('splits words into the longest pieces, as published', () => {
  assert.deepEqual(pieces(small, 'UNwant\u00E9d,running'), ['un', '##want', '##ed', ',', 'runn', '##ing']);
  assert.deepEqual(pieces(small, 'unwanted running'), ['un', '##want', '##ed', 'runn', '##ing']);
  assert.deepEqual(pieces(small, 'unwantedX running'), ['[UNK]', 'runn', '##ing']);
  assert.deepEqual(pieces(small, ''), []);
});

test('basic words, as published', () => {
  assert.deepEqual(basicWords('ah\u535A\u63A8zz', true), ['ah', '\u535A', '\u63A8', 'zz']);
  assert.deepEqual(basicWords(' \tHeLLo!how  \n Are yoU?  ', true), ['hello', '!', 'how', 'are', 'you', '?']);
  assert.deepEqual(basicWords('H\u00E9llo', true), ['hello']);
  assert.deepEqual(basicWords(' \tHeLLo!how  \n Are yoU?  ', false), [
    'HeLLo',
    '!',
    'how',
    'Are',
    'yoU',
    '?',
  ]);
});

test('white space, control characters and punctuation, as published', () => {
  for (const space of [' ', '\t', '\r', '\n', '\u00A0']) {
    assert.deepEqual(basicWords(`a${space}b`, true), ['a', 'b'], JSON.stringify(space));
  }
  assert.deepEqual(basicWords('a\u0005b', true), ['ab']);
  assert.deepEqual(basicWords('a\u{1F4A9}b', true), ['a\u{1F4A9}b']);
  for (const mark of ['-', '$', '`', '.']) assert.deepEqual(basicWords(`a${mark}b`, true), ['a', mark, 'b']);
});

test('offsets are positions in the original text', () => {
  const text = 'UNwant\u00E9d, \u{1F600} running';
  const { starts, ends } = wordPiece(small, true).encode(text);
  const parts = [...starts].map((start, i) => text.slice(start, ends[i]));
  assert.deepEqual(parts, ['UN', 'want', '\u00E9d', ',', '\u{1F600}', 'runn', 'ing']);
});

interface UnicodeCase {
  text: string;
  uncased: { ids: number[]; starts: number[]; ends: number[] };
  cased: { ids: number[]; starts: number[]; ends: number[] };
}

for (const casing of ['uncased', 'cased'] as const) {
  test(`odd Unicode as Hugging Face encodes it, ${casing}`, () => {
    const tokenizer = loadWordPiece(join(fixtures, 'vocab.txt'), casing === 'uncased');
    for (const line of readFileSync(join(fixtures, 'unicode.jsonl'), 'utf8').trim().split('\n')) {
      const record = JSON.parse(line) as UnicodeCase;
      const got = tokenizer.encode(record.text);
      assert.deepEqual(
        { ids: [...got.ids], starts: [...got.starts], ends: [...got.ends] },
        record[casing],
        JSON.stringify(record.text),
      );
    }
  });

  test(`real texts as Hugging Face encodes them, ${casing}`, { skip: noData }, () => {
    const tokenizer = loadWordPiece(join(data, 'bert-base-uncased-vocab.txt'), casing === 'uncased');
    const samples = JSON.parse(readFileSync(join(fixtures, 'real.json'), 'utf8')) as RealSample[];
    for (const sample of samples) {
      const texts = readTexts(sample.file).filter((_, i) => i % sample.every === 0);
      assert.equal(texts.length, sample.count);
      for (let i = 0; i < texts.length; i++) {
        const expected = sample[casing].slice(8 * i, 8 * i + 8);
        assert.equal(
          shortHash(tokenizer.encode(texts[i])),
          expected,
          `${sample.file} line ${i * sample.every + 1}`,
        );
      }
    }
  });
}

interface RealSample {
  file: string;
  every: number;
  count: number;
  uncased: string;
  cased: string;
}

function readTexts(file: string): string[] {
  const lines = gunzipSync(readFileSync(join(data, file)))
    .toString()
    .trim()
    .split('\n');
  return lines.map((line) => {
    const record = JSON.parse(line) as { text?: string; question?: string };
    return record.text ?? record.question ?? '';
  });
}

/** As scripts/fixtures/tokenizer.py makes it. */
function shortHash({ ids, starts, ends }: Encoding): string {
  const triples = Array.from(ids, (id, i) => `${id}:${starts[i]}:${ends[i]}`);
  return createHash('sha256').update(triples.join(' ')).digest('hex').slice(0, 8);
}

test('half a surrogate pair is dropped, like the replacement character it would be in a file', () => {
  assert.deepEqual(basicWords('a\uD83Db \uDE00c\uD83D', true), ['ab', 'c']);
});

test('one call does not disturb what another returned', () => {
  const tokenizer = wordPiece(small, true);
  const first = tokenizer.encode('unwanted');
  tokenizer.encode('running , running '.repeat(2000));
  assert.deepEqual([...first.ids], [9, 6, 7]);
});

test('decode joins continuations to their word', () => {
  const tokenizer = wordPiece(small, true);
  assert.equal(tokenizer.decode(tokenizer.encode('unwanted, running').ids), 'unwanted , running');
  assert.equal(tokenizer.decode([tokenizer.cls, 7]), '[CLS]ed');
  assert.throws(() => tokenizer.decode([99]), /id 99 .* vocabulary of 13/);
});

test('ids of the special tokens come from the vocabulary', () => {
  const tokenizer = wordPiece(['a', '[MASK]', '[SEP]', '[UNK]', '[CLS]', '[PAD]'], true);
  const { pad, unk, cls, sep, mask } = tokenizer;
  assert.deepEqual({ pad, unk, cls, sep, mask }, { pad: 5, unk: 3, cls: 4, sep: 2, mask: 1 });
});

test('a vocabulary file with line ends of either kind, and its hash', () => {
  const path = join(folder, 'vocab.txt');
  const text = small.map((piece) => `${piece}\n`).join('');
  writeFileSync(path, text.replaceAll('\n', '\r\n'));
  const tokenizer = loadWordPiece(path, true);
  assert.deepEqual(tokenizer.vocabulary, small);
  assert.equal(tokenizer.size, 13);
  assert.equal(tokenizer.sha256, createHash('sha256').update(text).digest('hex'));
});

test('an error in a vocabulary file names its line', () => {
  const path = join(folder, 'bad.txt');
  const refuses = (content: string | Uint8Array, message: RegExp) => {
    writeFileSync(path, content);
    assert.throws(
      () => loadWordPiece(path, true),
      (error) => error instanceof UserError && message.test(error.message),
    );
  };
  refuses(`${small.join('\n')}\n[UNK]\n`, /bad\.txt: line 14 repeats "\[UNK\]" of line \d/);
  refuses('a\nb\n', /bad\.txt: has no line \[PAD\]/);
  refuses('', /has no line \[PAD\]/);
  refuses(Uint8Array.of(0xff, 0xfe, 0x41), /not UTF-8/);
  assert.throws(() => loadWordPiece(join(folder, 'none.txt'), true), /none\.txt: no such vocabulary/);
  assert.throws(() => loadWordPiece(folder, true), /is a folder/);
});

test('blank and repeated lines count, and a repeated piece has its last number, as in transformers', () => {
  const path = join(folder, 'uneven.txt');
  const tokenizer = (...more: string[]) => {
    writeFileSync(path, `${[...small, ...more].join('\n')}\n`);
    return loadWordPiece(path, true);
  };
  const uneven = tokenizer('', 'un', 'x', '');
  assert.equal(uneven.size, 17);
  assert.deepEqual([...uneven.encode('un x').ids], [14, 15]);
  assert.equal(uneven.decode([14, 13, 15]), 'un  x');
});

test('a byte order mark is not part of a vocabulary, and an endless line is refused', () => {
  const path = join(folder, 'marked.txt');
  writeFileSync(path, `\uFEFF${small.join('\n')}\n`);
  assert.deepEqual(loadWordPiece(path, true).vocabulary, small);
  writeFileSync(path, `${small.join('\n')}\n${'a'.repeat(5000)}\n`);
  assert.throws(
    () => loadWordPiece(path, true),
    /marked\.txt: line 14 is 5000 characters long, but a word piece has at most 1000/,
  );
});

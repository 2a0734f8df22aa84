import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { UserError } from '../../src/system/errors.ts';
import { vocabularyIn } from '../../src/tokenizer/tokenizer-json.ts';
import { loadWordPiece, SPECIAL_TOKENS, unusualSettings, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { writeTokenizer } from '../../src/tokenizer/write-tokenizer.ts';
import { NO_TEST_DATA, testData } from '../support/test-data.ts';

// BERT tokenizers with other settings than BERT's own, from scripts/fixtures/tokenizer_kinds.py.

const fixtures = join(import.meta.dirname, '../fixtures/tokenizer');
const kinds = readdirSync(join(fixtures, 'kinds')).sort();
const data = testData();
const noData = existsSync(join(data, 'passages.jsonl.gz')) ? false : NO_TEST_DATA;
const root = mkdtempSync(join(tmpdir(), 'tokenizer-kinds-'));
after(() => rmSync(root, { recursive: true }));

interface Expected {
  text: string;
  ids: number[];
  starts: number[];
  ends: number[];
}

const expectedOf = (kind: string) =>
  readFileSync(join(fixtures, 'kinds', kind, 'expected.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Expected);

for (const kind of kinds) {
  const folder = join(fixtures, 'kinds', kind);

  test(`${kind}: odd Unicode and added tokens as transformers encodes them`, () => {
    const tokenizer = loadWordPiece(vocabularyIn(folder), null);
    assert.notEqual(unusualSettings(tokenizer), undefined);
    const again = wordPiece(tokenizer.vocabulary, unusualSettings(tokenizer)!);
    for (const { text, ...expected } of expectedOf(kind)) {
      const { ids, starts, ends } = tokenizer.encode(text);
      assert.deepEqual(
        { ids: [...ids], starts: [...starts], ends: [...ends] },
        expected,
        JSON.stringify(text),
      );
      assert.deepEqual(again.encode(text).ids, ids);
    }
  });

  test(`${kind}: is written as transformers saved it`, () => {
    const to = join(root, kind);
    cpSync(folder, to, { recursive: true });
    const tokenizer = loadWordPiece(vocabularyIn(folder), null);
    writeTokenizer(to, tokenizer, 512);
    const read = (dir: string) => JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8'));
    const theirs = read(folder);
    for (const token of theirs.added_tokens) token.special &&= SPECIAL_TOKENS.includes(token.content);
    assert.deepEqual(read(to), theirs);
    assert.deepEqual(loadWordPiece(vocabularyIn(to), null).settings, tokenizer.settings);
  });

  test(`${kind}: vocab.txt and tokenizer_config.json say the same`, {
    skip: kind.startsWith('added'),
  }, () => {
    const dir = join(root, `${kind}-list`);
    cpSync(folder, dir, { recursive: true });
    rmSync(join(dir, 'tokenizer.json'));
    cpSync(join(fixtures, 'vocab.txt'), join(dir, 'vocab.txt'));
    const { settings } = loadWordPiece(vocabularyIn(folder), null);
    assert.deepEqual(loadWordPiece(vocabularyIn(dir), null).settings, settings);
  });

  test(`${kind}: real texts as transformers encodes them`, {
    skip: kind.startsWith('added') ? 'of these no hashes are made' : noData,
  }, () => {
    const { settings } = loadWordPiece(vocabularyIn(folder), null);
    const { vocabulary } = loadWordPiece(join(data, 'bert-base-uncased-vocab.txt'), true);
    const tokenizer = wordPiece(vocabulary, settings);
    for (const { file, every, count, kinds } of JSON.parse(
      readFileSync(join(fixtures, 'real-kinds.json'), 'utf8'),
    )) {
      const lines = gunzipSync(readFileSync(join(data, file)))
        .toString()
        .trim()
        .split('\n')
        .filter((_, i) => i % every === 0);
      assert.equal(lines.length, count);
      lines.forEach((line, i) => {
        const ids = tokenizer.encode(JSON.parse(line).text).ids.join(' ');
        const hash = createHash('sha256').update(ids).digest('hex').slice(0, 8);
        assert.equal(hash, kinds[kind].slice(8 * i, 8 * i + 8), `${file} line ${i * every + 1}`);
      });
    }
  });
}

test('text.lowercase that differs from the files is refused; of a bare vocabulary its capitals decide', () => {
  const folder = join(fixtures, 'kinds', 'cased-without-accents');
  assert.throws(
    () => loadWordPiece(vocabularyIn(folder), true),
    (error) =>
      error instanceof UserError &&
      /tokenizer_config\.json: do_lower_case is false, text\.lowercase is true; set text\.lowercase to null/.test(
        error.message,
      ),
  );
  const lower = (pieces: string[]) => {
    const path = join(root, 'vocab.txt');
    writeFileSync(path, [...SPECIAL_TOKENS, ...pieces].join('\n'));
    return loadWordPiece(path, null).lowercase;
  };
  assert.deepEqual([lower(['a', '##b']), lower(['a', '##B'])], [true, false]);
});

test('settings that are no flags are refused', () => {
  const folder = join(root, 'no-flag');
  cpSync(join(fixtures, 'kinds', 'whole-ideographs'), folder, { recursive: true });
  writeFileSync(join(folder, 'tokenizer_config.json'), '{"strip_accents": "no"}');
  assert.throws(
    () => loadWordPiece(vocabularyIn(folder), null),
    /tokenizer_config\.json: strip_accents is "no", not true or false/,
  );
});

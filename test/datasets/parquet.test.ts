import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { formatOf, readDocuments } from '../../src/datasets/documents.ts';
import { type Fields, NO_FIELDS } from '../../src/datasets/formats/fields.ts';
import { readParquetRows } from '../../src/datasets/formats/parquet-file.ts';
import { readQrels } from '../../src/datasets/qrels.ts';
import { readQueries, readQuestionFile } from '../../src/datasets/questions.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// The fixtures were written by pyarrow, datasets, polars and duckdb: scripts/fixtures/parquet.py.

const fixtures = new URL('../fixtures/parquet/', import.meta.url).pathname;
const folder = temporaryFolder('parquet');

async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}
const documents = (path: string, fields: Partial<Fields> = {}) =>
  all(readDocuments(path, 'auto', { ...NO_FIELDS, ...fields }));

async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}

/** Copies a fixture, perhaps changed, into the folder of this test. */
function copy(fixture: string, name: string, change: (bytes: Buffer) => Buffer = (bytes) => bytes): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, change(readFileSync(join(fixtures, fixture))));
  return path;
}

// JSON.parse would round the number above 2^53.
const json = readFileSync(join(fixtures, 'rows.json'), 'utf8').replace('9007199254740993', '"$&"');
const rows = JSON.parse(json) as Record<string, unknown>[];
const expected = rows.map(({ id, title, text }) => ({ id: String(id), title: title ?? '', text }));

for (const name of ['none', 'snappy', 'gzip', 'brotli', 'lz4', 'zstd', 'groups', 'pages', 'v2', 'large']) {
  test(`${name}.parquet of pyarrow has the same rows as JSON`, async () => {
    const found = await all(readParquetRows(join(fixtures, `${name}.parquet`)));
    assert.deepEqual(
      found.map(({ value }) => value),
      rows,
    );
    assert.match(found[4].where, /\.parquet: row 5$/);
  });
}

for (const name of ['datasets', 'polars', 'duckdb', 'delta']) {
  test(`documents of ${name}.parquet`, async () => {
    const path = join(fixtures, `${name}.parquet`);
    assert.equal(formatOf(path), 'parquet');
    assert.deepEqual(await documents(path), expected);
  });
}

test('a folder of shards as the Hub has them', async () => {
  const path = join(fixtures, 'shards');
  assert.equal(formatOf(path), 'parquet', 'its README.md is not the document');
  assert.deepEqual(await documents(path), expected);
  assert.deepEqual(await documents(join(path, 'data')), expected);
  const [first, second] = [0, 1].map((n) => `data/train-0000${n}-of-00002.parquet`);
  const lone = dirname(dirname(copy(`shards/${second}`, `lone/${second}`)));
  await refuses(documents(lone), /train-00000-of-00002\.parquet: is missing, one of 2 shards/);
  assert.deepEqual(await documents(join(lone, second)), expected.slice(5), 'one shard can be named');
  copy(`shards/${first}`, 'configurations/a/x.parquet');
  copy(`shards/${first}`, 'configurations/b/x.parquet');
  const several = join(folder, 'configurations');
  await refuses(
    documents(several),
    /configurations: holds Parquet files in several folders \(a, b\); name one/,
  );
  copy(`shards/${first}`, 'configurations/corpus/x.parquet');
  assert.deepEqual(await documents(several), expected.slice(0, 5), 'BEIR has its documents in corpus');
});

test('Markdown beside Parquet files is a folder of notes', () => {
  copy('none.parquet', 'notes/tables/x.parquet');
  writeFileSync(join(folder, 'notes/bridges.md'), '# Bridges\n');
  assert.equal(formatOf(join(folder, 'notes')), 'text');
});

test('other columns by data.fields, and a text that is no text', async () => {
  const path = join(fixtures, 'none.parquet');
  const mapped = await documents(path, { id: 'question', title: 'text', text: 'title' });
  assert.deepEqual(mapped[1], { id: 'how long is it, 1?', title: rows[1].text, text: 'Osk “1”' });
  assert.equal(mapped[2].text, '', 'null is no text');
  await refuses(
    documents(path, { text: 'story' }),
    /none\.parquet: has no column "story", only "id", "title",/,
  );
  await refuses(documents(join(fixtures, 'qrels.parquet')), /has no column "text", only "query-id"/);
  await refuses(
    documents(path, { text: 'score' }),
    /none\.parquet: row 1: has "score" 0; "score" must be a string/,
  );
  await refuses(documents(join(fixtures, 'bytes.parquet')), /bytes\.parquet: row 1: has "text"/);
});

test('questions and judgements', async () => {
  const path = join(fixtures, 'squad.parquet');
  const { questions, unanswerable } = await readQuestionFile(path);
  assert.deepEqual(questions, [
    { question: 'How long is the Osk?', id: 's1', answers: ['40 km'], answerKind: 'string' },
  ]);
  assert.equal(unanswerable, 1);
  assert.deepEqual(await all(readQueries(path)), [
    { question: 'How long is the Osk?', id: 's1' },
    { question: 'Who dug it?', id: 's2' },
  ]);
  const judgements = await readQrels(join(fixtures, 'qrels.parquet'));
  assert.deepEqual(
    [...judgements].map(([query, judged]) => [query, ...judged]),
    [
      ['1', ['a', 1], ['b', 0]],
      ['2', ['a', 2]],
    ],
  );
  mkdirSync(join(folder, 'split'));
  for (const name of ['train', 'test'])
    copyFileSync(path, join(folder, `split/${name}-00000-of-00001.parquet`));
  await refuses(
    readQuestionFile(join(folder, 'split')),
    /holds Parquet files of several names \(test, train\)/,
  );
});

test('a damaged file is refused', async () => {
  const cut = copy('none.parquet', 'cut.parquet', (bytes) => bytes.subarray(0, 5000));
  await refuses(documents(cut), /cut\.parquet: is not a complete Parquet file; make or download it again/);
  // The checksums of pages are in this file.
  const flipped = copy('groups.parquet', 'flipped.parquet', (bytes) => {
    const at = bytes.indexOf('river');
    bytes[at] ^= 1;
    return bytes;
  });
  await refuses(
    documents(flipped),
    /flipped\.parquet: the file is damaged: column "text" of row group \d+ has a page/,
  );
  const zeros = copy('zstd.parquet', 'zeros.parquet', (bytes) => bytes.fill(0, 4, 900));
  await refuses(documents(zeros), /zeros\.parquet: the file is damaged/);
  const pointer = copy('none.parquet', 'pointer.parquet', () =>
    Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'),
  );
  await refuses(documents(pointer), /is only a pointer of Git LFS to the file; run "git lfs pull"/);
  const renamed = copy('none.parquet', 'renamed.jsonl');
  await refuses(documents(renamed), /renamed\.jsonl: is a Parquet file under another name/);
  await refuses(documents(join(folder, 'none.parquet')), /none\.parquet: no such file/);
});

import assert from 'node:assert/strict';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatOf, readDocuments } from '../../src/datasets/documents.ts';
import { readArrowRows } from '../../src/datasets/formats/arrow-file.ts';
import { readQueries } from '../../src/datasets/questions.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// The fixtures were written by pyarrow, datasets, polars and pandas from the rows of the Parquet fixtures:
// scripts/fixtures/arrow.py.

const fixtures = new URL('../fixtures/arrow/', import.meta.url).pathname;
const folder = temporaryFolder('arrow');

async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}
const documents = (path: string) => all(readDocuments(path));
async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}
function write(name: string, bytes: Uint8Array): string {
  writeFileSync(join(folder, name), bytes);
  return join(folder, name);
}

// JSON.parse would round the number above 2^53.
const json = readFileSync(join(fixtures, '../parquet/rows.json'), 'utf8').replace('9007199254740993', '"$&"');
const rows = JSON.parse(json) as Record<string, unknown>[];
const expected = rows.map(({ id, title, text }) => ({ id: String(id), title: title ?? '', text }));

for (const name of [
  'uncompressed.feather',
  'lz4.feather',
  'zstd.feather',
  'pandas.feather',
  'stream.arrows',
  'polars.arrow',
]) {
  test(`${name} has the same rows as JSON`, async () => {
    const path = join(fixtures, name);
    assert.equal(formatOf(path), 'arrow');
    const found = await all(readArrowRows(path));
    assert.deepEqual(
      found.map(({ value }) => value),
      rows,
    );
    assert.match(found[9].where, /: row 10$/);
    assert.deepEqual(await documents(path), expected);
  });
}

test('blocks of LZ4 that refer to one another, and a dictionary that grows', async () => {
  const long = Array.from({ length: 6000 }, (_, n) => `The river ${n % 20} is long. `).join('');
  assert.deepEqual(await documents(join(fixtures, 'long.lz4.feather')), [{ id: 'a', title: '', text: long }]);
  const titles = (await documents(join(fixtures, 'dictionary.arrows'))).map(({ title }) => title);
  assert.deepEqual(titles, ['a', 'b', 'a', 'c', 'a', 'b']);
});

test('a data set as save_to_disk of datasets writes it', async () => {
  const saved = join(fixtures, 'saved');
  assert.equal(formatOf(saved), 'arrow');
  assert.deepEqual(await documents(saved), expected, 'without the cache of map');
  assert.deepEqual(await documents(join(saved, 'data-00001-of-00002.arrow')), expected.slice(5));
  assert.deepEqual(
    await all(readQueries(saved)),
    rows.map(({ id, question }) => ({ id: String(id), question })),
  );
  const splits = join(fixtures, 'splits');
  assert.equal(formatOf(splits), 'arrow');
  await refuses(documents(splits), /splits: holds Arrow files in several folders \(test, train\); name one/);
  assert.deepEqual(await documents(join(splits, 'train')), expected.slice(0, 3));
  const copy = join(folder, 'copy');
  cpSync(saved, copy, { recursive: true });
  rmSync(join(copy, 'data-00000-of-00002.arrow'));
  await refuses(documents(copy), /copy\/data-00000-of-00002\.arrow: is missing; download it/);
  const state = join(copy, 'state.json');
  writeFileSync(state, '{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}');
  await refuses(
    documents(copy),
    /state\.json: this data set is a selection of rows that datasets 1 saved; load/,
  );
});

test('what is not complete, or no Arrow file, is refused', async () => {
  const file = readFileSync(join(fixtures, 'uncompressed.feather'));
  const stream = readFileSync(join(fixtures, 'stream.arrows'));
  const incomplete = /: is not a complete Arrow file/;
  for (const [n, bytes] of [
    Buffer.alloc(0),
    file.subarray(0, 3000),
    stream.subarray(0, 5),
    stream.subarray(0, 5000),
  ].entries())
    await refuses(documents(write(`cut${n}.arrow`, bytes)), incomplete);
  const unmarked = write('unmarked.arrow', stream.subarray(0, -8));
  assert.deepEqual(await documents(unmarked), expected, 'with a warning');
  await refuses(
    documents(join(fixtures, 'version1.feather')),
    /version1\.feather: is a Feather file of version 1/,
  );
  const pointer = Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n');
  await refuses(documents(write('pointer.arrow', pointer)), /is only a pointer of Git LFS to the file/);
  await refuses(documents(write('text.arrow', Buffer.from('no table at all'))), incomplete);
  await refuses(documents(join(folder, 'none.arrow')), /none\.arrow: no such file/);
});

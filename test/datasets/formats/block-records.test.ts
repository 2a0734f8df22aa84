import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readBlockRecords } from '../../../src/datasets/formats/block-records.ts';
import { damage, userError, weightsPath } from '../../support/weights.ts';

const dir = mkdtempSync(join(tmpdir(), 'realm-records-'));
after(() => rmSync(dir, { recursive: true, force: true }));

const TEXTS = ['The bridge was finished in 1882.', '', 'Zürich – naïve café', '', 'x'.repeat(300)];

test('records of every protocol that NumPy has used become documents, in order', () => {
  for (const name of ['block_records.npy', 'block_records-2.npy', 'block_records-3.npy']) {
    assert.deepEqual(
      [...readBlockRecords(weightsPath(name))],
      TEXTS.map((text, i) => ({ id: String(i), title: '', text })),
      name,
    );
  }
});

test('other arrays and damaged files are refused', () => {
  const read = (path: string) => [...readBlockRecords(path)];
  assert.throws(
    () => read(weightsPath('numbers.npy')),
    userError(/not a list of records, but \{'descr': '<f8'/),
  );
  assert.throws(() => read(weightsPath('objects.npy')), userError(/record 1 is not text in bytes/));
  assert.throws(() => read(weightsPath('dtypes.bin')), userError(/does not start like a NumPy file/));
  const copy = join(dir, 'torn.npy');
  for (const name of ['block_records.npy', 'block_records-2.npy'])
    damage(weightsPath(name), copy, () => read(copy));
});

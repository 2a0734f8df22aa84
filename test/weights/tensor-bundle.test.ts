import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { readTensorBundle } from '../../src/weights/tensor-bundle.ts';
import { damage, userError, weightsPath } from '../support/weights.ts';

const dir = mkdtempSync(join(tmpdir(), 'realm-bundle-'));
after(() => rmSync(dir, { recursive: true, force: true }));

const DATA = 'data-00000-of-00001';

describe('a checkpoint of TensorFlow', () => {
  const { tensors, close } = readTensorBundle(weightsPath('bundle.index'));
  after(close);
  const values = (name: string) => [...tensors.get(name)!.read()];

  test('names and shapes; texts are skipped', () => {
    assert.equal(tensors.size, 68);
    assert.ok(!tensors.has('kinds/text'));
    assert.deepEqual(tensors.get('kinds/float32')!.shape, [2, 3]);
    assert.deepEqual(tensors.get('scalar')!.shape, []);
    assert.deepEqual(tensors.get('empty')!.shape, [0, 3]);
  });

  test('numbers of every kind', () => {
    const floats = [0, -1.5, 65504, Math.fround(6e-8), Math.fround(1 / 3), -Infinity];
    assert.deepEqual(values('kinds/float32'), floats);
    assert.deepEqual(values('kinds/float64'), floats);
    assert.deepEqual(values('kinds/float16'), [0, -1.5, 65504, 2 ** -24, 1365 / 4096, -Infinity]);
    assert.deepEqual(values('kinds/bfloat16'), [0, -1.5, 65536, 129 * 2 ** -31, 171 / 512, -Infinity]);
    assert.deepEqual(values('kinds/int64'), [1, -2, 2 ** 40]);
    assert.deepEqual(values('scalar'), [2.5]);
    assert.deepEqual(values('empty'), []);
    assert.deepEqual([...tensors.get('kinds/float32')!.read(1, 3)], [-1.5, 65504]);
  });

  test('names that share a prefix', () => {
    for (let i = 0; i < 60; i++) {
      assert.deepEqual(values(`bert/encoder/layer_${i}/attention/output/dense/bias`), [i]);
    }
  });
});

test('the parts of a partitioned variable are joined by rows', () => {
  const parts = readTensorBundle(weightsPath('bundle-parts.index'));
  const split = parts.tensors.get('split')!;
  assert.deepEqual([parts.tensors.size, split.shape, split.dtype], [1, [4, 2], 'F32']);
  assert.deepEqual([...split.read()], Array(8).fill(1));
  parts.close();

  // Other numbers in the data file: a part of a variable is read without its checksum.
  for (const name of ['index', DATA])
    copyFileSync(weightsPath(`bundle-parts.${name}`), join(dir, `parts.${name}`));
  writeFileSync(
    join(dir, `parts.${DATA}`),
    new Uint8Array(Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8]).buffer),
  );
  const changed = readTensorBundle(join(dir, 'parts.index'));
  assert.deepEqual([...changed.tensors.get('split')!.read(0, 8)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual([...changed.tensors.get('split')!.read(3, 6)], [4, 5, 6]);
  assert.throws(() => changed.tensors.get('split')!.read(), userError(/has other bytes in "split"/));
  changed.close();
});

/** A copy of the fixture whose bytes are changed. */
function changed(part: 'index' | typeof DATA, change: (bytes: Buffer) => void): string {
  for (const name of ['index', DATA]) copyFileSync(weightsPath(`bundle.${name}`), join(dir, `torn.${name}`));
  const path = join(dir, `torn.${part}`);
  const bytes = readFileSync(path);
  change(bytes);
  writeFileSync(path, bytes);
  return join(dir, 'torn.index');
}

function readAll(path: string): void {
  const { tensors, close } = readTensorBundle(path);
  try {
    for (const tensor of tensors.values()) tensor.read();
  } finally {
    close();
  }
}

describe('refused with the reason', () => {
  test('numbers and names that differ from the saved ones', () => {
    const data = changed(DATA, (bytes) => {
      bytes[0] ^= 1;
    });
    assert.throws(() => readAll(data), userError(/has other bytes in "bert.* than were saved \(CRC-32C\)/));
    const index = changed('index', (bytes) => {
      bytes[100] ^= 1;
    });
    assert.throws(() => readAll(index), userError(/the checksum of the block at byte 0 does not match/));
  });

  test('another file, no data', () => {
    assert.throws(() => readAll(weightsPath('dtypes.bin')), userError(/not a complete table of tensors/));
    const path = changed('index', () => {});
    rmSync(join(dir, `torn.${DATA}`));
    assert.throws(() => readAll(path), userError(/torn\.data-00000-of-00001: no such file/));
  });

  test('any damage', () => {
    const path = changed('index', () => {});
    damage(weightsPath('bundle.index'), path, () => readAll(path));
    copyFileSync(weightsPath(`bundle-parts.${DATA}`), join(dir, `torn-parts.${DATA}`));
    const parts = join(dir, 'torn-parts.index');
    damage(weightsPath('bundle-parts.index'), parts, () => readAll(parts));
    const data = join(dir, `torn.${DATA}`);
    changed('index', () => {});
    damage(weightsPath(`bundle.${DATA}`), data, () => readAll(path));
  });
});

import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { crc32 } from '@node-rs/crc32';
import { openFile } from '../../src/binary/file.ts';
import { readZip } from '../../src/binary/zip.ts';
import { readTorchFile } from '../../src/weights/torch-file.ts';
import { damage, userError, weightsPath } from '../support/weights.ts';

const dir = mkdtempSync(join(tmpdir(), 'realm-torch-'));
after(() => rmSync(dir, { recursive: true, force: true }));

// The same tensors as an archive, and as PyTorch before 1.6 saved them.
for (const name of ['dtypes.bin', 'legacy.bin'])
  describe(`${name} of torch.save`, () => {
    const { tensors, close } = readTorchFile(weightsPath(name));
    after(close);
    const values = (name: string) => [...tensors.get(name)!.read()];

    test('names and shapes; values that are not tensors are skipped', () => {
      const shapes = Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));
      assert.deepEqual(shapes, {
        f32: [2, 3],
        f64: [2, 3],
        f16: [2, 3],
        bf16: [2, 3],
        i64: [3],
        i32: [2, 1],
        u8: [1],
        flags: [1],
        scalar: [],
        empty: [0, 3],
        parameter: [2],
        table: [3, 4],
        shared: [2, 3],
        transposed: [4, 3],
      });
    });

    test('floats of every width', () => {
      assert.deepEqual(values('f32'), [0, -1.5, 65504, Math.fround(6e-8), Math.fround(1 / 3), -Infinity]);
      assert.deepEqual(values('f64'), values('f32'));
      assert.deepEqual(values('f16'), [0, -1.5, 65504, 2 ** -24, 1365 / 4096, -Infinity]);
      assert.deepEqual(values('bf16'), [0, -1.5, 65536, 129 * 2 ** -31, 171 / 512, -Infinity]);
      assert.deepEqual(values('i64'), [1, -2, 2 ** 40]);
      assert.deepEqual(values('i32'), [3, -4]);
      assert.deepEqual(values('scalar'), [2.5]);
      assert.deepEqual(values('empty'), []);
      assert.deepEqual(values('parameter'), [1, 2]);
      assert.throws(() => values('u8'), userError(/\.bin: tensor "u8" is of U8/));
    });

    test('tensors that share their numbers, and one with numbers in another order', () => {
      assert.deepEqual(values('table'), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
      assert.deepEqual(values('shared'), [5, 6, 7, 9, 10, 11]);
      assert.deepEqual(values('transposed'), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    });

    test('a part of a tensor', () => {
      assert.deepEqual([...tensors.get('table')!.read(4, 7)], [4, 5, 6]);
      assert.deepEqual([...tensors.get('transposed')!.read(3, 5)], [1, 5]);
      assert.deepEqual([...tensors.get('bf16')!.read(1, 2)], [-1.5]);
    });
  });

describe('refused with the reason', () => {
  const refused = (name: string, message: RegExp) =>
    test(name, () => assert.throws(() => readTorchFile(weightsPath(name)), userError(message)));
  // Nothing was executed: the test would print a line, and the name is the message.
  refused('hostile.bin', /its pickle names "(posix|nt)\.system", which is not read .*no code of it was run/);
  refused(
    'hostile-legacy.bin',
    /its pickle names "(posix|nt)\.system", which is not read .*no code of it was run/,
  );
  refused('compressed.bin', /data\.pkl" is compressed, which PyTorch never does/);
  refused('big-endian.bin', /big-endian/);
  refused('numbers.npy', /is not a file of torch\.save/);

  test('numbers that differ from the saved ones', () => {
    const path = join(dir, 'changed.bin');
    const bytes = readFileSync(weightsPath('dtypes.bin'));
    const file = openFile(weightsPath('dtypes.bin'), '');
    const { begin } = readZip(file).get('archive/data/0')!;
    file.close();
    bytes[begin + 5] ^= 1;
    writeFileSync(path, bytes);
    const { tensors, close } = readTorchFile(path);
    assert.throws(() => tensors.get('f32')!.read(), userError(/other bytes in tensor "f32" than were saved/));
    close();
  });

  test('the older format, cut within a storage, or with another number of numbers', () => {
    const path = join(dir, 'legacy.bin');
    const bytes = readFileSync(weightsPath('legacy.bin'));
    const refuses = (changed: Uint8Array, message: RegExp) => {
      writeFileSync(path, changed);
      assert.throws(() => readTorchFile(path), userError(message));
    };
    refuses(bytes.subarray(0, -3), /ends within the storage "\d+"; download it again/);
    const count = Buffer.alloc(8);
    count.writeBigInt64LE(12n);
    const at = bytes.lastIndexOf(Buffer.concat([count, Buffer.alloc(4)])); // of `table`, which starts with 0
    assert.ok(at > 0);
    bytes[at]++;
    refuses(bytes, /has another number of numbers in the storage/);
  });

  for (const name of ['dtypes.bin', 'legacy.bin'])
    test(`any damage of ${name}`, () => {
      const copy = join(dir, 'torn.bin');
      damage(weightsPath(name), copy, () => {
        const { tensors, close } = readTorchFile(copy);
        try {
          for (const [name, tensor] of tensors) if (!['u8', 'flags'].includes(name)) tensor.read();
        } finally {
          close();
        }
      });
    });
});

test('tensors beyond 4 GiB, in an archive of 64-bit sizes', () => {
  // The fixture's files again, the numbers far behind the pickle; the file is sparse.
  const path = join(dir, 'large.bin');
  const source = openFile(weightsPath('dtypes.bin'), '');
  const files = [...readZip(source)].map(([name, { begin, end }], i) => ({
    name,
    data: new Uint8Array(source.read(begin, end - begin)),
    at: 5 * 2 ** 30 + i * 2 ** 20,
  }));
  source.close();
  writeZip64(path, files);
  const { tensors, close } = readTorchFile(path);
  assert.deepEqual([...tensors.get('shared')!.read()], [5, 6, 7, 9, 10, 11]);
  close();
});

/** An archive with stored files at given places; every size is told in 64 bits. */
function writeZip64(path: string, files: { name: string; data: Uint8Array; at: number }[]): void {
  const fd = openSync(path, 'w');
  const directory: Buffer[] = [];
  for (const { name, data, at } of files) {
    const local = Buffer.alloc(30 + name.length);
    local.writeUInt32LE(0x04034b50);
    local.writeUInt16LE(name.length, 26);
    local.write(name, 30);
    writeSync(fd, local, 0, local.length, at);
    writeSync(fd, data, 0, data.length, at + local.length);
    const entry = Buffer.alloc(46 + name.length + 28);
    entry.writeUInt32LE(0x02014b50);
    entry.writeUInt32LE(crc32(data), 16);
    for (const place of [20, 24, 42]) entry.writeUInt32LE(0xffffffff, place);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt16LE(28, 30);
    entry.write(name, 46);
    entry.writeUInt16LE(1, 46 + name.length);
    entry.writeUInt16LE(24, 48 + name.length);
    [data.length, data.length, at].forEach((n, i) => {
      entry.writeBigUInt64LE(BigInt(n), 50 + name.length + 8 * i);
    });
    directory.push(entry);
  }
  const first = Buffer.from('PK\x03\x04');
  writeSync(fd, first, 0, 4, 0);
  const start = 6 * 2 ** 30;
  const all = Buffer.concat(directory);
  const end = Buffer.alloc(56 + 20 + 22);
  end.writeUInt32LE(0x06064b50);
  end.writeBigUInt64LE(44n, 4);
  end.writeBigUInt64LE(BigInt(files.length), 24);
  end.writeBigUInt64LE(BigInt(files.length), 32);
  end.writeBigUInt64LE(BigInt(all.length), 40);
  end.writeBigUInt64LE(BigInt(start), 48);
  end.writeUInt32LE(0x07064b50, 56);
  end.writeBigUInt64LE(BigInt(start + all.length), 64);
  end.writeUInt32LE(1, 72);
  end.writeUInt32LE(0x06054b50, 76);
  end.fill(0xff, 84, 96);
  writeSync(fd, Buffer.concat([all, end]), 0, all.length + end.length, start);
  closeSync(fd);
}

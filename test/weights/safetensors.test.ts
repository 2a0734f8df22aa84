import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { UserError } from '../../src/system/errors.ts';
import { readSafetensors, writeSafetensors } from '../../src/weights/safetensors.ts';
import { fixturePath, writeSample } from '../support/model-fixture.ts';

let dir: string;
let path: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'safetensors-'));
  path = join(dir, 'x.safetensors');
});
after(() => rmSync(dir, { recursive: true }));

describe("a file of Python's safetensors package", () => {
  const { tensors, metadata, close } = readSafetensors(fixturePath('dtypes.safetensors'));
  after(close);
  const values = (name: string) => [...tensors.get(name)!.read()];
  const third = Math.fround(1 / 3);

  test('shapes and metadata', () => {
    assert.deepEqual(tensors.get('f32')!.shape, [2, 3]);
    assert.deepEqual(tensors.get('scalar')!.shape, []);
    assert.deepEqual(tensors.get('empty')!.shape, [0, 3]);
    assert.equal(tensors.size, 10);
    assert.deepEqual({ ...metadata }, { format: 'pt', quote: 'a "b" {c}: é' });
  });

  test('floats of every width, subnormal and infinite ones too', () => {
    assert.deepEqual(values('f32'), [0, -1.5, 65504, Math.fround(6e-8), third, -Infinity]);
    assert.deepEqual(values('f64'), values('f32'));
    assert.deepEqual(values('f16'), [0, -1.5, 65504, 2 ** -24, 1365 / 4096, -Infinity]);
    assert.deepEqual(values('bf16'), [0, -1.5, 65536, 129 * 2 ** -31, 171 / 512, -Infinity]);
    assert.deepEqual(values('scalar'), [2.5]);
    assert.deepEqual(values('empty'), []);
  });

  test('integers', () => {
    assert.deepEqual(values('i64'), [1, -2, 2 ** 40]);
    assert.deepEqual(values('i32'), [3, -4]);
  });

  test('a kind of element that realm cannot convert may be in the file, but cannot be read', () => {
    assert.throws(() => values('u8'), userError(/dtypes\.safetensors: tensor "u8" is of U8/));
    assert.throws(() => values('flags'), userError(/"flags" is of BOOL/));
  });
});

describe('writing', () => {
  test('written tensors are read back', async () => {
    await writeSample(path);
    const { tensors, metadata, close } = readSafetensors(path);
    assert.deepEqual([...tensors.keys()].sort(), ['__proto__', 'empty', 'layer.0.kernel', 'scalar']);
    assert.deepEqual(tensors.get('layer.0.kernel')!.shape, [2, 3]);
    assert.deepEqual([...tensors.get('layer.0.kernel')!.read()], [1, 2, 3, 4, 5, 6]);
    assert.deepEqual([...tensors.get('scalar')!.read()], [-0.5]);
    assert.deepEqual([...tensors.get('__proto__')!.read()], [7]);
    assert.deepEqual({ ...metadata }, { step: '12', note: 'ü "quoted"' });
    close();
    assert.deepEqual(readdirSync(dir), ['x.safetensors'], 'nothing is left beside it');
  });

  test("the bytes are those that Python's package reads", async () => {
    await writeSample(path);
    assert.deepEqual(readFileSync(path), readFileSync(fixturePath('written-by-us.safetensors')));
  });

  test('the values of a tensor are requested when its turn comes, once', async () => {
    const log: string[] = [];
    const lazy = (name: string) => ({
      name,
      shape: [1],
      data: async () => {
        log.push(name);
        return Float32Array.of(1);
      },
    });
    await writeSafetensors(path, [lazy('a'), lazy('b')]);
    assert.deepEqual(log, ['a', 'b']);
  });

  test('a failure leaves the old file and nothing else', async () => {
    await writeSample(path);
    const old = readFileSync(path);
    const bad = { name: 'b', shape: [3], data: Float32Array.of(1) };
    await assert.rejects(writeSafetensors(path, [bad]), /"b" has 1 values for the shape \[3\]/);
    await assert.rejects(
      writeSafetensors(path, [bad, { ...bad, data: new Float32Array(3) }]),
      /two tensors named "b"/,
    );
    assert.deepEqual(readFileSync(path), old);
    assert.deepEqual(readdirSync(dir), ['x.safetensors']);
  });
});

describe('a file that breaks the format is refused with its name and what is wrong', () => {
  const tensor = (begin: number, end: number, more: object = {}) => ({
    dtype: 'F32',
    shape: [(end - begin) / 4],
    data_offsets: [begin, end],
    ...more,
  });

  /** Writes a header, as an object or as text, before `bytes` bytes of data. */
  function file(header: object | string, bytes: number): void {
    const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(json.length));
    writeFileSync(path, Buffer.concat([head, json, Buffer.alloc(bytes)]));
  }

  const wrong: [string, object | string, number, RegExp][] = [
    [
      'overlap',
      { a: tensor(0, 8), b: tensor(4, 12) },
      12,
      /"b" starts at byte 4, but the one before ends at 8/,
    ],
    [
      'the same bytes twice',
      { a: tensor(0, 8), b: tensor(0, 8) },
      8,
      /starts at byte 0, but the one before ends at/,
    ],
    [
      'hole',
      { a: tensor(0, 4), b: tensor(8, 12) },
      12,
      /bytes 4 to 8, before tensor "b", belong to no tensor/,
    ],
    ['hole in front', { a: tensor(4, 8) }, 8, /bytes 0 to 4/],
    ['out of range', { a: tensor(0, 8) }, 4, /"a" ends at byte 8, the data at 4/],
    ['bytes left over', { a: tensor(0, 4) }, 9, /last 5 bytes belong to no tensor/],
    ['unknown dtype', { a: tensor(0, 4, { dtype: 'F31' }) }, 4, /"a" has the unknown dtype "F31"/],
    ['dtype of the prototype', { a: tensor(0, 4, { dtype: 'toString' }) }, 4, /unknown dtype/],
    ['size mismatch', { a: tensor(0, 8, { shape: [3] }) }, 8, /"a" of F32 \[3\] needs 12 bytes.* hold 8/],
    ['huge shape', { a: tensor(0, 8, { shape: [2 ** 40, 2 ** 40] }) }, 8, /needs .* bytes/],
    ['negative size', { a: tensor(0, 4, { shape: [-1] }) }, 4, /"a" has the shape \[-1\]/],
    ['fraction of a size', { a: tensor(0, 4, { shape: [0.5] }) }, 4, /the shape \[0\.5\]/],
    ['offsets reversed', { a: tensor(0, 4, { data_offsets: [4, 0] }) }, 4, /the data offsets \[4,0\]/],
    ['three offsets', { a: tensor(0, 4, { data_offsets: [0, 4, 8] }) }, 4, /the data offsets/],
    ['no entry', { a: 7 }, 0, /"a" is not an object/],
    ['metadata of numbers', { __metadata__: { a: 7 } }, 0, /metadata "a" is not a string/],
    [
      'duplicate',
      `{"a":${JSON.stringify(tensor(0, 4))},"\\u0061":${JSON.stringify(tensor(0, 4))}}`,
      4,
      /"a" twice/,
    ],
    [
      'duplicate field',
      '{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}',
      4,
      /"dtype" twice/,
    ],
    ['not JSON', '{"a":', 0, /header is not JSON/],
    ['a list', '[]', 0, /does not start with "\{"/],
  ];
  for (const [name, header, bytes, message] of wrong) {
    test(name, () => {
      file(header, bytes);
      assert.throws(() => readSafetensors(path), userError(message));
    });
  }

  test('a key that appears in two different tensors is not a duplicate', () => {
    file({ dtype: tensor(0, 4), 'a "b": {': tensor(4, 8) }, 8);
    const { tensors, close } = readSafetensors(path);
    assert.deepEqual([...tensors.keys()], ['dtype', 'a "b": {']);
    close();
  });

  test('a shape nested deep', () => {
    const deep = `${'['.repeat(50_000)}${']'.repeat(50_000)}`;
    file(`{"a":{"dtype":"F32","shape":${deep},"data_offsets":[0,4]}}`, 4);
    assert.throws(() => readSafetensors(path), userError(/has the shape something nested too deep/));
  });

  test('text that is not UTF-8', () => {
    file('{"a\u00e9":1}', 0);
    const bytes = readFileSync(path);
    bytes[11] = 0xff;
    writeFileSync(path, bytes);
    assert.throws(() => readSafetensors(path), userError(/not JSON in UTF-8/));
  });

  test('a header length beyond the file or the limit allocates nothing', () => {
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(90_000_000n);
    writeFileSync(path, head);
    assert.throws(() => readSafetensors(path), userError(/header needs 90000008 bytes, the file has 8/));
    head.writeBigUInt64LE(2n ** 63n);
    writeFileSync(path, head);
    assert.throws(() => readSafetensors(path), userError(/header would be 9223372036854775808 bytes/));
  });

  test('truncated at any byte', async () => {
    await writeSample(path);
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length));
      assert.throws(
        () => readSafetensors(path),
        userError(/not a complete safetensors file/),
        `${length} bytes`,
      );
    }
  });

  test('truncated after it was opened', async () => {
    await writeSample(path);
    const { tensors, close } = readSafetensors(path);
    truncateSync(path, readFileSync(path).length - 24);
    assert.throws(
      () => tensors.get('layer.0.kernel')!.read(),
      userError(/ended at byte \d+ while being read/),
    );
    close();
  });

  test('no file, and a folder', () => {
    assert.throws(() => readSafetensors(join(dir, 'none')), userError(/none: no such file/));
    assert.throws(() => readSafetensors(dir), userError(/is not a file/));
  });
});

test('tensors beyond 4 GiB are read by position', (t) => {
  // A sparse file: a hole of 4 GiB, which takes no room on the disk, then the tensor to read.
  const GAP = 2 ** 32;
  const header = Buffer.from(
    JSON.stringify({
      far: { dtype: 'F32', shape: [2], data_offsets: [GAP, GAP + 8] },
      gap: { dtype: 'U8', shape: [GAP], data_offsets: [0, GAP] },
    }),
  );
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(path, Buffer.concat([head, header]));
  try {
    truncateSync(path, 8 + header.length + GAP);
    writeFileSync(path, Buffer.from(Float32Array.of(1.5, -2).buffer), { flag: 'a' });
  } catch {
    return t.skip('this file system holds no such file');
  }
  const { tensors, close } = readSafetensors(path);
  assert.deepEqual([...tensors.get('far')!.read()], [1.5, -2]);
  close();
});

function userError(message: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof UserError, String(error));
    assert.match(error.message, message);
    return true;
  };
}

import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  bestDivision,
  difference,
  findShard,
  listShards,
  readShards,
  type Shard,
  shardOrigin,
  shardRange,
  writeShard,
} from '../../src/retrieval/shards.ts';
import { UserError } from '../../src/system/errors.ts';
import { sha256File } from '../../src/system/files.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('shards');
const SOURCE = { corpusSha256: 'c', weightsSha256: 'w', encoding: 'e', rows: 5000, dimensions: 2 };
const ORIGIN = shardOrigin(SOURCE, 'engine');

/** Row r has the values 2 r and 2 r + 1, in pieces of `rows`. */
async function* vectors(shard: Shard, rows = 700) {
  const { first, end } = shardRange(shard, SOURCE.rows);
  for (let at = first; at < end; at += rows)
    yield Float32Array.from({ length: 2 * Math.min(rows, end - at) }, (_, i) => 2 * at + i);
}
const written = (dir: string, number: number, of: number, origin = ORIGIN) =>
  writeShard(dir, { number, of }, origin, vectors({ number, of }));
const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof UserError && message.test(error.message);

test('shards are consecutive ranges of whole pieces of 1,024 blocks that differ by one piece at most', () => {
  for (const blocks of [1, 1023, 1024, 1025, 5000, 21_015_324])
    for (const of of [1, 2, 3, 7, 64]) {
      const all = Array.from({ length: of }, (_, i) => shardRange({ number: i + 1, of }, blocks));
      assert.equal(all[0].first, 0);
      assert.equal(all.at(-1)!.end, blocks);
      for (const [i, { first, end }] of all.entries()) {
        assert.ok(first <= end && (first % 1024 === 0 || first === blocks));
        if (i > 0) assert.equal(first, all[i - 1].end);
      }
      const pieces = all.map(({ first, end }) => Math.ceil((end - first) / 1024));
      assert.ok(Math.max(...pieces) - Math.min(...pieces) <= 1, `${pieces}`);
    }
});

test('a shard is a file whose name has its SHA-256, and is read again from any block on', async () => {
  const dir = join(folder, 'whole');
  const files = [await written(dir, 1, 2), await written(dir, 2, 2)];
  assert.deepEqual(readdirSync(dir).sort(), files.map(({ path }) => path.slice(dir.length + 1)).sort());
  for (const { path, sha256 } of files) {
    assert.equal(sha256File(path), sha256);
    assert.ok(path.includes(sha256));
  }
  assert.deepEqual(listShards(dir), files);
  assert.deepEqual(await findShard(dir, { number: 2, of: 2 }, ORIGIN), files[1]);
  assert.equal(await findShard(dir, { number: 2, of: 3 }, ORIGIN), undefined);
  // Any reader of safetensors can read it.
  const { tensors, close } = readSafetensors(files[1].path);
  assert.deepEqual(tensors.get('embeddings')!.shape, [5000 - 2048, 2]);
  close();
  for (const first of [0, 100, 2048, 4096, 4999]) {
    const read: number[] = [];
    for await (const piece of readShards(files, first)) read.push(...piece);
    assert.deepEqual(
      read,
      Array.from({ length: 2 * (5000 - first) }, (_, i) => 2 * first + i),
    );
  }
});

test('a shard without blocks is a file too', async () => {
  const dir = join(folder, 'empty');
  const files = await Promise.all(Array.from({ length: 7 }, (_, i) => written(dir, i + 1, 7)));
  assert.equal(files.filter(({ path }) => readFileSync(path).length < 1000).length, 2); // 5 pieces for 7 shards
  assert.equal(bestDivision(listShards(dir), SOURCE)!.missing.length, 0);
});

test('two that write the same shard at once leave one file, and a failure leaves none', async () => {
  const dir = join(folder, 'twice');
  const [a, b] = await Promise.all([written(dir, 1, 2), written(dir, 1, 2)]);
  assert.deepEqual(a, b);
  assert.equal(readdirSync(dir).length, 1);
  await assert.rejects(
    writeShard(dir, { number: 2, of: 2 }, ORIGIN, vectors({ number: 1, of: 2 })),
    /values for the shape/,
  );
  async function* fails() {
    yield Float32Array.of(1, 2);
    throw new Error('the engine failed');
  }
  await assert.rejects(writeShard(dir, { number: 2, of: 2 }, ORIGIN, fails()), /the engine failed/);
  assert.equal(readdirSync(dir).length, 1);
});

test('damaged, foreign and incomplete files are no shards', async () => {
  const dir = join(folder, 'damaged');
  const { path } = await written(dir, 1, 1);
  const bytes = readFileSync(path);
  mkdirSync(join(dir, `2-of-2-${'0'.repeat(64)}.safetensors`));
  writeFileSync(join(dir, `1-of-2-${'0'.repeat(64)}.safetensors`), bytes); // of another length
  writeFileSync(join(dir, `1-of-3-${'0'.repeat(64)}.safetensors`), 'rubbish');
  writeFileSync(join(dir, 'note.txt'), '');
  assert.deepEqual(
    listShards(dir).map((file) => file.path),
    [path],
  );
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(path, bytes);
  assert.equal(await findShard(dir, { number: 1, of: 1 }, ORIGIN), undefined);
  await assert.rejects(
    async () => {
      for await (const piece of readShards(listShards(dir), 0))
        assert.ok(piece.length === 0, 'no row of a damaged file');
    },
    refusal(/is damaged.*remove it and make it again with "realm embed --shard 1\/1"/),
  );
  // Made again, it replaces the damaged one.
  await written(dir, 1, 1);
  assert.ok(await findShard(dir, { number: 1, of: 1 }, ORIGIN));
});

test('shards of one index have the same source, version and engine', async () => {
  const dir = join(folder, 'mixed');
  await written(dir, 1, 3);
  await written(dir, 2, 3);
  const others = {
    'another corpus': { corpusSha256: 'x' },
    'other weights': { weightsSha256: 'x' },
    'other settings of text or model': { encoding: 'x' },
    'realm 9.9.9, not 0.1.0': { version: '9.9.9' },
    'the engine wasm, not engine': { engine: 'wasm' },
  };
  for (const [words, change] of Object.entries(others)) {
    const other = { ...ORIGIN, ...change };
    assert.equal(difference(other, ORIGIN), words);
    const { path } = await written(dir, 3, 3, other);
    assert.deepEqual(bestDivision(listShards(dir), SOURCE)!.missing, [3], words);
    rmSync(path);
  }
  assert.equal(difference(ORIGIN, { ...ORIGIN }), undefined);
  // The most complete division counts, not the largest.
  await written(dir, 1, 1);
  assert.deepEqual(bestDivision(listShards(dir), SOURCE), {
    of: 1,
    files: listShards(dir).slice(0, 1),
    missing: [],
  });
  assert.equal(bestDivision(listShards(dir), { ...SOURCE, corpusSha256: 'x' }), undefined);
  assert.equal(bestDivision([], SOURCE), undefined);
  assert.deepEqual(listShards(join(dir, 'none')), []);
});

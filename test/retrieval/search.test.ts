import assert from 'node:assert/strict';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex, pruneIndexes, publish } from '../../src/retrieval/publish.ts';
import { openIndex } from '../../src/retrieval/search.ts';
import { buildIndex } from '../../src/retrieval/write-index.ts';
import { UserError } from '../../src/system/errors.ts';
import { CORPUS, clustered, input, OPTIONS, P } from '../support/vectors.ts';

const ROWS = 3000;

const root = mkdtempSync(join(tmpdir(), 'realm-search-'));
after(() => rmSync(root, { recursive: true, force: true }));

function dot(a: Float32Array, i: number, b: Float32Array, j: number): number {
  let sum = 0;
  for (let d = 0; d < P; d++) sum += a[i * P + d] * b[j * P + d];
  return sum;
}

/** Exact ranking of all rows for query `q`. */
function exact(vectors: Float32Array, queries: Float32Array, q: number): number[] {
  const scores = Array.from({ length: vectors.length / P }, (_, row) => dot(queries, q, vectors, row));
  return scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a]);
}

const PROC = existsSync('/proc/self/fd');
const openDescriptors = () => (PROC ? readdirSync('/proc/self/fd').length : 0);
/** Number of mapped graph files; on a machine that does not list them, the expected number. */
const graphMaps = (expected: number) =>
  PROC ? readFileSync('/proc/self/maps', 'utf8').split('graph.usearch').length - 1 : expected;

const vectors = clustered(ROWS, 1);
const main = join(root, 'main');
before(async () => {
  await buildIndex(main, input(vectors), OPTIONS);
});

/** A copy of the main index, to be damaged. */
function copy(name: string): string {
  const dir = join(root, name);
  cpSync(main, dir, { recursive: true });
  return dir;
}

test('the manifest describes the index, and recall is measured', () => {
  const manifest = readManifest(main);
  assert.equal(manifest.rows, ROWS);
  assert.equal(manifest.step, 7);
  assert.equal(manifest.embeddings.bytes, ROWS * P * 4);
  assert.equal(manifest.recall10?.probes, 64);
  assert.ok(
    manifest.recall10.value > 0.95 && manifest.recall10.value <= 1,
    `recall ${manifest.recall10.value}`,
  );
  assert.deepEqual(readdirSync(main).sort(), [
    'blocks.u64',
    'embeddings.f32',
    'graph.usearch',
    'manifest.json',
  ]);
});

test('recall against exact search is above 0.95 and scores are inner products', () => {
  const queries = clustered(50, 2);
  for (const threads of [1, 2]) {
    const index = openIndex(main, { corpusSha256: CORPUS, efSearch: 128, threads });
    const found = index.search(queries, 10);
    let hits = 0;
    for (let q = 0; q < 50; q++) {
      assert.equal(found.counts[q], 10);
      const best = new Set(exact(vectors, queries, q).slice(0, 10));
      for (let i = q * 10; i < q * 10 + 10; i++) {
        if (best.has(found.blocks[i])) hits++;
        assert.ok(Math.abs(found.scores[i] - dot(queries, q, vectors, found.blocks[i])) < 1e-4);
        assert.ok(i === q * 10 || found.scores[i] <= found.scores[i - 1]);
      }
    }
    assert.ok(hits / 500 > 0.95, `recall ${hits / 500}`);
    index.close();
  }
});

test('f16 ranks nearly as f32 does, with scores close to it', async () => {
  const dir = join(root, 'f16');
  const manifest = await buildIndex(dir, input(vectors), { ...OPTIONS, dtype: 'f16' });
  assert.ok(manifest.graphs[0].bytes < readManifest(main).graphs[0].bytes - ROWS * P * 1.9, 'f16 is smaller');
  const queries = clustered(50, 2);
  const full = openIndex(main, { efSearch: 128 });
  const half = openIndex(dir, { efSearch: 128 });
  const a = full.search(queries, 10);
  const b = half.search(queries, 10);
  let same = 0;
  for (let q = 0; q < 50; q++) {
    const best = new Set(a.blocks.subarray(q * 10, q * 10 + 10));
    for (let i = q * 10; i < q * 10 + 10; i++) {
      if (best.has(b.blocks[i])) same++;
      const truth = dot(queries, q, vectors, b.blocks[i]);
      assert.ok(Math.abs(b.scores[i] - truth) < 5e-3 * Math.max(1, Math.abs(truth)));
    }
  }
  assert.ok(same / 500 > 0.97, `overlap ${same / 500}`);
  full.close();
  half.close();
});

test('queries may be a view into a larger array, and one query gives the same result as in a batch', () => {
  const index = openIndex(main, { efSearch: 128 });
  const queries = clustered(4, 3);
  const larger = new Float32Array(queries.length + P);
  larger.set(queries, P);
  const batch = index.search(queries, 5);
  assert.deepEqual(index.search(larger.subarray(P), 5), batch);
  for (let q = 0; q < 4; q++) {
    const one = index.search(queries.subarray(q * P, (q + 1) * P), 5);
    assert.deepEqual(one.blocks, batch.blocks.slice(q * 5, q * 5 + 5));
    assert.deepEqual(one.scores, batch.scores.slice(q * 5, q * 5 + 5));
  }
  assert.deepEqual(index.search(new Float32Array(0), 5).counts, new Int32Array(0));
  index.close();
});

test('equal scores are ordered by block number, so that k = 10 is the beginning of k = 100', async () => {
  // 600 rows of 24 different vectors: every score occurs 25 times or more.
  const few = new Float32Array(600 * P);
  for (let row = 0; row < 600; row++)
    few.set(vectors.subarray((row % 24) * P, ((row % 24) + 1) * P), row * P);
  for (const [name, options] of [
    ['exact', { subIndexes: 0 }],
    ['graph', {}],
    ['graphs', { subIndexes: 3 }],
  ] as const) {
    const dir = join(root, `ties-${name}`);
    await buildIndex(dir, input(few), { ...OPTIONS, ...options });
    const index = openIndex(dir, { efSearch: 128 });
    const queries = vectors.slice(0, 5 * P);
    const [small, large] = [10, 100].map((k) => index.search(queries, k));
    for (let q = 0; q < 5; q++) {
      const of = (found: typeof small, k: number) => [...found.blocks.subarray(q * k, q * k + 10)];
      assert.deepEqual(of(small, 10), of(large, 100), `${name}, query ${q}`);
      for (let i = 1; i < 100; i++) {
        const [a, b] = [q * 100 + i - 1, q * 100 + i];
        assert.ok(large.scores[a] >= large.scores[b]);
        if (large.scores[a] === large.scores[b]) assert.ok(large.blocks[a] < large.blocks[b]);
      }
      if (name === 'exact') {
        const best = exact(few, queries, q)[0];
        assert.deepEqual(
          of(small, 10),
          Array.from({ length: 10 }, (_, i) => (best % 24) + 24 * i),
        );
      }
    }
    index.close();
  }
});

test('k larger than the corpus: counts give the number found, the rest is -1', async () => {
  const dir = join(root, 'three');
  await buildIndex(dir, input(vectors.subarray(0, 3 * P)), OPTIONS);
  const index = openIndex(dir, { efSearch: 16 });
  const queries = clustered(2, 4);
  const found = index.search(queries, 5);
  assert.deepEqual([...found.counts], [3, 3]);
  for (let q = 0; q < 2; q++) {
    const order = exact(vectors.subarray(0, 3 * P), queries, q);
    assert.deepEqual([...found.blocks.subarray(q * 5, q * 5 + 5)], [...order, -1, -1]);
    assert.equal(found.scores[q * 5 + 4], -Infinity);
  }
  assert.deepEqual([...index.search(queries.subarray(0, P), 5).counts], [3]);
  index.close();
});

test('wrong arguments of a search throw before the native library gets them', () => {
  const index = openIndex(main, { efSearch: 16 });
  const query = clustered(1, 5);
  for (const k of [0, -1, 2.5, Number.NaN]) assert.throws(() => index.search(query, k), /k must be/);
  assert.throws(() => index.search(query.subarray(1), 5), /whole number of rows/);
  const bad = query.slice();
  bad[3] = Number.NaN;
  assert.throws(() => index.search(bad, 5), /query embedding 0 holds NaN/);
  assert.throws(() => index.vectors(Int32Array.of(ROWS)), /block 3000/);
  assert.throws(() => index.vectors(Int32Array.of(-1)), /block -1/);
  index.close();
  assert.throws(() => index.search(query, 5), /closed/);
});

test('vectors are returned in full precision, in the requested order', () => {
  const index = openIndex(main, { efSearch: 16 });
  const rows = index.vectors(Int32Array.of(2999, 0, 17, 17));
  const want = [2999, 0, 17, 17].flatMap((row) => [...vectors.subarray(row * P, (row + 1) * P)]);
  assert.deepEqual([...rows], want);
  index.close();
});

for (const [name, harm, message] of [
  ['graph.usearch', (path) => truncateSync(path, 5000), /graph\.usearch: has 5000 bytes/],
  ['graph.usearch', flipBit, /graph\.usearch: is damaged/],
  ['graph.usearch', (path) => rmSync(path), /graph\.usearch: the index lacks/],
  ['embeddings.f32', (path) => truncateSync(path, 128), /embeddings\.f32: has 128 bytes/],
  ['embeddings.f32', flipBit, /embeddings\.f32: is damaged/],
  ['manifest.json', (path) => rmSync(path), /manifest\.json: no such index manifest.*realm build-index/],
  ['manifest.json', (path) => edit(path, { rows: 2999 }), /manifest\.json: 2999 rows/],
  ['blocks.u64', flipBit, /blocks\.u64: is damaged/],
  ['manifest.json', (path) => edit(path, { format: 5 }), /manifest\.json: format/],
  [
    'manifest.json',
    (path) => writeFileSync(path, '{"format": 1, "rows": 5}'),
    /manifest\.json: made by an older version; make it again with "realm build-index"/,
  ],
  [
    'manifest.json',
    (path) => edit(path, { graphs: [{ name: '../x', bytes: 1, sha256: 'a'.repeat(64) }] }),
    /not a plain file name/,
  ],
] as [string, (path: string) => void, RegExp][]) {
  test(`refused: ${name}, ${message.source}`, () => {
    const dir = copy('harmed');
    harm(join(dir, name));
    const before = openDescriptors();
    const refused = (error: unknown) => error instanceof UserError && message.test(error.message);
    assert.throws(() => openIndex(dir, { efSearch: 16 }), refused);
    const index = openIndex(main, { efSearch: 16 });
    assert.throws(() => index.swap(dir), refused);
    assert.equal(index.search(vectors.subarray(0, P), 3).counts[0], 3, 'the old index stays in use');
    index.close();
    assert.ok(openDescriptors() <= before, 'nothing left open');
    rmSync(dir, { recursive: true });
  });
}

function flipBit(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1] ^= 4;
  writeFileSync(path, bytes);
}

function edit(path: string, change: object): void {
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
}

test('refused: a graph of another shape with a matching digest', async () => {
  const dir = copy('shape');
  const other = await buildIndex(join(root, 'fewer'), input(vectors.subarray(0, 500 * P)), OPTIONS);
  copyFileSync(join(root, 'fewer', 'graph.usearch'), join(dir, 'graph.usearch'));
  edit(join(dir, 'manifest.json'), { graphs: other.graphs });
  assert.throws(() => openIndex(dir, { efSearch: 16 }), /holds 500 vectors .* 3000 .* expected/);
});

for (const format of [2, 3])
  test(`an index of format ${format}, with other keys in its manifest, is opened unchanged`, () => {
    const dir = copy(`format-${format}`);
    const path = join(dir, 'manifest.json');
    const { graphs, dtype, m, efConstruction, ...rest } = JSON.parse(readFileSync(path, 'utf8'));
    const old = { ...rest, format, scalar: dtype, connectivity: m, expansionAdd: efConstruction };
    writeFileSync(path, JSON.stringify(format === 2 ? { ...old, file: graphs[0] } : { ...old, graphs }));
    assert.deepEqual(readManifest(dir), readManifest(main));
    const index = openIndex(dir, { efSearch: 64 });
    assert.equal(index.search(vectors.subarray(0, P), 3).counts[0], 3);
    index.close();
  });

test('refused: an index of another corpus, opened or swapped in', async () => {
  assert.throws(() => openIndex(main, { corpusSha256: 'd'.repeat(64), efSearch: 16 }), /another corpus/);
  const dir = join(root, 'other-corpus');
  await buildIndex(dir, input(vectors.subarray(0, 50 * P), { corpusSha256: 'd'.repeat(64) }), OPTIONS);
  const index = openIndex(main, { efSearch: 16 });
  assert.throws(() => index.swap(dir), /another corpus/);
  index.close();
});

test('refused: swapping in an index with another number of rows, before its graph is read', async () => {
  const dir = join(root, 'shorter');
  await buildIndex(dir, input(vectors.subarray(0, 50 * P)), OPTIONS);
  rmSync(join(dir, 'graph.usearch'));
  const index = openIndex(main, { efSearch: 16 });
  const opened = openDescriptors();
  assert.throws(() => index.swap(dir), /50 rows of 32 cannot replace the 3000 of 32 in use/);
  edit(join(dir, 'manifest.json'), {
    rows: 100,
    dimensions: 16,
    blocks: { name: 'b', bytes: 800, sha256: 'a'.repeat(64) },
  });
  assert.throws(() => index.swap(dir), /100 rows of 16 cannot/);
  assert.equal(openDescriptors(), opened);
  index.close();
});

test('an index swapped in without checking its hashes finds the same as an exact search', async () => {
  const dir = join(root, 'unhashed');
  const others = clustered(ROWS, 13);
  await buildIndex(dir, input(others), { ...OPTIONS, dtype: 'f16' });
  const index = openIndex(main, { efSearch: 128 });
  index.swap(dir, { hash: false });
  const queries = clustered(50, 14);
  const found = index.search(queries, 10);
  let hits = 0;
  for (let q = 0; q < 50; q++) {
    const best = new Set(exact(others, queries, q).slice(0, 10));
    for (let i = q * 10; i < q * 10 + 10; i++) if (best.has(found.blocks[i])) hits++;
  }
  assert.ok(hits / 500 > 0.95, `recall ${hits / 500}`);
  index.close();
});

test('fifty swaps leave no more files open, and the results are those of the new index', async () => {
  const dir = join(root, 'other');
  const others = clustered(ROWS, 9);
  await buildIndex(dir, input(others), OPTIONS);
  const queries = clustered(3, 10);
  const before = openDescriptors();
  const fresh = openIndex(dir, { efSearch: 64 });
  const want = fresh.search(queries, 10);
  fresh.close();
  const index = openIndex(main, { efSearch: 64 });
  const steady = openDescriptors();
  for (let i = 0; i < 50; i++) {
    index.swap(i % 2 ? main : dir, { hash: i < 2 });
    assert.ok(openDescriptors() <= steady, `swap ${i}`);
    assert.equal(graphMaps(1), 1, `swap ${i}`);
  }
  index.swap(dir);
  assert.equal(index.dir, dir);
  assert.deepEqual(index.search(queries, 10), want);
  assert.deepEqual([...index.vectors(Int32Array.of(4))], [...others.subarray(4 * P, 5 * P)]);
  index.close();
  index.close();
  assert.ok(openDescriptors() <= before);
  assert.equal(graphMaps(0), 0);
});

test('a graph is freed even if no temporary file can be written', () => {
  const before = process.env.TMPDIR;
  process.env.TMPDIR = join(root, 'no such folder');
  const index = openIndex(main, { efSearch: 64 });
  for (let i = 0; i < 5; i++) index.swap(main, { hash: false });
  assert.equal(graphMaps(1), 1);
  index.close();
  assert.equal(graphMaps(0), 0);
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
});

test('replacing or removing the folder under an open index is harmless', async () => {
  const dir = copy('replaced');
  const index = openIndex(dir, { efSearch: 64 });
  const queries = clustered(3, 11);
  const want = index.search(queries, 10);
  await buildIndex(dir, input(clustered(200, 12)), OPTIONS);
  assert.deepEqual(index.search(queries, 10), want);
  assert.deepEqual([...index.vectors(Int32Array.of(5))], [...vectors.subarray(5 * P, 6 * P)]);
  rmSync(dir, { recursive: true });
  assert.deepEqual(index.search(queries, 10), want);
  index.close();
});

test('publish moves the pointer; the newest indexes, the current one, those in use and other files are kept', async () => {
  const runs = join(root, 'published');
  assert.equal(currentIndex(runs), undefined);
  for (let i = 0; i < 4; i++) {
    await buildIndex(join(runs, `step-${i}`), input(vectors.subarray(0, 20 * P), { step: i }), OPTIONS);
    edit(join(runs, `step-${i}`, 'manifest.json'), { createdAt: `2026-01-0${i + 1}T00:00:00.000Z` });
  }
  writeFileSync(join(runs, 'notes.txt'), 'mine');
  cpSync(join(runs, 'step-0'), join(runs, 'half.4194304.tmp'), { recursive: true }); // no such process: pids end at 4194303
  cpSync(join(runs, 'step-0'), join(runs, `half.${process.pid}.tmp`), { recursive: true });

  publish(runs, 'step-0');
  assert.equal(currentIndex(runs), join(runs, 'step-0'));
  const live = `half.${process.pid}.tmp`;
  pruneIndexes(runs, 2, []);
  assert.deepEqual(readdirSync(runs).sort(), ['current', live, 'notes.txt', 'step-0', 'step-2', 'step-3']);
  publish(runs, 'step-3');
  pruneIndexes(runs, 1, ['step-0']);
  assert.deepEqual(readdirSync(runs).sort(), ['current', live, 'notes.txt', 'step-0', 'step-3']);
  pruneIndexes(runs, 1, ['gone']);
  assert.deepEqual(readdirSync(runs).sort(), ['current', live, 'notes.txt', 'step-3']);

  assert.throws(() => publish(runs, 'step-2'), /step-2.*no such index manifest/);
  assert.throws(() => publish(runs, '../published'), UserError);
  assert.equal(currentIndex(runs), join(runs, 'step-3'), 'a refused publish does not change the pointer');
  assert.ok(existsSync(join(runs, 'step-3', 'graph.usearch')));
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
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
import { openIndex } from '../../src/retrieval/search.ts';
import { SHARD } from '../../src/retrieval/shards.ts';
import { type BuildInput, buildIndex } from '../../src/retrieval/write-index.ts';
import { UserError } from '../../src/system/errors.ts';
import { smallDisk } from '../support/small-disk.ts';
import { clustered, input, OPTIONS, P, pieces } from '../support/vectors.ts';

const ROWS = 3000;
const root = mkdtempSync(join(tmpdir(), 'realm-build-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** Exact ranking of all rows for query `q`. */
function exact(vectors: Float32Array, queries: Float32Array, q: number): number[] {
  const scores = Array.from({ length: vectors.length / P }, (_, row) => {
    let sum = 0;
    for (let d = 0; d < P; d++) sum += queries[q * P + d] * vectors[row * P + d];
    return sum;
  });
  return scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a]);
}

const PROC = existsSync('/proc/self/fd');
const openDescriptors = () => (PROC ? readdirSync('/proc/self/fd').length : 0);

const vectors = clustered(ROWS, 1);
const main = join(root, 'main');
before(async () => {
  await buildIndex(main, input(vectors), OPTIONS);
});

test('one thread gives the same files to the byte, however the rows come in pieces', async () => {
  const dir = join(root, 'again');
  async function* slowly() {
    yield* pieces(vectors, 777);
  }
  await buildIndex(dir, input(vectors, { embeddings: slowly }), OPTIONS);
  const a = readManifest(main);
  const b = readManifest(dir);
  assert.deepEqual(b.graphs, a.graphs);
  assert.deepEqual(b.embeddings, a.embeddings);
  assert.deepEqual(b.recall10, a.recall10);
});

test('many threads may build and many search', async () => {
  const dir = join(root, 'threads');
  const manifest = await buildIndex(dir, input(vectors), { ...OPTIONS, threads: 64 });
  assert.ok(manifest.recall10!.value > 0.95);
  const index = openIndex(dir, { efSearch: 64, threads: 64 });
  assert.equal(index.search(clustered(9, 6), 4).counts.length, 9);
  index.close();
});

test('a failed build leaves nothing behind', async () => {
  const dir = join(root, 'failed', 'index');
  const nan = vectors.slice(0, 200 * P);
  nan[150 * P + 2] = Number.NaN;
  const large = vectors.slice(0, 200 * P);
  large[9 * P] = 70000;
  const f16 = { ...OPTIONS, dtype: 'f16' as const };
  const opened = openDescriptors();
  await assert.rejects(buildIndex(dir, input(nan), OPTIONS), /block 150 holds NaN/);
  await assert.rejects(buildIndex(dir, input(large), f16), /block 9 holds 70000/);
  await assert.rejects(buildIndex(dir, input(vectors, { rows: ROWS - 1 }), OPTIONS), /more than 2999/);
  await assert.rejects(
    buildIndex(dir, input(vectors, { rows: ROWS + 1 }), OPTIONS),
    /3000 embeddings came where .* 3001/,
  );
  await assert.rejects(buildIndex(dir, input(vectors.subarray(1)), OPTIONS), /whole number of rows/);
  await assert.rejects(buildIndex(dir, input(new Float32Array(0)), OPTIONS), UserError);
  assert.deepEqual(readdirSync(join(root, 'failed')), []);
  assert.equal(openDescriptors(), opened);
});

test('a build shows progress piece by piece and stops at its signal', async () => {
  const dir = join(root, 'stopped', 'index');
  const stop = new AbortController();
  const seen: number[] = [];
  const onProgress = (done: number) => {
    seen.push(done);
    if (done === 2048) stop.abort(new Error('asked to stop'));
  };
  await assert.rejects(
    buildIndex(dir, input(vectors, { onProgress, signal: stop.signal }), OPTIONS),
    /asked to stop/,
  );
  assert.deepEqual(seen, [1024, 2048]);
  assert.deepEqual(readdirSync(join(root, 'stopped')), []);
});

test('given probes measure the recall of those queries', async () => {
  const dir = join(root, 'probes');
  const probes = clustered(30, 8);
  const vectors = clustered(5000, 9); // more than are searched at a time
  const manifest = await buildIndex(dir, input(vectors, { probes }), {
    ...OPTIONS,
    m: 2,
    efConstruction: 2,
    efSearch: 1,
  });
  const index = openIndex(dir, { efSearch: 1, threads: 1 });
  const found = index.search(probes, 10);
  let hits = 0;
  for (let q = 0; q < 30; q++) {
    const best = new Set(exact(vectors, probes, q).slice(0, 10));
    for (let i = 0; i < found.counts[q]; i++) if (best.has(found.blocks[q * 10 + i])) hits++;
  }
  assert.equal(manifest.recall10?.probes, 30);
  assert.ok(Math.abs(manifest.recall10.value - hits / 300) < 1e-9);
  assert.ok(manifest.recall10.value < 0.9, 'so poor a graph must show in the figure');
  index.close();
});

// ---------------------------------------------------------------- going on with what was cut short

/** Two whole shards and a short one, on a graph that is made fast. */
const LARGE = 2 * SHARD + 1500;
const QUICK = { ...OPTIONS, m: 4, efConstruction: 8, efSearch: 16 };
const large = clustered(LARGE, 20);
const whole = join(root, 'whole', 'index');
/** Copies of what a kill leaves, one a breath of the build, and how many rows it had told of by then. */
const cuts: { part: string; rows: number }[] = [];
before(async () => {
  const part = `${whole}.part`;
  let rows = 0;
  const keep = () => {
    const copy = join(root, `cut-${cuts.length}`);
    cpSync(part, copy, { recursive: true });
    cuts.push({ part: copy, rows });
  };
  const onProgress = (done: number) => {
    rows = done;
  };
  await buildIndex(whole, input(large, { onProgress, onHeartbeat: keep }), QUICK);
});

/** The index that is built where a build left `part`; and from which row on it was embedded. */
async function goOn(
  part: string,
  more: Partial<BuildInput> = {},
  harm: (part: string) => void = () => {},
  options = QUICK,
) {
  const dir = join(mkdtempSync(join(root, 'go-on-')), 'index');
  cpSync(part, `${dir}.part`, { recursive: true });
  harm(`${dir}.part`);
  let from = LARGE;
  const embeddings = (first: number) => {
    from = first;
    return pieces(large.subarray(first * P), 100);
  };
  await buildIndex(dir, input(large, { embeddings, ...more }), options);
  return { dir, from };
}

const FILES = ['blocks.u64', 'embeddings.f32', 'graph.usearch', 'manifest.json'];

/** Compares all but the time of making. */
function assertWhole(dir: string): void {
  assert.deepEqual(readdirSync(dir).sort(), FILES);
  const { createdAt: _, ...manifest } = readManifest(dir);
  const { createdAt: _c, ...expected } = readManifest(whole);
  assert.deepEqual(manifest, expected);
  for (const name of FILES.slice(0, 3)) {
    assert.ok(readFileSync(join(dir, name)).equals(readFileSync(join(whole, name))), name);
  }
}

test('a build that was killed is gone on with from its last whole shard, and the files are the same to the byte', async () => {
  const seen = new Set<number>();
  for (const { part, rows } of cuts) {
    const { dir, from } = await goOn(part);
    const told = rows === LARGE ? LARGE : rows - (rows % SHARD);
    // The last shard is on the disk before the graph is written, and the build tells of it after.
    assert.ok(from === told || (from === LARGE && rows > 2 * SHARD), `${part} of ${rows} rows`);
    assertWhole(dir);
    assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
    seen.add(from);
    rmSync(dir, { recursive: true });
  }
  assert.deepEqual(
    [...seen].sort((a, b) => a - b),
    [0, SHARD, 2 * SHARD, LARGE],
  );
});

/** What a kill leaves when all is embedded. */
const finished = () => cuts.at(-1)!.part;

/** Changes a setting of the identity, or a field of a shard. */
function resume(part: string, change: (json: Resume) => object): void {
  const path = join(part, 'resume.json');
  const json = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(path, JSON.stringify({ ...json, ...change(json) }));
}
const identity = (part: string, change: object) =>
  resume(part, (json) => ({ identity: { ...json.identity, ...change } }));
const shard = (part: string, i: number, change: object) =>
  resume(part, ({ shards }) => ({ shards: shards.map((s, j) => (j === i ? { ...s, ...change } : s)) }));
interface Resume {
  format: number;
  identity: Record<string, unknown>;
  shards: { rows: number; sha256: string }[];
}

for (const [what, harm, from] of [
  ['a bit of the second shard', (part) => flipBit(join(part, 'embeddings.f32'), (SHARD + 9) * P * 4), SHARD],
  ['a bit of the first shard', (part) => flipBit(join(part, 'embeddings.f32'), 5), 0],
  ['the end of the embeddings', (part) => truncateSync(join(part, 'embeddings.f32'), 5000 * P * 4), SHARD],
  ['no embeddings', (part) => rmSync(join(part, 'embeddings.f32')), 0],
  ['more than the embeddings', (part) => appendFileSync(join(part, 'embeddings.f32'), 'more'), LARGE],
  ['no resume manifest', (part) => rmSync(join(part, 'resume.json')), 0],
  ['half a resume manifest', (part) => truncateSync(join(part, 'resume.json'), 100), 0],
  ['a folder for a resume manifest', folderForManifest, 0],
  ['a resume manifest of another format', (part) => resume(part, () => ({ format: 9 })), 0],
  ['a shard of another length', (part) => shard(part, 1, { rows: 1024 }), SHARD],
  ['a shard of another length that is whole', shorterShard, SHARD],
  [
    'a file that was being written',
    (part) => writeFileSync(join(part, `resume.json.${dead()}.tmp`), '{'),
    LARGE,
  ],
  ['a shard too many', (part) => resume(part, ({ shards }) => ({ shards: [...shards, shards[0]] })), LARGE],
  ['a shard of a wrong hash', (part) => shard(part, 2, { sha256: 'x' }), 2 * SHARD],
  ['another corpus', (part) => identity(part, { corpusSha256: 'other' }), 0],
  ['other weights', (part) => identity(part, { weightsSha256: 'other' }), 0],
  ['another encoding', (part) => identity(part, { encoding: 'other' }), 0],
  ['another source', (part) => identity(part, { reusedFrom: 'other' }), 0],
] as [string, (part: string) => void, number][]) {
  test(`never an error: what was left has ${what}`, async () => {
    const { dir, from: began } = await goOn(finished(), {}, harm);
    assert.equal(began, from);
    assertWhole(dir);
  });
}

/** The number of a process that is no more. */
const dead = () => spawnSync(process.execPath, ['-e', '0']).pid;

function shorterShard(part: string): void {
  const rows = readFileSync(join(part, 'embeddings.f32')).subarray(SHARD * P * 4, (SHARD + 1024) * P * 4);
  shard(part, 1, { rows: 1024, sha256: createHash('sha256').update(rows).digest('hex') });
}

function folderForManifest(part: string): void {
  rmSync(join(part, 'resume.json'));
  mkdirSync(join(part, 'resume.json'));
}

function flipBit(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] ^= 4;
  writeFileSync(path, bytes);
}

test('an index of other settings begins anew', async () => {
  for (const other of [
    { ...QUICK, m: 5 },
    { ...QUICK, efConstruction: 9 },
    { ...QUICK, dtype: 'f16' as const },
  ]) {
    const { dir, from } = await goOn(finished(), {}, undefined, other);
    assert.equal(from, 0);
    assert.notEqual(readManifest(dir).graphs[0].sha256, readManifest(whole).graphs[0].sha256);
  }
});

test('whole shards outlast a failure, and replace the index that stands only when all is well', async () => {
  const dir = join(mkdtempSync(join(root, 'fails-')), 'index');
  await buildIndex(dir, input(vectors), OPTIONS);
  const bad = large.slice();
  bad[(2 * SHARD + 3) * P] = Number.NaN;
  await assert.rejects(
    buildIndex(dir, input(large, { embeddings: (first) => pieces(bad.subarray(first * P), 100) }), QUICK),
    new RegExp(`block ${2 * SHARD + 3} holds NaN`),
  );
  assert.deepEqual(readdirSync(join(dir, '..')).sort(), ['index', 'index.part']);
  assert.equal(readManifest(dir).rows, ROWS);
  let from = -1;
  const embeddings = (first: number) => {
    from = first;
    return pieces(large.subarray(first * P), 100);
  };
  await buildIndex(dir, input(large, { embeddings }), QUICK);
  assert.equal(from, 2 * SHARD);
  assertWhole(dir);
  assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
});

test('an index that a kill left between two names comes back, and what was built is not lost', async () => {
  const { pid } = spawnSync(process.execPath, ['-e', '0']);
  const { dir } = await goOn(finished(), {}, (part) => {
    // The old index was moved aside, the new one not yet put in its place.
    cpSync(main, join(part, '..', `index.${pid}.old`), { recursive: true });
  });
  assertWhole(dir);
  assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
});

// ---------------------------------------------------------------- a full disk

test('on a full disk a sentence says so wherever it gets full, and the build is gone on with when there is room', async (t) => {
  const few = large.subarray(0, (SHARD + 100) * P);
  const dir = join(root, 'room');
  const { embeddings, blocks, graphs } = await buildIndex(dir, input(few), QUICK);
  const all = embeddings.bytes + blocks.bytes + graphs[0].bytes;
  const full = (error: unknown) =>
    error instanceof UserError && /^\/.*: the disk is full; free some space/.test(error.message);
  let from = -1;
  const build = (folder: string) =>
    buildIndex(
      join(folder, 'index'),
      input(few, {
        embeddings: (first) => {
          from = first;
          return pieces(few.subarray(first * P), 100);
        },
      }),
      QUICK,
    );
  const descriptors = openDescriptors();
  // The last pages one by one: there the graph's file loses its end without a word from usearch.
  const sizes = [
    20_000,
    embeddings.bytes - 4096,
    embeddings.bytes + 8192,
    embeddings.bytes + blocks.bytes + 8192,
  ];
  for (let pages = 10; pages >= -3; pages--) sizes.push(all - pages * 4096);
  let refused = 0;
  const resumed = new Set<number>();
  for (const size of sizes) {
    const disk = smallDisk(root, size);
    if (!disk) return t.skip('no file system may be mounted');
    const before = refused;
    try {
      try {
        await build(disk.dir);
      } catch (error) {
        assert.ok(full(error), `${size} of ${all} bytes: ${error}`);
        assert.ok(!existsSync(join(disk.dir, 'index')));
        refused++;
      }
      const left = join(disk.dir, 'index.part', 'resume.json');
      const { shards } = existsSync(left) ? JSON.parse(readFileSync(left, 'utf8')) : { shards: [] };
      const rows = shards.reduce((sum: number, shard: { rows: number }) => sum + shard.rows, 0);
      resumed.add(rows);
      disk.grow(3 * all);
      from = SHARD + 100;
      const built = await build(disk.dir);
      assert.equal(built.graphs[0].sha256, graphs[0].sha256);
      if (refused > before) assert.equal(from, rows);
    } finally {
      disk.unmount();
    }
  }
  assert.ok(refused > 10 && resumed.has(0) && resumed.has(SHARD + 100), `${refused}, ${[...resumed]}`);
  assert.ok(openDescriptors() <= descriptors);
});

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
import { SEGMENT_ROWS } from '../../src/retrieval/resume-segments.ts';
import { openIndex } from '../../src/retrieval/search.ts';
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

test('with one thread the files are byte-identical, whatever the size of the pieces', async () => {
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

test('many threads can build and search', async () => {
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
  await assert.rejects(
    buildIndex(dir, input(vectors, { rows: ROWS - 1 }), OPTIONS),
    /more than 2999 embeddings were made/,
  );
  await assert.rejects(
    buildIndex(dir, input(vectors, { rows: ROWS + 1 }), OPTIONS),
    /3000 embeddings were made, but .* 3001/,
  );
  await assert.rejects(buildIndex(dir, input(vectors.subarray(1)), OPTIONS), /whole number of rows/);
  await assert.rejects(buildIndex(dir, input(new Float32Array(0)), OPTIONS), UserError);
  assert.deepEqual(readdirSync(join(root, 'failed')), []);
  assert.equal(openDescriptors(), opened);
});

test('a build reports progress piece by piece and stops at its signal', async () => {
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
  const vectors = clustered(5000, 9); // more than are searched at once
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
  assert.ok(manifest.recall10.value < 0.9, 'the poor graph must show in the recall');
  index.close();
});

// ---------------------------------------------------------------- resuming an interrupted build

/** Two full segments and a short one, with a graph that is built quickly. */
const LARGE = 2 * SEGMENT_ROWS + 1500;
const QUICK = { ...OPTIONS, m: 4, efConstruction: 8, efSearch: 16 };
const large = clustered(LARGE, 20);
const whole = join(root, 'whole', 'index');
/** Copies of the files that a kill would leave, one at each heartbeat of the build, with the rows reported by then. */
const interrupted: { part: string; rows: number }[] = [];
before(async () => {
  const part = `${whole}.part`;
  let rows = 0;
  const keep = () => {
    const copy = join(root, `interrupted-${interrupted.length}`);
    cpSync(part, copy, { recursive: true });
    interrupted.push({ part: copy, rows });
  };
  const onProgress = (done: number) => {
    rows = done;
  };
  await buildIndex(whole, input(large, { onProgress, onHeartbeat: keep }), QUICK);
});

/** The index that is built from an interrupted build's `part`, and the first row that was embedded. */
async function resumeBuild(
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

/** Compares everything except the time of creation. */
function assertWhole(dir: string): void {
  assert.deepEqual(readdirSync(dir).sort(), FILES);
  const { createdAt: _, ...manifest } = readManifest(dir);
  const { createdAt: _c, ...expected } = readManifest(whole);
  assert.deepEqual(manifest, expected);
  for (const name of FILES.slice(0, 3)) {
    assert.ok(readFileSync(join(dir, name)).equals(readFileSync(join(whole, name))), name);
  }
}

test('a killed build resumes from its last complete segment, and the files are byte-identical', async () => {
  const seen = new Set<number>();
  for (const { part, rows } of interrupted) {
    const { dir, from } = await resumeBuild(part);
    const reported = rows === LARGE ? LARGE : rows - (rows % SEGMENT_ROWS);
    // The last segment is on the disk before the graph is written, and reported only afterwards.
    assert.ok(from === reported || (from === LARGE && rows > 2 * SEGMENT_ROWS), `${part} of ${rows} rows`);
    assertWhole(dir);
    assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
    seen.add(from);
    rmSync(dir, { recursive: true });
  }
  assert.deepEqual(
    [...seen].sort((a, b) => a - b),
    [0, SEGMENT_ROWS, 2 * SEGMENT_ROWS, LARGE],
  );
});

/** What a kill leaves after everything is embedded. */
const finished = () => interrupted.at(-1)!.part;

/** Changes a setting of the identity, or a field of a segment. */
function resume(part: string, change: (json: Resume) => object): void {
  const path = join(part, 'resume.json');
  const json = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(path, JSON.stringify({ ...json, ...change(json) }));
}
const identity = (part: string, change: object) =>
  resume(part, (json) => ({ identity: { ...json.identity, ...change } }));
const changeSegment = (part: string, i: number, change: object) =>
  resume(part, ({ shards }) => ({ shards: shards.map((s, j) => (j === i ? { ...s, ...change } : s)) }));
interface Resume {
  format: number;
  identity: Record<string, unknown>;
  shards: { rows: number; sha256: string }[];
}

for (const [what, harm, from] of [
  [
    'a flipped bit in the second segment',
    (part) => flipBit(join(part, 'embeddings.f32'), (SEGMENT_ROWS + 9) * P * 4),
    SEGMENT_ROWS,
  ],
  ['a flipped bit in the first segment', (part) => flipBit(join(part, 'embeddings.f32'), 5), 0],
  ['truncated embeddings', (part) => truncateSync(join(part, 'embeddings.f32'), 5000 * P * 4), SEGMENT_ROWS],
  ['no embeddings', (part) => rmSync(join(part, 'embeddings.f32')), 0],
  ['extra bytes after the embeddings', (part) => appendFileSync(join(part, 'embeddings.f32'), 'more'), LARGE],
  ['no resume manifest', (part) => rmSync(join(part, 'resume.json')), 0],
  ['a truncated resume manifest', (part) => truncateSync(join(part, 'resume.json'), 100), 0],
  ['a folder in place of the resume manifest', folderForManifest, 0],
  ['a resume manifest of another format', (part) => resume(part, () => ({ format: 9 })), 0],
  ['a segment of another length', (part) => changeSegment(part, 1, { rows: 1024 }), SEGMENT_ROWS],
  ['a segment of another length with a correct hash', shorterSegment, SEGMENT_ROWS],
  [
    'a half-written temporary file',
    (part) => writeFileSync(join(part, `resume.json.${dead()}.tmp`), '{'),
    LARGE,
  ],
  [
    'one segment too many',
    (part) => resume(part, ({ shards }) => ({ shards: [...shards, shards[0]] })),
    LARGE,
  ],
  ['a segment with a wrong hash', (part) => changeSegment(part, 2, { sha256: 'x' }), 2 * SEGMENT_ROWS],
  ['another corpus', (part) => identity(part, { corpusSha256: 'other' }), 0],
  ['other weights', (part) => identity(part, { weightsSha256: 'other' }), 0],
  ['another encoding', (part) => identity(part, { encoding: 'other' }), 0],
  ['another source', (part) => identity(part, { reusedFrom: 'other' }), 0],
] as [string, (part: string) => void, number][]) {
  test(`a build resumes without an error from files with: ${what}`, async () => {
    const { dir, from: firstRow } = await resumeBuild(finished(), {}, harm);
    assert.equal(firstRow, from);
    assertWhole(dir);
  });
}

/** The pid of a process that has ended. */
const dead = () => spawnSync(process.execPath, ['-e', '0']).pid;

function shorterSegment(part: string): void {
  const rows = readFileSync(join(part, 'embeddings.f32')).subarray(
    SEGMENT_ROWS * P * 4,
    (SEGMENT_ROWS + 1024) * P * 4,
  );
  changeSegment(part, 1, { rows: 1024, sha256: createHash('sha256').update(rows).digest('hex') });
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

test('with other settings, a build starts from scratch', async () => {
  for (const other of [
    { ...QUICK, m: 5 },
    { ...QUICK, efConstruction: 9 },
    { ...QUICK, dtype: 'f16' as const },
  ]) {
    const { dir, from } = await resumeBuild(finished(), {}, undefined, other);
    assert.equal(from, 0);
    assert.notEqual(readManifest(dir).graphs[0].sha256, readManifest(whole).graphs[0].sha256);
  }
});

test('complete segments survive a failure, and the existing index is replaced only after a successful build', async () => {
  const dir = join(mkdtempSync(join(root, 'fails-')), 'index');
  await buildIndex(dir, input(vectors), OPTIONS);
  const bad = large.slice();
  bad[(2 * SEGMENT_ROWS + 3) * P] = Number.NaN;
  await assert.rejects(
    buildIndex(dir, input(large, { embeddings: (first) => pieces(bad.subarray(first * P), 100) }), QUICK),
    new RegExp(`block ${2 * SEGMENT_ROWS + 3} holds NaN`),
  );
  assert.deepEqual(readdirSync(join(dir, '..')).sort(), ['index', 'index.part']);
  assert.equal(readManifest(dir).rows, ROWS);
  let from = -1;
  const embeddings = (first: number) => {
    from = first;
    return pieces(large.subarray(first * P), 100);
  };
  await buildIndex(dir, input(large, { embeddings }), QUICK);
  assert.equal(from, 2 * SEGMENT_ROWS);
  assertWhole(dir);
  assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
});

test('an index is restored after a kill between two renames, and the new build is not lost', async () => {
  const { pid } = spawnSync(process.execPath, ['-e', '0']);
  const { dir } = await resumeBuild(finished(), {}, (part) => {
    // The old index was renamed, the new one did not have its final name yet.
    cpSync(main, join(part, '..', `index.${pid}.old`), { recursive: true });
  });
  assertWhole(dir);
  assert.deepEqual(readdirSync(join(dir, '..')), ['index']);
});

// ---------------------------------------------------------------- a full disk

test('a full disk gives a one-sentence error at every point, and the build resumes once there is room', async (t) => {
  const few = large.subarray(0, (SEGMENT_ROWS + 100) * P);
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
  // The last pages one by one: here usearch truncates the graph's file without an error.
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
    if (!disk) return t.skip('no permission to mount a file system');
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
      from = SEGMENT_ROWS + 100;
      const built = await build(disk.dir);
      assert.equal(built.graphs[0].sha256, graphs[0].sha256);
      if (refused > before) assert.equal(from, rows);
    } finally {
      disk.unmount();
    }
  }
  assert.ok(refused > 10 && resumed.has(0) && resumed.has(SEGMENT_ROWS + 100), `${refused}, ${[...resumed]}`);
  assert.ok(openDescriptors() <= descriptors);
});

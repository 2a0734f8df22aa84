import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { keepBest } from '../../src/retrieval/best.ts';
import { exactTop } from '../../src/retrieval/exact.ts';
import { graphCount, rowsOf } from '../../src/retrieval/graphs.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { openIndex } from '../../src/retrieval/search.ts';
import { buildIndex } from '../../src/retrieval/write-index.ts';
import { clustered, input, OPTIONS, P, pieces } from '../support/vectors.ts';

// An index with several graphs, and one without: both compared with a search that examines every row.

const ROWS = 20_001;
const root = mkdtempSync(join(tmpdir(), 'realm-graphs-'));
after(() => rmSync(root, { recursive: true, force: true }));

const vectors = clustered(ROWS, 1);
const QUICK = { ...OPTIONS, m: 4, efConstruction: 8, efSearch: 16 };
const dirOf = (name: string) => join(root, name, 'index');
/** Copies of the files that a kill would leave, one at each heartbeat of the build of three graphs. */
const interrupted: string[] = [];
before(async () => {
  await buildIndex(dirOf('one'), input(vectors), QUICK);
  const dir = dirOf('three');
  const keep = () => {
    const copy = join(root, `interrupted-${interrupted.length}`);
    cpSync(`${dir}.part`, copy, { recursive: true });
    interrupted.push(copy);
  };
  let heartbeats = 0;
  await buildIndex(dir, input(vectors, { onHeartbeat: () => heartbeats++ % 5 === 0 && keep() }), {
    ...QUICK,
    subIndexes: 3,
  });
  keepLast(dir);
  await buildIndex(dirOf('none'), input(vectors), { ...QUICK, subIndexes: 0 });
});

function keepLast(dir: string): void {
  assert.deepEqual(readdirSync(dir).sort(), [
    'blocks.u64',
    'embeddings.f32',
    'graph-1.usearch',
    'graph-2.usearch',
    'graph-3.usearch',
    'manifest.json',
  ]);
}

/** The k best rows of each query, by examining all rows. */
function best(queries: Float32Array, k: number): number[][] {
  return Array.from({ length: queries.length / P }, (_, q) => {
    const scores = new Float64Array(ROWS);
    for (let row = 0; row < ROWS; row++)
      for (let d = 0; d < P; d++) scores[row] += queries[q * P + d] * vectors[row * P + d];
    return Array.from(scores.keys())
      .sort((a, b) => scores[b] - scores[a])
      .slice(0, k);
  });
}

test('an index without a graph finds exactly the best rows, in order, also with more rows than are searched at once', () => {
  const index = openIndex(dirOf('none'), { efSearch: 16 });
  assert.deepEqual(index.manifest.graphs, []);
  assert.equal(index.manifest.recall10, undefined);
  assert.deepEqual(readdirSync(dirOf('none')).sort(), ['blocks.u64', 'embeddings.f32', 'manifest.json']);
  const queries = clustered(8, 6);
  for (const k of [1, 10, 300]) {
    const found = index.search(queries.subarray(3 * P), k);
    const want = best(queries.subarray(3 * P), k);
    want.forEach((rows, q) => {
      assert.deepEqual([...found.blocks.subarray(q * k, (q + 1) * k)], rows, `${k}`);
      const score = rows.map((row) =>
        vectors.subarray(row * P, (row + 1) * P).reduce((sum, v, d) => sum + v * queries[(3 + q) * P + d], 0),
      );
      score.forEach((s, i) => {
        assert.ok(Math.abs(found.scores[q * k + i] - s) < 1e-4);
      });
    });
  }
  const all = index.search(queries.subarray(0, 2 * P), ROWS + 5);
  assert.deepEqual([...all.counts], [ROWS, ROWS]);
  assert.equal(new Set(all.blocks.subarray(0, ROWS)).size, ROWS);
  assert.deepEqual([all.blocks[ROWS], all.scores[ROWS]], [-1, -Infinity]);
  // Swapped for one with graphs, and back.
  index.swap(dirOf('three'));
  assert.equal(index.search(queries, 3).counts.length, 8);
  index.swap(dirOf('none'));
  assert.deepEqual([...index.search(queries, 1).blocks], best(queries, 1).flat());
  truncateSync(join(dirOf('none'), 'embeddings.f32'), 4000);
  assert.throws(() => index.search(queries, 1), /embeddings\.f32: was truncated/);
  writeFileSync(join(dirOf('none'), 'embeddings.f32'), readFileSync(join(dirOf('one'), 'embeddings.f32')));
  index.close();
});

test('several graphs are searched as one, with no lower recall than a single graph', () => {
  const queries = clustered(100, 7);
  const want = best(queries, 10);
  const recall = (name: string) => {
    const index = openIndex(dirOf(name), { efSearch: 16 });
    const { blocks, scores, counts } = index.search(queries, 10);
    index.close();
    for (let q = 0; q < 100; q++) {
      for (let i = q * 10 + 1; i < q * 10 + counts[q]; i++) assert.ok(scores[i] <= scores[i - 1]);
      assert.equal(new Set(blocks.subarray(q * 10, q * 10 + counts[q])).size, counts[q]);
    }
    return want.reduce((sum, rows, q) => {
      const found = new Set(blocks.subarray(q * 10, q * 10 + counts[q]));
      return sum + rows.filter((row) => found.has(row)).length;
    }, 0);
  };
  const [one, three] = [recall('one'), recall('three')];
  assert.ok(three >= one && three > 200, `${three} against ${one} of 1000`);
  const { recall10 } = readManifest(dirOf('three'));
  assert.ok(recall10!.value >= readManifest(dirOf('one')).recall10!.value);
});

test('an interrupted build of several graphs resumes with the complete graphs, and its files are byte-identical', async () => {
  const build = async (part: string, harm = (_: string) => {}) => {
    const dir = join(mkdtempSync(join(root, 'go-on-')), 'index');
    cpSync(part, `${dir}.part`, { recursive: true });
    harm(`${dir}.part`);
    const reported: number[] = [];
    const embeddings = (first: number) => pieces(vectors.subarray(first * P), 100);
    const onProgress = (done: number) => reported.push(done);
    await buildIndex(dir, input(vectors, { embeddings, onProgress }), { ...QUICK, subIndexes: 3 });
    const { createdAt: _, ...made } = readManifest(dir);
    const { createdAt: _c, ...expected } = readManifest(dirOf('three'));
    assert.deepEqual(made, expected);
    for (const { name } of made.graphs)
      assert.ok(readFileSync(join(dir, name)).equals(readFileSync(join(dirOf('three'), name))));
    return reported[0] ?? ROWS;
  };
  const starts = new Set<number>();
  for (const part of interrupted) starts.add(await build(part));
  // From the first row, and from the first row of the second and the third graph: up to the end of a piece.
  const size = 6667;
  const starting = [1024, size + 1024 - (size % 1024), 2 * size + 1024 - ((2 * size) % 1024)];
  for (const row of starting) assert.ok(starts.has(row), `${row} of ${[...starts]}`);
  const last = interrupted.at(-1)!;
  const flip = (name: string) => (part: string) => {
    const path = join(part, name);
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1] ^= 4;
    writeFileSync(path, bytes);
  };
  assert.equal(await build(last, flip('graph-2.usearch')), starting[1], 'a damaged graph is made again');
  assert.equal(await build(last, flip('embeddings.f32')), starting[1], 'and so is a graph of damaged rows');
  assert.equal(await build(last, (part) => rmSync(join(part, 'graph-1.usearch'))), 1024);
});

test('every graph gets at least one row', () => {
  assert.deepEqual([graphCount(5, 4), graphCount(5, 1), graphCount(5, 100), graphCount(5, 0)], [3, 1, 5, 0]);
  for (let rows = 1; rows < 40; rows++) {
    for (let subIndexes = 1; subIndexes < 45; subIndexes++) {
      const graphs = graphCount(rows, subIndexes);
      let next = 0;
      for (let i = 0; i < graphs; i++) {
        const { first, count } = rowsOf(i, graphs, rows);
        assert.ok(first === next && count > 0 && count <= Math.ceil(rows / subIndexes));
        next += count;
      }
      assert.equal(next, rows);
    }
  }
});

test('the best of two searches, by hand', () => {
  const of = (blocks: number[], scores: number[], counts: number[]) => ({
    blocks: Int32Array.from(blocks),
    scores: Float32Array.from(scores),
    counts: Int32Array.from(counts),
  });
  // The first query gets one from each, and of equal scores the earlier one is kept; the second has empty slots, the third finds nothing.
  const best = of([1, 2, 3, 4, -1, -1, -1, -1, -1], [9, 7, 5, 2, -9, -9, -9, -9, -9], [3, 1, 0]);
  keepBest(best, of([8, 9, 8, 9, -1, -1], [8, 7, 3, 1, -1, -1], [2, 2, 0]));
  assert.deepEqual([...best.blocks], [1, 8, 2, 8, 4, 9, -1, -1, -1]);
  assert.deepEqual([...best.scores.subarray(0, 6)], [9, 8, 7, 3, 2, 1]);
  assert.deepEqual([...best.counts], [3, 3, 0]);
  assert.equal(exactTop(-1, 5, P, new Float32Array(0), 3, 1).counts.length, 0);
});

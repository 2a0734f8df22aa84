import assert from 'node:assert/strict';
import { existsSync, fstatSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { newGraph, saveGraph, searchGraph, viewGraph } from '../../src/retrieval/graph.ts';
import { UserError } from '../../src/system/errors.ts';
import { smallDisk } from '../support/small-disk.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { clustered, OPTIONS, P } from '../support/vectors.ts';

const folder = temporaryFolder('graph');
const ROWS = 1000;
const vectors = clustered(ROWS, 1);

function graph() {
  const made = newGraph({ ...OPTIONS, m: 4, efConstruction: 8 });
  made.add(
    BigUint64Array.from({ length: ROWS }, (_, i) => BigInt(i)),
    vectors,
    1,
  );
  return made;
}

test('a saved graph is viewed, and gives the same results', () => {
  const made = graph();
  const queries = vectors.slice(0, 5 * P);
  const before = searchGraph(made, queries, 5, 3, 1);
  saveGraph(made, join(folder, 'saved'), ROWS, P);
  assert.deepEqual(searchGraph(made, queries, 5, 3, 1), before);
  assert.throws(
    () => made.add(BigUint64Array.of(5000n), vectors.subarray(0, P), 1),
    'the vectors are in the file',
  );
});

test('a graph that was truncated by a full disk is refused, although usearch reports nothing', (t) => {
  const path = join(folder, 'whole');
  saveGraph(graph(), path, ROWS, P);
  const { size } = statSync(path);
  const disk = smallDisk(folder, size - (size % 4096));
  if (!disk) return t.skip('no permission to mount a file system');
  try {
    const truncated = join(disk.dir, 'truncated');
    graph().save(truncated);
    assert.ok(statSync(truncated).size < size, 'usearch truncates the file');
    assert.throws(
      () => saveGraph(graph(), truncated, ROWS, P),
      (error) =>
        error instanceof UserError &&
        error.message.startsWith(`${truncated}: the disk is full; free some space`),
    );
    assert.ok(!existsSync(truncated), 'the file is removed');
  } finally {
    disk.unmount();
  }
});

test('an empty file is refused before usearch sees it, which would close descriptor 0', () => {
  const path = join(folder, 'empty');
  writeFileSync(path, '');
  assert.throws(() => viewGraph(newGraph(OPTIONS), path, ROWS, P), /it is empty/);
  fstatSync(0);
});

test('if the folder of a graph does not exist, the error names the path', () => {
  const path = join(folder, 'none', 'graph');
  assert.throws(() => saveGraph(graph(), path, ROWS, P), /none/);
});

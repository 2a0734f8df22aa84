import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mock, test } from 'node:test';
import { type FileDigest, sha256File } from '../../src/system/files.ts';
import { changedFile } from '../../src/system/verified.ts';
import { temporaryFolder } from '../support/tiny.ts';

const dir = temporaryFolder('verified');
const path = (name: string) => join(dir, name);
const NOTE = path('verified.json');

/** Milliseconds since the file `a` last changed, as `changedFile` sees it. */
let age = 0;
mock.method(Date, 'now', () => statSync(path('a')).ctimeMs + age);

/** Writes `a` with these times until the system shows a change: two writes may fall within one tick of its clock. */
function rewrite(text: string, atime: Date, mtime: Date): void {
  const { ctimeMs } = statSync(path('a'));
  do {
    writeFileSync(path('a'), text);
    utimesSync(path('a'), atime, mtime);
  } while (statSync(path('a')).ctimeMs === ctimeMs);
}

test('a file is hashed once, and again when anything about it has changed', () => {
  writeFileSync(path('a'), 'alpha');
  writeFileSync(path('b'), 'beta');
  age = 900;
  const digests: Record<string, FileDigest> = {};
  for (const name of ['a', 'b'])
    digests[name] = { bytes: name === 'a' ? 5 : 4, sha256: sha256File(path(name)) };
  assert.equal(changedFile(dir, digests), undefined);
  assert.equal(existsSync(NOTE), false, 'files written this very moment are not trusted');
  age = 1100;
  assert.equal(changedFile(dir, digests), undefined);
  const note = readFileSync(NOTE, 'utf8');
  assert.deepEqual(Object.keys(JSON.parse(note)), ['a', 'b']);

  // A different digest is compared again.
  assert.equal(changedFile(dir, { ...digests, b: { bytes: 4, sha256: digests.a.sha256 } }), 'b');
  // The same length and modification time: the time that the system sets itself (ctime) shows the change.
  const { atime, mtime } = { atime: new Date(1e12), mtime: new Date(1e12) };
  rewrite('alpha', atime, mtime);
  assert.equal(changedFile(dir, digests), undefined);
  rewrite('alphA', atime, mtime);
  assert.equal(changedFile(dir, digests), 'a');
  writeFileSync(path('a'), 'alpha');
  assert.equal(changedFile(dir, digests), undefined);
});

test('a missing or invalid note is ignored', () => {
  const digests = { a: { bytes: 5, sha256: sha256File(path('a')) } };
  for (const text of ['', 'null', '[1]', '{"a": 7}']) {
    writeFileSync(NOTE, text);
    assert.equal(changedFile(dir, digests), undefined);
    writeFileSync(NOTE, text);
    assert.equal(changedFile(dir, { a: { bytes: 5, sha256: '' } }), 'a');
  }
  rmSync(NOTE);
  assert.equal(changedFile(dir, digests), undefined);
});

test('the files of an index of 1,000 graphs are hashed once', () => {
  const index = path('index');
  mkdirSync(index);
  const digests: Record<string, FileDigest> = {};
  for (let i = 1; i <= 1000; i++) {
    const name = `graph-${i}.usearch`;
    writeFileSync(join(index, name), 'graph');
    digests[name] = { bytes: 5, sha256: sha256File(join(index, name)) };
  }
  age = 1e6;
  assert.equal(changedFile(index, digests), undefined);
  const { ino, mtimeMs } = statSync(join(index, 'verified.json'));
  assert.equal(changedFile(index, digests), undefined);
  const again = statSync(join(index, 'verified.json'));
  assert.deepEqual([again.ino, again.mtimeMs], [ino, mtimeMs], 'the note is not written again');
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { recoverFolders, replaceFolder, writeFolderAtomic } from '../src/files.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'realm-files-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** The number of a process that is no more. */
const dead = () => spawnSync(process.execPath, ['-e', '0']).pid;

function folder(name: string, text: string): void {
  mkdirSync(join(dir, name));
  writeFileSync(join(dir, name, 'text'), text);
}

const text = (name: string) => readFileSync(join(dir, name, 'text'), 'utf8');

test('a folder whose writer was killed between taking the old one away and putting the new one in comes back', () => {
  const pid = dead();
  folder(`ict.${pid}.old`, 'old');
  folder(`ict.${pid}.tmp`, 'new');
  recoverFolders(dir);
  assert.deepEqual(readdirSync(dir), ['ict']);
  assert.equal(text('ict'), 'old');
});

test('what killed writers left beside a whole folder goes, what living ones have aside stays', () => {
  folder('ict', 'whole');
  folder(`ict.${dead()}.old`, 'old');
  folder(`qa.${dead()}.tmp`, 'half');
  writeFileSync(join(dir, `metrics.jsonl.${dead()}.tmp`), '');
  folder(`qa.${process.ppid}.tmp`, 'being written');
  folder('notes.old', 'not ours');
  folder('step-1.part', 'gone on with by the next build');
  recoverFolders(dir);
  assert.deepEqual(readdirSync(dir).sort(), ['ict', 'notes.old', `qa.${process.ppid}.tmp`, 'step-1.part']);
  assert.equal(text('ict'), 'whole');
});

test('a folder is replaced whole, and stays as it was when filling fails', async () => {
  const target = join(dir, 'ict');
  const fill = (words: string) => (aside: string) => writeFileSync(join(aside, 'text'), words);
  await writeFolderAtomic(target, fill('one'));
  await writeFolderAtomic(target, fill('two'));
  assert.equal(text('ict'), 'two');
  await assert.rejects(
    writeFolderAtomic(target, () => {
      throw new Error('no');
    }),
    /no/,
  );
  assert.equal(text('ict'), 'two');
  assert.deepEqual(readdirSync(dir), ['ict']);
});

test('a folder that cannot be put in its place leaves the old one there', () => {
  folder('ict', 'old');
  assert.throws(() => replaceFolder(join(dir, 'none'), join(dir, 'ict')), /ENOENT/);
  assert.equal(text('ict'), 'old');
  assert.deepEqual(readdirSync(dir), ['ict']);
});

test('recovering where there is no folder is nothing', () => {
  recoverFolders(join(dir, 'none'));
});

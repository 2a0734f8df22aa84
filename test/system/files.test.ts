import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { UserError } from '../../src/system/errors.ts';
import {
  explainWrite,
  inside,
  readText,
  recoverFolders,
  removeFolder,
  replaceFolder,
  writeFolderAtomic,
} from '../../src/system/files.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'realm-files-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** The id of a process that has ended. */
const dead = () => spawnSync(process.execPath, ['-e', '0']).pid;

function folder(name: string, text: string): void {
  mkdirSync(join(dir, name));
  writeFileSync(join(dir, name, 'text'), text);
}

const text = (name: string) => readFileSync(join(dir, name, 'text'), 'utf8');

test('if a writer was killed between its two renames, the old folder comes back', () => {
  const pid = dead();
  folder(`ict.${pid}.old`, 'old');
  folder(`ict.${pid}.tmp`, 'new');
  recoverFolders(dir);
  assert.deepEqual(readdirSync(dir), ['ict']);
  assert.equal(text('ict'), 'old');
});

test('temporary files of killed writers are removed, those of running ones stay', () => {
  folder('ict', 'whole');
  folder(`ict.${dead()}.old`, 'old');
  folder(`qa.${dead()}.tmp`, 'half');
  writeFileSync(join(dir, `metrics.jsonl.${dead()}.tmp`), '');
  folder(`qa.${process.ppid}.tmp`, 'being written');
  folder('notes.old', 'not ours');
  folder('step-1.part', 'the next build resumes it');
  recoverFolders(dir);
  assert.deepEqual(readdirSync(dir).sort(), ['ict', 'notes.old', `qa.${process.ppid}.tmp`, 'step-1.part']);
  assert.equal(text('ict'), 'whole');
});

test('a process killed while it removes a folder leaves nothing half removed under its name', () => {
  folder('step-1', 'whole');
  const files = pathToFileURL(join(import.meta.dirname, '../../src/system/files.ts'));
  const script = `
    import fs from 'node:fs';
    import { syncBuiltinESMExports } from 'node:module';
    import { removeFolder } from '${files}';
    const remove = fs.rmSync;
    fs.rmSync = (path, options) => (fs.existsSync(path) ? process.kill(process.pid, 'SIGKILL') : remove(path, options));
    syncBuiltinESMExports();
    removeFolder(${JSON.stringify(join(dir, 'step-1'))});`;
  const run = ['--import', 'tsx', '--input-type=module', '-e', script];
  const { signal, pid, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8' });
  assert.equal(signal, 'SIGKILL', stderr);
  assert.deepEqual(readdirSync(dir), [`step-1.${pid}.tmp`]);
  recoverFolders(dir);
  assert.deepEqual(readdirSync(dir), []);
  removeFolder(join(dir, 'step-1')); // does not exist
});

test('a folder is replaced as a whole, and stays unchanged if filling fails', async () => {
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

test('if a new folder cannot be renamed into place, the old one stays', () => {
  folder('ict', 'old');
  assert.throws(() => replaceFolder(join(dir, 'none'), join(dir, 'ict')), /ENOENT/);
  assert.equal(text('ict'), 'old');
  assert.deepEqual(readdirSync(dir), ['ict']);
});

test('recovering in a folder that does not exist does nothing', () => {
  recoverFolders(join(dir, 'none'));
});

test('a text file is UTF-8 of limited length; anything else is a user error that explains it', () => {
  const path = join(dir, 'settings.txt');
  const get = (where = path) => readText(where, 'settings file', 'name another', 10);
  const refused = (message: RegExp, where?: string) =>
    assert.throws(
      () => get(where),
      (error) => error instanceof UserError && message.test(error.message),
    );
  refused(/settings\.txt: no such settings file; name another/);
  writeFileSync(path, '\uFEFFcaf\u00e9');
  assert.equal(get(), 'caf\u00e9');
  writeFileSync(path, Buffer.from('caf\xe9', 'latin1'));
  refused(/settings\.txt: is not UTF-8 text, which a settings file must be/);
  writeFileSync(path, 'x'.repeat(11));
  refused(/settings\.txt: is longer than 10 bytes, too long for a settings file/);
  truncateSync(path, 2 ** 32);
  refused(/is longer than 10 bytes/);
  refused(/is a folder and not a settings file/, dir);
  refused(/cannot be read \(ENOTDIR\)/, join(path, 'within'));
  refused(/cannot be read \(ERR_INVALID_ARG_VALUE\)/, `${path}\0`);
  symlinkSync('loop', join(dir, 'loop'));
  refused(/loop: cannot be read \(ELOOP\)/, join(dir, 'loop'));
});

test('a file where a folder must be is not touched', async () => {
  const target = join(dir, 'corpus');
  writeFileSync(target, 'mine');
  const explained = (error: unknown) =>
    error instanceof UserError && /corpus.*move it away/.test(error.message);
  await assert.rejects(
    writeFolderAtomic(target, () => {}),
    explained,
  );
  await assert.rejects(
    writeFolderAtomic(join(target, 'within'), () => {}),
    explained,
  );
  assert.equal(readFileSync(target, 'utf8'), 'mine');
  assert.deepEqual(readdirSync(dir), ['corpus']);
});

test('a name in a manifest is a plain file name of limited length', () => {
  assert.equal(inside(dir, 'graph.usearch'), join(dir, 'graph.usearch'));
  for (const name of ['', '.', '..', '../x', '/etc/passwd', 'a/b', 'a\\b', 'a\0', 'a\n', 'x'.repeat(300)])
    assert.throws(
      () => inside(dir, name),
      (error) =>
        error instanceof UserError &&
        /not a plain file name/.test(error.message) &&
        error.message.length < 300,
    );
});

test('a path that may not be written is refused without naming an option that did not give it', () => {
  for (const code of ['EACCES', 'EROFS', 'EPERM']) {
    const error = explainWrite('out/best.json', Object.assign(new Error('no'), { code }));
    assert.ok(error instanceof UserError);
    assert.equal(
      error.message,
      `out/best.json: cannot be written (${code}); name a folder that you can write to, or change the permissions`,
    );
  }
});

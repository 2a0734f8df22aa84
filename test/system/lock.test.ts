import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { takeLock } from '../../src/system/lock.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('lock');
const path = join(folder, 'lock');
const MODULE = join(import.meta.dirname, '../../src/system/lock.ts');

/** A process that takes the lock, or prints who holds it, and runs until its input ends. */
function rival(script = '') {
  const child = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      '--input-type=module',
      '-e',
      `const { takeLock } = await import(${JSON.stringify(MODULE)});
       const { holder } = takeLock(${JSON.stringify(path)}, 'pretrain');
       process.stdout.write(JSON.stringify(holder ?? null));
       ${script}
       process.stdin.resume();`,
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const said = new Promise<{ pid: number } | null>((resolve) => {
    child.stdout.once('data', (text) => resolve(JSON.parse(String(text))));
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  return { child, said, ended };
}

test('one holder has the lock, and releases it', () => {
  const mine = takeLock(path, 'prepare');
  assert.equal(mine.holder, undefined);
  assert.equal(takeLock(path, 'pretrain').holder!.work, 'prepare');
  assert.equal(takeLock(path, 'pretrain').holder!.pid, process.pid);
  mine.release!();
  assert.equal(existsSync(path), false);
  mine.release!();
  const next = takeLock(path, 'pretrain');
  assert.equal(next.holder, undefined);
  next.release!();
  assert.deepEqual(readdirSync(folder), []);
});

test("another process's lock is held while it runs, and no longer", async () => {
  const { child, said, ended } = rival();
  assert.equal(await said, null);
  assert.equal(takeLock(path, 'eval').holder!.pid, child.pid);
  child.kill('SIGKILL');
  await ended;
  assert.ok(existsSync(path), 'killed, it left its lock');
  const mine = takeLock(path, 'eval');
  assert.equal(mine.holder, undefined);
  const late = rival();
  assert.equal((await late.said)!.pid, process.pid);
  mine.release!();
  late.child.kill('SIGKILL');
  await late.ended;
});

test('a process that ends normally releases its lock', async () => {
  const { said, ended } = rival('process.exit(0);');
  assert.equal(await said, null);
  await ended;
  assert.equal(existsSync(path), false);
});

test('the lock of an earlier process with the same id, or one without valid content, is taken over', () => {
  const { pid } = spawnSync('true');
  const holder = { host: hostname(), work: 'pretrain' };
  for (const text of [
    '',
    '{"pid"',
    JSON.stringify({ ...holder, pid, started: '1' }),
    ...(process.platform === 'linux' ? [JSON.stringify({ ...holder, pid: process.pid, started: '1' })] : []),
  ]) {
    writeFileSync(path, text);
    const mine = takeLock(path, 'pretrain');
    assert.equal(mine.holder, undefined, text);
    assert.equal(JSON.parse(readFileSync(path, 'utf8')).pid, process.pid);
    mine.release!();
  }
});

test('a lock of another host counts as held, since its process cannot be checked', () => {
  writeFileSync(path, JSON.stringify({ pid: 1, host: 'elsewhere', started: '', work: 'pretrain' }));
  assert.equal(takeLock(path, 'pretrain').holder!.host, 'elsewhere');
});

test('if many processes find an abandoned lock at once, one of them gets it', async () => {
  writeFileSync(
    path,
    JSON.stringify({ pid: spawnSync('true').pid, host: hostname(), started: '1', work: 'x' }),
  );
  const rivals = Array.from({ length: 6 }, () => rival());
  const holders = await Promise.all(rivals.map((r) => r.said));
  assert.equal(holders.filter((holder) => holder === null).length, 1);
  for (const { child } of rivals) child.kill('SIGKILL');
  await Promise.all(rivals.map((r) => r.ended));
});

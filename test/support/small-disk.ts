import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';

/** A file system of `bytes` bytes in memory, in a new folder of `root`; undefined if mounting is not allowed. */
export function smallDisk(
  root: string,
  bytes: number,
): { dir: string; grow(bytes: number): void; unmount(): void } | undefined {
  const dir = mkdtempSync(join(root, 'disk-'));
  const mount = (options: string) =>
    spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', dir], { stdio: 'ignore' }).status === 0;
  if (process.platform !== 'linux' || !mount(`size=${bytes}`)) return undefined;
  return {
    dir,
    grow: (more) => assert.ok(mount(`remount,size=${more}`)),
    unmount: () => spawnSync('umount', [dir]),
  };
}

import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode, UserError } from '../system/errors.ts';
import { explainWrite, makeFolder } from '../system/files.ts';

const REMEDY = 'use a folder on NFS or another file system that has this';

/**
 * Checks that a folder does what realm needs of one that several machines write to: a file can be created once only, and a
 * rename replaces a file at once. A `UserError` if not.
 */
export function probeFolder(dir: string): void {
  const path = join(dir, `${randomUUID()}.probe`);
  const aside = `${path}.tmp`;
  try {
    makeFolder(dir);
  } catch (error) {
    throw explainWrite(dir, error);
  }
  try {
    closeSync(openSync(path, 'wx'));
    let created = true;
    try {
      closeSync(openSync(path, 'wx'));
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') throw error;
      created = false;
    }
    if (created) throw new UserError(`${dir}: a file can be created twice here; ${REMEDY}`);
    writeFileSync(aside, 'new');
    renameSync(aside, path);
    if (readFileSync(path, 'utf8') !== 'new')
      throw new UserError(`${dir}: a rename does not replace a file here; ${REMEDY}`);
  } catch (error) {
    throw explainWrite(dir, error);
  } finally {
    for (const file of [path, aside]) rmSync(file, { force: true });
  }
}

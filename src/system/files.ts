import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { isAlive } from './alive.ts';
import { errorCode, shown, UserError } from './errors.ts';

/** Writes a temporary file, syncs it and renames it into place: a reader sees the old file or the new one, never a part. */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const file = openAside(path);
  try {
    file.write(typeof data === 'string' ? Buffer.from(data) : data);
    file.finish();
  } catch (error) {
    throw file.abandon(error);
  }
}

/** `writeFileAtomic` for a file too large for memory: `fill` writes its bytes piece by piece. Returns its result. */
export async function writeStreamAtomic<T>(
  path: string,
  fill: (write: (bytes: Uint8Array) => void) => Promise<T>,
): Promise<T> {
  const file = openAside(path);
  try {
    const result = await fill(file.write);
    file.finish();
    return result;
  } catch (error) {
    throw file.abandon(error);
  }
}

/** Bytes of the largest single read or write: Node refuses one of 2 GiB. */
const PIECE_BYTES = 1 << 30;

/** Temporary files and folders that this process has not finished, with the function that removes each when it exits. */
const unfinished = new Map<string, () => void>();

function discardAtExit(aside: string, remove = () => discard(aside)): void {
  if (unfinished.size === 0) process.on('exit', discardAll);
  unfinished.set(aside, remove);
}

function forget(aside: string): void {
  if (unfinished.delete(aside) && unfinished.size === 0) process.off('exit', discardAll);
}

function discardAll(): void {
  for (const remove of unfinished.values()) remove();
}

/** A temporary file next to `path`, which gets that name when it is finished. If it is abandoned, nothing is left. */
function openAside(path: string) {
  const aside = `${path}.${process.pid}.tmp`;
  let fd: number | undefined;
  const abandon = (error: unknown) => {
    if (fd !== undefined) closeSync(fd);
    discard(aside);
    forget(aside);
    return explainWrite(path, error);
  };
  try {
    // Otherwise the rename would fail, after hours of work.
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw Object.assign(new Error(path), { code: 'EISDIR' });
    makeFolder(dirname(path));
    discardAtExit(aside);
    fd = openSync(aside, 'w');
  } catch (error) {
    throw abandon(error);
  }
  const file = fd;
  return {
    write: (bytes: Uint8Array) => writeFully(file, bytes, null),
    finish(): void {
      fsyncSync(file);
      fd = undefined;
      closeSync(file);
      renameSync(aside, path);
      forget(aside);
    },
    abandon,
  };
}

/**
 * Makes a complete folder: `fill` writes into a temporary folder, which is renamed to `dir` when it is done.
 * An existing `dir` is replaced; on failure nothing of the new folder is left.
 */
export async function writeFolderAtomic<T>(dir: string, fill: (aside: string) => T | Promise<T>): Promise<T> {
  const aside = `${dir}.${process.pid}.tmp`;
  try {
    recoverFolders(dirname(dir));
    needNoFile(dir);
    rmSync(aside, { recursive: true, force: true });
    discardAtExit(aside);
    makeFolder(aside);
    const result = await fill(aside);
    replaceFolder(aside, dir);
    return result;
  } catch (error) {
    discard(aside);
    throw explainWrite(dir, error);
  } finally {
    forget(aside);
  }
}

/** `writeFolderResumable` fills the folder `dir`.part, next to the `dir` that it becomes. */
export const PART = '.part';

/** The file in that folder that says how far it has come. Its writer defines the content. */
export const RESUME = 'resume.json';

/**
 * Like `writeFolderAtomic`, but if `fill` fails or is killed after it has written RESUME in the folder `dir`.part, the folder
 * stays, and the next call can resume it. Only one process may fill it at a time.
 */
export async function writeFolderResumable<T>(dir: string, fill: (part: string) => Promise<T>): Promise<T> {
  const part = `${dir}${PART}`;
  const discardUnlessResumable = () => {
    if (!existsSync(join(part, RESUME))) discard(part);
  };
  try {
    recoverFolders(dirname(dir));
    needNoFile(dir);
    discardAtExit(part, discardUnlessResumable);
    const result = await fill(part);
    replaceFolder(part, dir);
    // Last: if the process is killed before, nothing is lost.
    rmSync(join(dir, RESUME), { force: true });
    return result;
  } catch (error) {
    discardUnlessResumable();
    throw explainWrite(dir, error);
  } finally {
    forget(part);
  }
}

/**
 * Makes a folder and its parents, unless it exists. One at a time: Node's own `recursive` never returns if a parent exists
 * but can hold no folders, as in /proc.
 */
export function makeFolder(dir: string): void {
  try {
    mkdirSync(dir);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'EEXIST' && statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return;
    if (code !== 'ENOENT') throw error;
    const parent = dirname(dir);
    if (existsSync(parent))
      throw new UserError(`${dir}: no folder can be made in ${parent}; name a folder somewhere else`);
    // Node reports ENOENT if a parent cannot be made (on a read-only disk, say); making the parent gives the real error.
    makeFolder(parent);
    makeFolder(dir);
  }
}

/**
 * Throws a `UserError` if no file can be written at `path`, so that the work before is not wasted. Missing parent folders
 * are allowed, and are not made.
 */
export function needWritable(path: string): void {
  try {
    const failed = (code: string) => Object.assign(new Error(path), { code });
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw failed('EISDIR');
    let parent = dirname(resolve(path));
    while (!existsSync(parent)) parent = dirname(parent);
    if (!statSync(parent).isDirectory()) throw failed('ENOTDIR');
    accessSync(parent, constants.W_OK);
  } catch (error) {
    throw explainWrite(path, error);
  }
}

/**
 * Renames the complete folder `from` to `dir`; an existing `dir` is replaced. If the process is killed between the two
 * renames, `recoverFolders` restores the old folder.
 */
export function replaceFolder(from: string, dir: string): void {
  const old = `${dir}.${process.pid}.old`;
  let replaced = true;
  try {
    renameSync(dir, old);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    replaced = false;
  }
  try {
    renameSync(from, dir);
  } catch (error) {
    if (replaced) renameSync(old, dir);
    throw error;
  }
  syncFolder(dirname(dir));
  rmSync(old, { recursive: true, force: true });
}

/** Makes the names in a folder survive a power failure; `syncFile` does so for the content of a file. */
export function syncFolder(dir: string): void {
  if (process.platform === 'win32') return; // folders cannot be opened there
  try {
    syncOpened(openSync(dir, 'r'));
  } catch (error) {
    if (errorCode(error) !== 'EINVAL') throw error; // a file system that cannot sync folders
  }
}

export function syncFile(path: string): void {
  syncOpened(openSync(path, 'r+'));
}

function syncOpened(fd: number): void {
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Writes all bytes at `position`, or after what was written last if that is null. */
export function writeFully(fd: number, bytes: Uint8Array, position: number | null): void {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(PIECE_BYTES, bytes.length - at);
    at += writeSync(fd, bytes, at, length, position === null ? null : position + at);
  }
}

/** Fills `bytes` from `position`; throws if the file is too short. */
export function readFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) {
    const n = readSync(fd, bytes, at, Math.min(PIECE_BYTES, bytes.length - at), position + at);
    if (n === 0) throw new Error(`the file ends before byte ${position + bytes.length}`);
    at += n;
  }
}

/** Removes what was not finished. An error here is ignored: the caller reports the first one. */
function discard(aside: string): void {
  try {
    rmSync(aside, { recursive: true, force: true });
  } catch {}
}

/**
 * Removes a folder, if it exists. It is renamed first, so that a killed process leaves nothing half removed under its name;
 * `recoverFolders` removes the rest.
 */
export function removeFolder(dir: string): void {
  const aside = `${dir}.${process.pid}.tmp`;
  rmSync(aside, { recursive: true, force: true });
  try {
    renameSync(dir, aside);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  rmSync(aside, { recursive: true, force: true });
}

/** A file at the path of the folder belongs to somebody else, and must not be replaced. */
function needNoFile(dir: string): void {
  if (!existsSync(dir) || statSync(dir).isDirectory()) return;
  throw new UserError(`${dir}: is a file where a folder must be; move it away`);
}

/** `NAME.PID.tmp` is a file or folder that is not complete, `NAME.PID.old` a folder that is being replaced. */
const ASIDE = /^(.+)\.(\d+)\.(tmp|old)$/;

/** True for the names of temporary files and folders. */
export function isAside(name: string): boolean {
  return ASIDE.test(name);
}

/**
 * Cleans up in `parent` after processes that were killed while writing there. A folder that was about to be replaced gets
 * its name back; all other temporary files and folders are removed. Those of running processes stay.
 */
export function recoverFolders(parent: string): void {
  let names: string[];
  try {
    names = readdirSync(parent);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw explainWrite(parent, error);
  }
  for (const name of names) {
    const [, target, pid, kind] = ASIDE.exec(name) ?? [];
    if (!target || Number(pid) === process.pid || isAlive(Number(pid))) continue;
    if (kind === 'old' && !existsSync(join(parent, target))) {
      renameSync(join(parent, name), join(parent, target));
    } else {
      rmSync(join(parent, name), { recursive: true, force: true });
    }
  }
}

/** SHA-256 of a file in hexadecimal, read in pieces of 1 MiB. */
export function sha256File(path: string): string {
  const hash = createHash('sha256');
  readPieces(path, (piece) => hash.update(piece));
  return hash.digest('hex');
}

/** Git's name of a file's content: SHA-1 of its length and its bytes. */
export function gitOid(path: string): string {
  const hash = createHash('sha1').update(`blob ${statSync(path).size}\0`);
  readPieces(path, (piece) => hash.update(piece));
  return hash.digest('hex');
}

/** Calls `use` with a file's bytes in pieces of 1 MiB at most; each is valid until the next one. */
export function readPieces(path: string, use: (piece: Uint8Array) => void): void {
  const fd = openSync(path, 'r');
  try {
    const piece = Buffer.allocUnsafe(1 << 20);
    for (let n = readSync(fd, piece); n > 0; n = readSync(fd, piece)) use(piece.subarray(0, n));
  } finally {
    closeSync(fd);
  }
}

/** Length in bytes and SHA-256 of one file, as manifests list them. */
export interface FileDigest {
  bytes: number;
  sha256: string;
}

/** Maximum bytes of a text that is read at once. The largest such file, a vocabulary, has a few MiB. */
const TEXT_LIMIT = 16 << 20;

/**
 * The text of a UTF-8 file of at most `limit` bytes, without a byte order mark. Anything else at `path` is a `UserError`
 * that says what the file should be and how to get it.
 */
export function readText(path: string, what: string, remedy: string, limit = TEXT_LIMIT): string {
  let bytes: Buffer | undefined;
  try {
    bytes = readUpTo(path, limit);
  } catch (error) {
    throw explainRead(path, `a ${what}`, error, remedy);
  }
  if (!bytes) {
    throw new UserError(`${path}: is longer than ${limit} bytes, too long for a ${what}; ${remedy}`);
  }
  if (!isUtf8(bytes)) throw new UserError(`${path}: is not UTF-8 text, which a ${what} must be; ${remedy}`);
  return bytes.toString('utf8').replace(/^\uFEFF/, '');
}

/** All bytes of a file, or undefined if they are more than `limit`. */
function readUpTo(path: string, limit: number): Buffer | undefined {
  const fd = openSync(path, 'r');
  try {
    const pieces: Buffer[] = [];
    let room = limit;
    for (;;) {
      const piece = Buffer.allocUnsafe(1 << 16);
      const n = readSync(fd, piece);
      if (n === 0) break;
      if (n > room) return undefined;
      room -= n;
      pieces.push(piece.subarray(0, n));
    }
    return Buffer.concat(pieces);
  } finally {
    closeSync(fd);
  }
}

/** The `UserError` for a failed read: `what` should be at the path, and `remedy` says what to do. Bugs are returned as they are. */
export function explainRead(path: string, what: string, error: unknown, remedy: string): unknown {
  const code = errorCode(error);
  if (code === 'ENOENT') return new UserError(`${path}: no such ${what.replace(/^an? /, '')}; ${remedy}`);
  if (code === 'EISDIR') return new UserError(`${path}: is a folder and not ${what}; ${remedy}`);
  if (code === 'EACCES' || code === 'EPERM')
    return new UserError(`${path}: cannot be read (${code}); change its permissions`);
  // ENOTDIR, ELOOP, ENAMETOOLONG, EIO, …: something is wrong with the path, not with the program.
  // ERR_INVALID_ARG_VALUE is a path with a NUL character.
  if ((error as NodeJS.ErrnoException)?.syscall !== undefined || code === 'ERR_INVALID_ARG_VALUE')
    return new UserError(`${path}: cannot be read (${code}); ${remedy}`);
  return error;
}

/** Parses a JSON file; a missing or broken one is a `UserError` that says what the file is and how to get it. */
export function readJson(path: string, what: string, remedy: string, limit = TEXT_LIMIT): unknown {
  const text = readText(path, what, remedy, limit);
  try {
    return JSON.parse(text);
  } catch {
    throw new UserError(`${path}: this ${what} is not valid JSON; ${remedy}`);
  }
}

/** The path of a file that a manifest names. `UserError` if it would be outside the manifest's folder. */
export function inside(dir: string, name: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/.test(name)) {
    throw new UserError(
      `${dir}: the manifest names ${shown(name)}, which is not a plain file name; the folder is damaged, make it again`,
    );
  }
  return join(dir, name);
}

/** The `UserError` that explains why `path` cannot be written, if there is one; else the error as it is. */
export function explainWrite(path: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new UserError(`${path}: the disk is full; free some space and run the same command again`);
  if (code === 'EACCES' || code === 'EROFS' || code === 'EPERM') {
    return new UserError(
      `${path}: cannot be written (${code}); name a folder that you can write to, or change the permissions`,
    );
  }
  if (code === 'ENOTDIR' || code === 'EEXIST' || code === 'EISDIR') {
    return new UserError(
      `${path}: cannot be written (${code}), because there is a file where a folder must be, or a folder where a file must be; move it away`,
    );
  }
  return error;
}

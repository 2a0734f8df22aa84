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
import { errorCode, shown, UserError } from './errors.ts';

/** Writes a whole file aside, syncs it and renames it into place: a reader meets the old file or the new one, never a part. */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const file = openAside(path);
  try {
    file.write(typeof data === 'string' ? Buffer.from(data) : data);
    file.finish();
  } catch (error) {
    throw file.abandon(error);
  }
}

/** `writeFileAtomic` for a file too large to hold: `fill` hands its bytes over one piece after another. */
export async function writeStreamAtomic(
  path: string,
  fill: (write: (bytes: Uint8Array) => void) => Promise<void>,
): Promise<void> {
  const file = openAside(path);
  try {
    await fill(file.write);
    file.finish();
  } catch (error) {
    throw file.abandon(error);
  }
}

/** Largest single write, in bytes: Node refuses one of 2 GiB. */
const PIECE = 1 << 30;

/** What this process has written aside and not finished; none of it outlives a process that exits. */
const unfinished = new Map<string, () => void>();

function discardAtExit(aside: string, remove = () => discard(aside)): void {
  if (unfinished.size === 0) process.on('exit', discardAll);
  unfinished.set(aside, remove);
}

function settled(aside: string): void {
  if (unfinished.delete(aside) && unfinished.size === 0) process.off('exit', discardAll);
}

function discardAll(): void {
  for (const remove of unfinished.values()) remove();
}

/** A file beside `path` that takes its name when it is finished; abandoned, it leaves nothing. */
function openAside(path: string) {
  const aside = `${path}.${process.pid}.tmp`;
  let fd: number | undefined;
  const abandon = (error: unknown) => {
    if (fd !== undefined) closeSync(fd);
    discard(aside);
    settled(aside);
    return explainWrite(path, error);
  };
  try {
    // Else it is noticed at the end of hours of work, when the file takes its name.
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
      settled(aside);
    },
    abandon,
  };
}

/**
 * Makes a folder whole: `fill` writes into a folder aside, which takes the name `dir` only when it is done.
 * A `dir` that stands already is replaced; on failure nothing of the new one is left.
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
    settled(aside);
  }
}

/** Of the folder that `writeFolderResumable` fills, beside the one it becomes. */
export const PART = '.part';

/** In that folder: how far it has come, in whatever form its writer reads. */
export const RESUME = 'resume.json';

/**
 * As `writeFolderAtomic`, but what `fill` has noted in RESUME of the folder `dir`.part stays when it fails or is killed, for
 * the next one to go on with. Only one process may fill it at a time.
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
    // Last: a kill before it costs nothing.
    rmSync(join(dir, RESUME), { force: true });
    return result;
  } catch (error) {
    discardUnlessResumable();
    throw explainWrite(dir, error);
  } finally {
    settled(part);
  }
}

/**
 * Makes a folder with those above it; one that is there is as good. One at a time: Node's own `recursive` never returns
 * where a folder above exists and can hold none, as below /proc.
 */
export function makeFolder(dir: string): void {
  try {
    mkdirSync(dir);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'EEXIST' && statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return;
    if (code !== 'ENOENT') throw error;
    const above = dirname(dir);
    if (existsSync(above))
      throw new UserError(`${dir}: no folder can be made in ${above}; name a folder somewhere else`);
    makeFolder(above);
    makeFolder(dir);
  }
}

/**
 * A `UserError` where no file can be made at `path`, so that no work is done for nothing. Folders above it may be missing,
 * and are not made.
 */
export function needWritable(path: string): void {
  try {
    const failed = (code: string) => Object.assign(new Error(path), { code });
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw failed('EISDIR');
    let above = dirname(resolve(path));
    while (!existsSync(above)) above = dirname(above);
    if (!statSync(above).isDirectory()) throw failed('ENOTDIR');
    accessSync(above, constants.W_OK);
  } catch (error) {
    throw explainWrite(path, error);
  }
}

/**
 * Gives the whole folder `from` the name `dir`; one that stands is replaced. A kill between its two renames is undone
 * by `recoverFolders`.
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

/** Makes the names in a folder outlast a loss of power, as `syncFile` does the content of a file. */
export function syncFolder(dir: string): void {
  if (process.platform === 'win32') return; // folders cannot be opened there
  try {
    syncOpened(openSync(dir, 'r'));
  } catch (error) {
    if (errorCode(error) !== 'EINVAL') throw error; // a file system that cannot do it
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

/** Writes all bytes, at `position` or, where that is null, behind what was written last. */
export function writeFully(fd: number, bytes: Uint8Array, position: number | null): void {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(PIECE, bytes.length - at);
    at += writeSync(fd, bytes, at, length, position === null ? null : position + at);
  }
}

/** Fills `bytes` from `position` on; throws where the file ends before. */
export function readFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) {
    const n = readSync(fd, bytes, at, Math.min(PIECE, bytes.length - at), position + at);
    if (n === 0) throw new Error(`the file ends before byte ${position + bytes.length}`);
    at += n;
  }
}

/** Removes what was not finished. Where even that fails, as below a file, the first failure is the one to tell. */
function discard(aside: string): void {
  try {
    rmSync(aside, { recursive: true, force: true });
  } catch {}
}

/**
 * Removes a folder, if it is there. It loses its name first: a kill in between leaves nothing under it, and what is left
 * aside `recoverFolders` removes.
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

/** A file where the folder is to be is somebody's, and not ours to replace. */
function needNoFile(dir: string): void {
  if (!existsSync(dir) || statSync(dir).isDirectory()) return;
  throw new UserError(`${dir}: is a file where a folder must be; move it away`);
}

/** `NAME.PID.tmp`, a file or folder not yet whole, and `NAME.PID.old`, a folder on its way out. */
const ASIDE = /^(.+)\.(\d+)\.(tmp|old)$/;

/** True of the names that writing gives to what is not, or no longer, in its place. */
export function isAside(name: string): boolean {
  return ASIDE.test(name);
}

/**
 * Clears up in `parent` after processes that were killed while writing there: a folder that was about to be replaced and
 * never was gets its name back, everything else aside is removed. What living processes have aside stays.
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

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
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

/** Hands over a file's bytes in pieces of 1 MiB at most, each good until the next one. */
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

/** Bytes of a text that is read whole. The largest of them, a vocabulary, has a few MiB. */
const TEXT_LIMIT = 16 << 20;

/**
 * The text of a UTF-8 file of at most `limit` bytes, without a byte order mark. Whatever else stands at `path` is a
 * `UserError` that says what the file should be and how to get it.
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
  if (!isUtf8(bytes)) throw new UserError(`${path}: is not UTF-8 text, as a ${what} must be; ${remedy}`);
  return bytes.toString('utf8').replace(/^\uFEFF/, '');
}

/** All bytes of a file, or undefined where they are more than `limit`. */
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

/** What a failed read means to whoever gave the path: `what` should be there, `remedy` says how it comes there. */
export function explainRead(path: string, what: string, error: unknown, remedy: string): unknown {
  const code = errorCode(error);
  if (code === 'ENOENT') return new UserError(`${path}: no such ${what.replace(/^an? /, '')}; ${remedy}`);
  if (code === 'EISDIR') return new UserError(`${path}: is a folder and not ${what}; ${remedy}`);
  if (code === 'EACCES' || code === 'EPERM')
    return new UserError(`${path}: may not be read; change its permissions`);
  // ENOTDIR, ELOOP, ENAMETOOLONG, EIO, …: what the system says of the path, not what the program did wrong.
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
    throw new UserError(`${path}: this ${what} is not whole JSON; ${remedy}`);
  }
}

/** The path of a file that a manifest names, refused when it leaves the manifest's folder. */
export function inside(dir: string, name: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/.test(name)) {
    throw new UserError(
      `${dir}: the manifest names ${shown(name)}, which is not a plain file name; the folder is damaged, make it again`,
    );
  }
  return join(dir, name);
}

/** The sentence for what keeps `path` from being written, where there is one; else the error as it is. */
export function explainWrite(path: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new UserError(`${path}: the disk is full; free some room and run the same command again`);
  if (code === 'EACCES' || code === 'EROFS' || code === 'EPERM') {
    return new UserError(
      `${path}: cannot be written (${code}); choose another folder with --run or change its permissions`,
    );
  }
  if (code === 'ENOTDIR' || code === 'EEXIST' || code === 'EISDIR') {
    return new UserError(
      `${path}: cannot be written (${code}), since a file stands where a folder must be, or a folder where a file must be; move it away`,
    );
  }
  return error;
}

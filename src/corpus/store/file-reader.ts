import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { errorCode, UserError } from '../../system/errors.ts';
import { explainRead } from '../../system/files.ts';
import { OFFSET_BYTES, readU64 } from './layout.ts';

/** What the reader of a message should do about a corpus that cannot be read. */
export const REMEDY = 'prepare the corpus again';

export function damaged(path: string, what: string): UserError {
  return new UserError(`${path}: ${what}; the corpus is damaged, ${REMEDY}`);
}

/** A file that is read by position. Numbers are read through a window of 4 KiB, so that neighbours cost one system call. */
export interface FileReader {
  path: string;
  u32(at: number): number;
  u64(at: number): number;
  bigU64(at: number): bigint;
  bytes(start: number, end: number): Buffer;
  /** Unsigned numbers [first, end) of `width` bytes each. */
  integers(first: number, end: number, width: 2 | 4): Int32Array;
  close(): void;
}

const WINDOW_BYTES = 4096;

/** @param size bytes that the file must have */
export function fileReader(path: string, size: number): FileReader {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw damaged(path, 'is missing');
    throw explainRead(path, 'a file of the corpus', error, REMEDY);
  }
  const found = fstatSync(fd);
  if (!found.isFile() || found.size !== size) {
    closeSync(fd);
    throw damaged(path, found.isFile() ? `is ${found.size} bytes long, not ${size}` : 'is not a file');
  }
  const window = Buffer.alloc(Math.min(WINDOW_BYTES, size));
  let windowAt = 0;
  let windowEnd = 0;

  function fill(buffer: Buffer, at: number): void {
    for (let done = 0; done < buffer.length; ) {
      const n = readSync(fd, buffer, done, buffer.length - done, at + done);
      if (n === 0) throw damaged(path, `ends before byte ${at + buffer.length}`);
      done += n;
    }
  }

  /** Where bytes [at, at + width) lie in the window. */
  function locate(at: number, width: number): number {
    if (at + width > size) throw damaged(path, `byte ${at}, which another file points to, is beyond its end`);
    if (at < windowAt || at + width > windowEnd) {
      const from = Math.min(at - (at % 8), size - window.length);
      fill(window, from);
      windowAt = from;
      windowEnd = from + window.length;
    }
    return at - windowAt;
  }

  function bytes(start: number, end: number): Buffer {
    if (!(start >= 0 && start <= end && end <= size)) {
      throw damaged(path, `bytes ${start} to ${end}, which another file points to, are outside of it`);
    }
    const buffer = Buffer.allocUnsafe(end - start);
    fill(buffer, start);
    return buffer;
  }

  return {
    path,
    u32: (at) => window.readUInt32LE(locate(at, 4)),
    u64: (at) => readU64(window, locate(at, OFFSET_BYTES)),
    bigU64: (at) => window.readBigUInt64LE(locate(at, 8)),
    bytes,
    integers: (first, end, width) => integersOf(bytes(first * width, end * width), width),
    close: () => closeSync(fd),
  };
}

export function integersOf(bytes: Buffer, width: 2 | 4): Int32Array {
  const integers = new Int32Array(Math.floor(bytes.length / width));
  for (let i = 0; i < integers.length; i++) {
    integers[i] = width === 2 ? bytes.readUInt16LE(i * 2) : bytes.readInt32LE(i * 4);
  }
  return integers;
}

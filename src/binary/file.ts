import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { errorCode, UserError } from '../system/errors.ts';
import { explainRead } from '../system/files.ts';

/** A file open for reading by position: it may be larger than memory, and larger than one read of Node.js. */
export interface OpenFile {
  path: string;
  /** Length at the time it was opened. */
  bytes: number;
  /** The bytes at `position`; the caller has checked that they lie within the file. */
  read(position: number, length: number): ArrayBuffer;
  close(): void;
}

/** Bytes of one read: Node.js refuses one of 2 GiB. */
const READ_AT_ONCE = 1 << 30;

/**
 * Opens a file. `UserError` if it does not exist.
 * @param what what the path should name, such as `the safetensors file itself`
 */
export function openFile(path: string, what: string): OpenFile {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw new UserError(`${path}: no such file; check the path`);
    throw explainRead(path, 'a file of weights', error, 'check the path');
  }
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    closeSync(fd);
    throw new UserError(`${path}: is not a file; name ${what}`);
  }
  return {
    path,
    bytes: stat.size,
    read(position, length) {
      const buffer = new ArrayBuffer(length);
      for (let at = 0; at < length; ) {
        const piece = new Uint8Array(buffer, at, Math.min(READ_AT_ONCE, length - at));
        const n = readSync(fd, piece, 0, piece.length, position + at);
        if (n === 0) {
          throw new UserError(
            `${path}: ended at byte ${position + at} while being read; copy or download it again`,
          );
        }
        at += n;
      }
      return buffer;
    },
    close: () => closeSync(fd),
  };
}

/** Runs `work` on a file that was just opened, and closes the file if it throws. */
export function orClose<T>(file: OpenFile, work: (file: OpenFile) => T): T {
  try {
    return work(file);
  } catch (error) {
    file.close();
    throw error;
  }
}

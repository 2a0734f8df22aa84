import { createReadStream } from 'node:fs';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import { UserError } from '../system/errors.ts';
import { unbzip2 } from './bzip2.ts';

// The bytes of a file piece by piece, decompressed according to its name. Every reader of a corpus starts here.

/** Bytes read at a time. */
const PIECE_BYTES = 1 << 18;

/** Bytes of Zstandard decompressed at a time: four can become 128 KiB. */
const ZSTD_SLICE_BYTES = 1 << 10;

let stdinTaken = false;

/** Bytes of files, as they are on the disk, that the readers of a corpus have read since this process started. */
let readSoFar = 0;

export function bytesRead(): number {
  return readSoFar;
}

export function countRead(bytes: number): void {
  readSoFar += bytes;
}

/** A path without the ending of a compressed file. */
export const unpackedName = (path: string) => path.replace(/\.(gz|zst|bz2)$/, '');

/** The bytes of a file (plain, `.gz`, `.zst` or `.bz2`), or of standard input if `path` is `-`. */
export async function* readPieces(path: string): AsyncGenerator<Buffer> {
  if (path === '-') {
    if (stdinTaken) {
      throw new UserError('-: standard input can be read only once; save it to a file');
    }
    stdinTaken = true;
    yield* process.stdin as AsyncIterable<Buffer>;
    return;
  }
  if (path.endsWith('.bz2')) {
    yield* unbzip2(path, countRead);
    return;
  }
  const file = createReadStream(path, { highWaterMark: PIECE_BYTES });
  const counted = Readable.from(counting(file));
  try {
    if (path.endsWith('.gz')) yield* gunzip(counted);
    else if (path.endsWith('.zst')) yield* unzstd(counted, path);
    else yield* counted as AsyncIterable<Buffer>;
  } finally {
    file.destroy();
  }
}

async function* counting(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const piece of pieces) {
    countRead(piece.length);
    yield piece;
  }
}

/** Decompresses gzip. Several members in one file are one text, as for gzip itself. */
export function gunzip(packed: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  const unzipped = createGunzip({ chunkSize: PIECE_BYTES });
  // The reader of the last stream gets the errors of both; the callback only prevents that they are thrown twice.
  return pipeline(packed instanceof Readable ? packed : Readable.from(packed), unzipped, () => {});
}

/** Decompresses Zstandard. Checks its structure and its end, but not its checksum (fzstd does not). */
async function* unzstd(packed: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const unpacked: Buffer[] = [];
  const decoder = new Decompress((piece) => unpacked.push(Buffer.from(piece)));
  const push = (piece: Uint8Array, last: boolean) => {
    try {
      decoder.push(piece, last);
    } catch {
      throw new UserError(`${path}: is not a complete zstd file; make or download it again`);
    }
  };
  for await (const piece of packed) {
    for (let at = 0; at < piece.length; at += ZSTD_SLICE_BYTES) {
      push(piece.subarray(at, at + ZSTD_SLICE_BYTES), false);
      yield* unpacked.splice(0);
    }
  }
  push(new Uint8Array(0), true);
  yield* unpacked;
}

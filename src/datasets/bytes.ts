import { createReadStream } from 'node:fs';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import { UserError } from '../system/errors.ts';

// The bytes of a file piece by piece, unpacked as its name says. Every reader of a corpus begins here.

/** Bytes read at a time. */
const PIECE = 1 << 18;

/** Bytes of Zstandard unpacked at a time: four can stand for 128 KiB. */
const SLICE = 1 << 10;

let stdinTaken = false;

/** Bytes of files, packed as they lie on the disk, that the readers of a corpus have read since this process began. */
let readSoFar = 0;

export function bytesRead(): number {
  return readSoFar;
}

export function countRead(bytes: number): void {
  readSoFar += bytes;
}

/**
 * The bytes of a file, plain, `.gz` or `.zst`, or those of standard input where `path` is `-`.
 * A `.bz2` is refused: no library for it is still looked after.
 */
export async function* readPieces(path: string): AsyncGenerator<Buffer> {
  if (path.endsWith('.bz2')) {
    throw new UserError(`${path}: bzip2 is not read; unpack it with "bunzip2 ${path}" first`);
  }
  if (path === '-') {
    if (stdinTaken) {
      throw new UserError('-: standard input can be read once only; save it to a file');
    }
    stdinTaken = true;
    yield* process.stdin as AsyncIterable<Buffer>;
    return;
  }
  const file = createReadStream(path, { highWaterMark: PIECE });
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

/** Unpacks gzip; several members one after the other are one text, as gzip has it. */
export function gunzip(packed: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  const unzipped = createGunzip({ chunkSize: PIECE });
  // Errors of either stream arrive at whoever reads the last one; the callback only keeps them from being thrown twice.
  return pipeline(packed instanceof Readable ? packed : Readable.from(packed), unzipped, () => {});
}

/** Unpacks Zstandard. Its checksum is not compared (fzstd does not), its structure and its end are. */
async function* unzstd(packed: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const unpacked: Buffer[] = [];
  const decoder = new Decompress((piece) => unpacked.push(Buffer.from(piece)));
  const push = (piece: Uint8Array, last: boolean) => {
    try {
      decoder.push(piece, last);
    } catch {
      throw new UserError(`${path}: is not a whole zstd file; make or fetch it again`);
    }
  };
  for await (const piece of packed) {
    for (let at = 0; at < piece.length; at += SLICE) {
      push(piece.subarray(at, at + SLICE), false);
      yield* unpacked.splice(0);
    }
  }
  push(new Uint8Array(0), true);
  yield* unpacked;
}

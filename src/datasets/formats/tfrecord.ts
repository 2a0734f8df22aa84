import { crc32c } from '@node-rs/crc32';
import { masked } from '../../binary/checksum.ts';
import { UserError } from '../../system/errors.ts';
import { gunzip, readPieces } from '../bytes.ts';
import { explainRead, LINE_LIMIT } from '../jsonl.ts';

/** One record: its bytes, and its name in errors, `FILE: record N`, counted from 0. */
export interface TfRecord {
  bytes: Buffer;
  where: string;
}

/** Before a record's bytes: their length (u64) and its checksum. After them: their checksum. */
const HEAD = 12;
const TAIL = 4;

/**
 * The records of a TFRecord file, each compared with its checksums (tensorflow/tensorflow, tensorflow/core/lib/io/
 * record_writer.h): u64 length, masked CRC32C of the length, the bytes, masked CRC32C of the bytes, little-endian.
 * REALM's shards are gzip files without the ending .gz; they are recognised by their first bytes.
 */
export async function* readTfRecords(path: string): AsyncGenerator<TfRecord> {
  const what = 'a TFRecord file';
  let held: Buffer = Buffer.alloc(0);
  let number = 0;
  try {
    for await (const piece of unpacked(readPieces(path))) {
      held = held.length === 0 ? piece : Buffer.concat([held, piece]);
      let at = 0;
      while (held.length - at >= HEAD) {
        const where = `${path}: record ${number}`;
        const length = recordLength(held, at, where);
        if (held.length - at < HEAD + length + TAIL) break;
        const bytes = held.subarray(at + HEAD, at + HEAD + length);
        if (held.readUInt32LE(at + HEAD + length) !== maskedCrc(bytes)) throw damaged(where);
        yield { bytes, where };
        number++;
        at += HEAD + length + TAIL;
      }
      held = held.subarray(at);
    }
  } catch (error) {
    throw explainRead(path, what, error);
  }
  if (held.length > 0) {
    throw new UserError(`${path}: record ${number}: the file ends within it; download it again`);
  }
}

function recordLength(held: Buffer, at: number, where: string): number {
  if (!isHead(held, at)) throw damaged(where);
  const length = held.readBigUInt64LE(at);
  if (length > LINE_LIMIT) {
    throw new UserError(`${where}: is longer than ${LINE_LIMIT >> 20} MiB; split it into several records`);
  }
  return Number(length);
}

function damaged(where: string): UserError {
  return new UserError(
    `${where}: the checksum does not match; the file is damaged or not a TFRecord file, download it again`,
  );
}

function isHead(bytes: Buffer, at = 0): boolean {
  return bytes.readUInt32LE(at + 8) === maskedCrc(bytes.subarray(at, at + 8));
}

/** CRC32C in the form that TensorFlow stores (see `masked`). */
export function maskedCrc(bytes: Buffer): number {
  return masked(crc32c(bytes));
}

/** The bytes as they are, or decompressed if they start like gzip and not like a record. */
async function* unpacked(pieces: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  let first: Buffer = Buffer.alloc(0);
  while (first.length < HEAD) {
    const { value, done } = await pieces.next();
    if (done) break;
    first = Buffer.concat([first, value]);
  }
  async function* all() {
    if (first.length > 0) yield first;
    yield* pieces;
  }
  const packed = first.length >= HEAD && !isHead(first) && first.readUInt16BE(0) === 0x1f8b;
  yield* packed ? gunzip(all()) : all();
}

import { crc32, crc32c } from '@node-rs/crc32';
import type { OpenFile } from './file.ts';

const SUMS = { crc32, crc32c };

/** Bytes read at a time. */
const PIECE_BYTES = 1 << 26;

/** The checksum of bytes `begin` to `end` of a file. */
export function checksum(file: OpenFile, kind: keyof typeof SUMS, begin: number, end: number): number {
  let sum = 0;
  for (let at = begin; at < end; at += PIECE_BYTES) {
    sum = SUMS[kind](new Uint8Array(file.read(at, Math.min(PIECE_BYTES, end - at))), sum);
  }
  return sum;
}

/** A CRC-32C as LevelDB and TensorFlow store it (leveldb, util/crc32c.h, Mask): changed, so that data with checksums in it is safe to checksum. */
export function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

import { crc32, crc32c } from '@node-rs/crc32';
import type { OpenFile } from './file.ts';

const SUMS = { crc32, crc32c };

/** Bytes whose sum is taken at a time. */
const AT_ONCE = 1 << 26;

/** The checksum of bytes `begin` to `end` of a file, a stretch at a time. */
export function checksum(file: OpenFile, kind: keyof typeof SUMS, begin: number, end: number): number {
  let sum = 0;
  for (let at = begin; at < end; at += AT_ONCE) {
    sum = SUMS[kind](new Uint8Array(file.read(at, Math.min(AT_ONCE, end - at))), sum);
  }
  return sum;
}

/** How LevelDB and TensorFlow store a CRC-32C (leveldb, util/crc32c.h, Mask): turned, so that no sum is taken of a plain sum. */
export function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

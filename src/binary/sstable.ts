import { BinaryReader } from '@bufbuild/protobuf/wire';
import { crc32c } from '@node-rs/crc32';
import { UserError } from '../system/errors.ts';
import { masked } from './checksum.ts';
import type { OpenFile } from './file.ts';

// A sorted table of keys and values as LevelDB lays it out (leveldb, doc/table_format.md; tensorflow,
// core/lib/io/table_format.txt): blocks of entries, an index block with the position of each block, and a footer with the
// position of the index. A key leaves out the prefix that it shares with the key before.

/** Bytes of the footer, and its last eight bytes. */
const FOOTER = 48;
const MAGIC = 0xdb4775248b80fb57n;
/** Bytes after each block: its compression and its checksum. */
const TRAILER = 5;
/** Maximum bytes of a table; the index of a checkpoint of thousands of tensors has a few hundred thousand. */
const MAX_TABLE_BYTES = 100_000_000;

/** All entries of a table, in order; keys as one character a byte. `UserError` for a damaged or compressed table. */
export function readTable(file: OpenFile): { key: string; value: Uint8Array }[] {
  if (file.bytes > MAX_TABLE_BYTES) bad(file, `it has ${file.bytes} bytes, too many for a list of tensors`);
  if (file.bytes < FOOTER) bad(file, `it has ${file.bytes} bytes, too few for a footer`);
  const footer = file.read(file.bytes - FOOTER, FOOTER);
  if (new DataView(footer).getBigUint64(FOOTER - 8, true) !== MAGIC) bad(file, 'it has no footer');
  try {
    const places = new BinaryReader(new Uint8Array(footer));
    handle(places); // of the metaindex block, which is empty
    const index = entries(block(file, handle(places)));
    return index.flatMap(({ value }) => entries(block(file, handle(new BinaryReader(value)))));
  } catch (error) {
    // For incomplete data or invalid numbers the reader throws a RangeError or an Error.
    if (error instanceof UserError) throw error;
    return bad(file, (error as Error).message);
  }
}

interface Place {
  at: number;
  length: number;
}

function handle(reader: BinaryReader): Place {
  return { at: Number(reader.uint64()), length: Number(reader.uint64()) };
}

function block(file: OpenFile, { at, length }: Place): Uint8Array {
  if (at + length + TRAILER > file.bytes) bad(file, `a block ends at byte ${at + length + TRAILER}`);
  const bytes = new Uint8Array(file.read(at, length + TRAILER));
  const sum = new DataView(bytes.buffer).getUint32(length + 1, true);
  if (masked(crc32c(bytes.subarray(0, length + 1))) !== sum)
    bad(file, `the checksum of the block at byte ${at} does not match`);
  // TensorFlow has compressed no table since version 1.2 (core/util/tensor_bundle/tensor_bundle.cc, TableBuilderOptions).
  if (bytes[length] !== 0) {
    throw new UserError(
      `${file.path}: is compressed, as TensorFlow wrote it before 1.2; load it and save it again with a later version`,
    );
  }
  return bytes.subarray(0, length);
}

function entries(bytes: Uint8Array): { key: string; value: Uint8Array }[] {
  // At the end: the positions of entries with a whole key, and their number.
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const restarts = bytes.length < 4 ? Number.NaN : view.getUint32(bytes.length - 4, true);
  const end = bytes.length - 4 - 4 * restarts;
  if (!(end >= 0)) throw new Error('a block has no end');
  const reader = new BinaryReader(bytes.subarray(0, end));
  const found = [];
  let key = '';
  while (reader.pos < reader.len) {
    const [shared, own, length] = [reader.uint32(), reader.uint32(), reader.uint32()];
    if (shared > key.length || reader.pos + own + length > end) throw new Error('an entry leaves its block');
    const at = reader.pos;
    key = key.slice(0, shared) + Buffer.from(bytes.subarray(at, at + own)).toString('latin1');
    found.push({ key, value: bytes.subarray(at + own, at + own + length) });
    reader.pos = at + own + length;
  }
  return found;
}

function bad(file: OpenFile, what: string): never {
  throw new UserError(`${file.path}: not a complete table of tensors: ${what}; copy or download it again`);
}

import { BinaryReader } from '@bufbuild/protobuf/wire';
import { checksum, masked } from '../binary/checksum.ts';
import { type OpenFile, openFile, orClose } from '../binary/file.ts';
import { readTable } from '../binary/sstable.ts';
import { shown, UserError } from '../system/errors.ts';
import { ELEMENT_BYTES, elements, readFloats, type StoredTensor, type TensorFile } from './tensors.ts';

// A checkpoint of TensorFlow (tensorflow, core/protobuf/tensor_bundle.proto): NAME.index is a table from the names of
// variables to their kind, shape and position; NAME.data-00000-of-00002 and so on have the numbers.

/** Kinds of numbers (tensorflow, core/framework/types.proto), as safetensors names them. */
const KINDS: Record<number, string> = {
  1: 'F32',
  2: 'F64',
  3: 'I32',
  4: 'U8',
  5: 'I16',
  6: 'I8',
  9: 'I64',
  10: 'BOOL',
  14: 'BF16',
  17: 'U16',
  19: 'F16',
  22: 'U32',
  23: 'U64',
};

/** Maximum dimensions of a variable; TensorFlow's own limit. */
const MOST_AXES = 254;

/** A variable's entry, BundleEntryProto. */
interface Entry {
  kind: number;
  shape: number[];
  shard: number;
  offset: number;
  size: number;
  crc: number;
  /** Of a variable in several parts, the part of each axis that each has; else empty. */
  slices: Extent[][];
}

/** Part of an axis; all of it where there is no length. */
interface Extent {
  start: number;
  length: number | undefined;
}

/**
 * Opens a checkpoint of TensorFlow. The names are read now, and checked against the lengths of the data files; the
 * numbers are read by position, and their checksum is verified when a whole variable is read. Variables of text are skipped.
 * The parts of a variable that was partitioned by rows are joined.
 * @param path of the file that ends in `.index`
 */
export function readTensorBundle(path: string): TensorFile {
  const table = orClose(openFile(path, "the checkpoint's .index file"), (file) => {
    const table = readTable(file);
    file.close();
    return table;
  });
  const files = new Map<number, OpenFile>();
  const close = () => {
    for (const file of files.values()) file.close();
  };
  try {
    const header = parse(path, '', table[0]?.key === '' ? table[0].value : new Uint8Array(0), readHeader);
    if (header.bigEndian) bad(path, 'was written on a machine with big-endian numbers');
    const shard = (number: number): OpenFile => {
      const known = files.get(number);
      if (known) return known;
      const [i, n] = [number, header.shards].map((x) => String(x).padStart(5, '0'));
      const file = openFile(path.replace(/index$/, `data-${i}-of-${n}`), "the checkpoint's data file");
      files.set(number, file);
      return file;
    };
    const tensors = new Map<string, StoredTensor>();
    for (const { key, value } of table) {
      // The empty name is the header's; names that start with a 0 byte are parts of variables (`partsOf`).
      if (key === '' || key.startsWith('\0')) continue;
      const entry = parse(path, key, value, readEntry);
      const dtype = KINDS[entry.kind];
      if (dtype === undefined) continue;
      if (entry.slices.length === 0) tensors.set(key, stored(key, entry, dtype, shard(entry.shard), path));
      else {
        const parts = partsOf(table, key, path).map((part) => ({
          rows: part.shape[0],
          tensor: stored(key, part, dtype, shard(part.shard), path),
        }));
        tensors.set(key, joined(key, entry, dtype, parts, path));
      }
    }
    return { tensors, close };
  } catch (error) {
    close();
    throw error;
  }
}

function stored(
  name: string,
  { shape, offset, size, crc }: Entry,
  dtype: string,
  file: OpenFile,
  path: string,
): StoredTensor {
  const width = ELEMENT_BYTES[dtype];
  if (size !== elements(shape) * width) {
    bad(path, `has ${size} bytes for ${shown(name)} of ${dtype} [${shape}]`);
  }
  if (offset + size > file.bytes) {
    bad(file.path, `has ${file.bytes} bytes, ${shown(name)} ends at ${offset + size}`);
  }
  let checked = false;
  return {
    shape,
    dtype,
    read(begin, end) {
      if (begin === undefined && !checked) {
        checked = true;
        if (masked(checksum(file, 'crc32c', offset, offset + size)) !== crc) {
          bad(file.path, `has other bytes in ${shown(name)} than were saved (CRC-32C)`);
        }
      }
      const [from, to] = [begin ?? 0, end ?? elements(shape)];
      return readFloats(file, name, dtype, offset + from * width, to - from);
    },
  };
}

/**
 * The entries of a variable's parts, in the order of their rows. A part's key is a 0 byte, the name, the bytes 0 and 1, and the
 * part's extents, in a code that keeps their order (tensorflow, core/util/saved_tensor_slice_util.cc).
 */
function partsOf(table: ReturnType<typeof readTable>, name: string, path: string): Entry[] {
  const prefix = `\0${name}\0\x01`;
  return table
    .filter(({ key }) => key.startsWith(prefix))
    .map(({ value }) => parse(path, name, value, readEntry));
}

/** A variable from parts that are runs of rows. */
function joined(
  name: string,
  { shape, slices }: Entry,
  dtype: string,
  parts: readonly { rows: number; tensor: StoredTensor }[],
  path: string,
): StoredTensor {
  const [all, ...others] = shape;
  const whole = ({ start, length }: Extent, size: number) =>
    start === 0 && (length === undefined || length === size);
  if (
    !slices.every(([, ...rest]) => rest.length === others.length && rest.every((e, i) => whole(e, others[i])))
  ) {
    bad(path, `holds ${shown(name)} in parts that are no whole rows`);
  }
  const rows = slices
    .map(([{ start, length = all }]) => ({ start, length }))
    .sort((a, b) => a.start - b.start);
  let next = 0;
  const fits = rows.every(({ start, length }, i) => {
    const follows = start === next && parts[i]?.rows === length;
    next = start + length;
    return follows && parts[i].tensor.shape.slice(1).join() === others.join();
  });
  if (!fits || next !== all || parts.length !== rows.length) bad(path, `lacks a part of ${shown(name)}`);
  const size = elements(others);
  return {
    shape,
    dtype,
    read(begin, end) {
      const [from, to] = [begin ?? 0, end ?? elements(shape)];
      const out = new Float32Array(to - from);
      for (const [i, { start, length }] of rows.entries()) {
        const [first, last] = [start * size, (start + length) * size];
        const [a, b] = [Math.max(from, first), Math.min(to, last)];
        if (a >= b) continue;
        const { tensor } = parts[i];
        out.set(begin === undefined ? tensor.read() : tensor.read(a - first, b - first), a - from);
      }
      return out;
    },
  };
}

/** BundleHeaderProto. */
function readHeader(reader: BinaryReader): { shards: number; bigEndian: boolean } {
  const header = { shards: 0, bigEndian: false };
  eachField(reader, (field) => {
    if (field === 1) header.shards = reader.int32();
    else if (field === 2) header.bigEndian = reader.int32() !== 0;
    else return false;
    return true;
  });
  if (!(header.shards > 0)) throw new Error('it names no data files');
  return header;
}

/** BundleEntryProto; missing fields are 0. */
function readEntry(reader: BinaryReader): Entry {
  const entry: Entry = { kind: 0, shape: [], shard: 0, offset: 0, size: 0, crc: 0, slices: [] };
  eachField(reader, (field) => {
    if (field === 1) entry.kind = reader.int32();
    else if (field === 2) entry.shape = readShape(new BinaryReader(reader.bytes()));
    else if (field === 3) entry.shard = reader.int32();
    else if (field === 4) entry.offset = count(reader);
    else if (field === 5) entry.size = count(reader);
    else if (field === 6) entry.crc = reader.fixed32();
    else if (field === 7) entry.slices.push(readSlice(new BinaryReader(reader.bytes())));
    else return false;
    return true;
  });
  return entry;
}

/** TensorSliceProto: an extent for each axis, whose field 1 is the start and field 2 the length. */
function readSlice(reader: BinaryReader): Extent[] {
  const slice: Extent[] = [];
  eachField(reader, (field) => {
    if (field !== 1) return false;
    const extent = new BinaryReader(reader.bytes());
    const found: Extent = { start: 0, length: undefined };
    eachField(extent, (part) => {
      if (part === 1) found.start = count(extent);
      else if (part === 2) found.length = count(extent);
      else return false;
      return true;
    });
    slice.push(found);
    return true;
  });
  return slice;
}

/** TensorShapeProto: its field 2 is one dimension, whose field 1 is the size. */
function readShape(reader: BinaryReader): number[] {
  const shape: number[] = [];
  eachField(reader, (field) => {
    if (field !== 2) return false;
    const dimension = new BinaryReader(reader.bytes());
    let size = 0;
    eachField(dimension, (part) => {
      if (part !== 1) return false;
      size = count(dimension);
      return true;
    });
    if (shape.push(size) > MOST_AXES) throw new Error('too many dimensions');
    return true;
  });
  return shape;
}

/** Calls `take` for each field of a message, and skips the field if that returns false. */
function eachField(reader: BinaryReader, take: (field: number) => boolean): void {
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (!take(field)) reader.skip(type);
  }
}

function count(reader: BinaryReader): number {
  const value = Number(reader.int64());
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${value} is not a size`);
  return value;
}

/** Runs a reader of one message. The reader throws if the message is incomplete or invalid. */
function parse<T>(path: string, key: string, bytes: Uint8Array, read: (reader: BinaryReader) => T): T {
  try {
    return read(new BinaryReader(bytes));
  } catch (error) {
    return bad(path, `has a broken entry ${shown(key)} (${(error as Error).message})`);
  }
}

function bad(path: string, what: string): never {
  throw new UserError(
    `${path}: ${what}; download the checkpoint again, or save it again with tf.compat.v1.train.Saver`,
  );
}

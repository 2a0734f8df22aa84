import { createHash } from 'node:crypto';
import { type OpenFile, openFile, orClose } from '../binary/file.ts';
import { shown, UserError } from '../system/errors.ts';
import { type FileDigest, writeStreamAtomic } from '../system/files.ts';
import { ELEMENT_BYTES, elements, readFloats, type StoredTensor, type TensorFile } from './tensors.ts';

// The safetensors format (github.com/huggingface/safetensors, "Format"): the header's length as a 64-bit
// little-endian integer, the header as JSON, then the bytes of all tensors without a gap:
//   {"__metadata__": {string: string}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}
// Numbers are little-endian, like every machine that Node.js supports except s390x.

/** Maximum bytes of a header, the format's own limit, so that a damaged length cannot use up all memory. */
const HEADER_LIMIT = 100_000_000;

export interface Safetensors extends TensorFile {
  metadata: Record<string, string>;
}

/**
 * Opens a safetensors file. Only the header is read now, and checked against the file's length before anything
 * is allocated; the tensors are read by position, so the file may be larger than memory.
 * A file that breaks the format is a `UserError`.
 */
export function readSafetensors(path: string): Safetensors {
  return orClose(openFile(path, 'the safetensors file itself'), (file) => ({
    ...readHeader(file),
    close: file.close,
  }));
}

function readHeader(file: OpenFile): Omit<Safetensors, 'close'> {
  const { path, bytes } = file;
  if (bytes < 8) fail(path, `it has ${bytes} bytes, too few for a header`);
  const length = new DataView(file.read(0, 8)).getBigUint64(0, true);
  if (length > BigInt(HEADER_LIMIT)) {
    fail(path, `its header would be ${length} bytes long, more than the format's ${HEADER_LIMIT}`);
  }
  const start = 8 + Number(length);
  if (start > bytes) fail(path, `its header needs ${start} bytes, the file has ${bytes}`);

  const header = parseHeader(path, file.read(8, Number(length)));
  const metadata: Record<string, string> = {};
  const tensors = new Map<string, StoredTensor>();
  const places: Place[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(
        record(entry) ?? fail(path, 'its metadata is not an object'),
      )) {
        if (typeof value !== 'string') fail(path, `its metadata "${key}" is not a string`);
        // A plain assignment would lose a key named __proto__.
        Object.defineProperty(metadata, key, { value, enumerable: true });
      }
      continue;
    }
    const place = placeOf(path, name, entry);
    places.push(place);
    tensors.set(name, {
      shape: place.shape,
      dtype: place.dtype,
      read: (begin = 0, end = elements(place.shape)) =>
        readFloats(
          file,
          name,
          place.dtype,
          start + place.begin + begin * ELEMENT_BYTES[place.dtype],
          end - begin,
        ),
    });
  }
  checkPlaces(path, places, bytes - start);
  return { tensors, metadata };
}

function parseHeader(path: string, bytes: ArrayBuffer): Record<string, unknown> {
  if (new Uint8Array(bytes)[0] !== '{'.charCodeAt(0)) fail(path, 'its header does not start with "{"');
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    header = JSON.parse(text);
  } catch {
    return fail(path, 'its header is not JSON in UTF-8');
  }
  const twice = repeatedKey(text);
  if (twice !== undefined) fail(path, `its header names ${twice} twice`);
  return header as Record<string, unknown>;
}

/** The first key, in quotes, that is twice in one object of a valid JSON text: `JSON.parse` would silently keep the last. */
function repeatedKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === '{') open.push(new Set());
    else if (c === '}') open.pop();
    else if (c === '"') {
      const from = i++;
      for (; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      let next = i + 1;
      while (' \n\r\t'.includes(json[next])) next++;
      if (json[next] !== ':') continue;
      const key = json.slice(from, i + 1);
      const name = key.includes('\\') ? JSON.stringify(JSON.parse(key)) : key;
      const keys = open[open.length - 1];
      if (keys.has(name)) return name;
      keys.add(name);
    }
  }
}

/** The position of a tensor: bytes counted from the end of the header, `end` exclusive. */
interface Place {
  name: string;
  dtype: string;
  shape: number[];
  begin: number;
  end: number;
}

function placeOf(path: string, name: string, entry: unknown): Place {
  const bad = (what: string): never => fail(path, `tensor "${name}" ${what}`);
  const { dtype, shape, data_offsets: offsets } = record(entry) ?? bad('is not an object');
  if (typeof dtype !== 'string' || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    return bad(`has the unknown dtype ${shown(dtype)}`);
  }
  if (!isCounts(shape)) return bad(`has the shape ${shown(shape)}`);
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    return bad(`has the data offsets ${shown(offsets)}`);
  }
  const [begin, end] = offsets;
  // A product past 2^53 is inexact, but far above any length that `end - begin` can have.
  const bytes = elements(shape) * ELEMENT_BYTES[dtype];
  if (bytes !== end - begin) {
    return bad(`of ${dtype} [${shape}] needs ${bytes} bytes, its data offsets hold ${end - begin}`);
  }
  return { name, dtype, shape, begin, end };
}

/** The tensors must fill the rest of the file: without overlaps, without gaps, and nothing outside. */
function checkPlaces(path: string, places: Place[], bytes: number): void {
  places.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const { name, begin, end } of places) {
    if (begin < at) fail(path, `tensor "${name}" starts at byte ${begin}, but the one before ends at ${at}`);
    if (begin > at) fail(path, `bytes ${at} to ${begin}, before tensor "${name}", belong to no tensor`);
    if (end > bytes) fail(path, `tensor "${name}" ends at byte ${end}, the data at ${bytes}`);
    at = end;
  }
  if (at < bytes) fail(path, `its last ${bytes - at} bytes belong to no tensor`);
}

/** A tensor to write. If `data` is a function, it is called once, when its turn comes, so that few values are in memory. */
export interface TensorToWrite {
  name: string;
  shape: readonly number[];
  data: Float32Array | (() => Promise<Float32Array>);
}

/** A tensor that is too large for memory: its values come in pieces. */
export interface LargeTensor {
  name: string;
  shape: readonly number[];
  pieces: AsyncIterable<Float32Array>;
}

/**
 * Writes tensors as F32 in the given order, atomically.
 * @returns length and SHA-256 of the written bytes
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite | LargeTensor>,
  metadata: Record<string, string> = {},
): Promise<FileDigest> {
  const list = [...tensors];
  const header = new Map<string, unknown>([['__metadata__', metadata]]);
  let at = 0;
  for (const { name, shape } of list) {
    if (header.has(name)) throw new Error(`writeSafetensors: two tensors named "${name}"`);
    const end = at + elements(shape) * 4;
    header.set(name, { dtype: 'F32', shape, data_offsets: [at, end] });
    at = end;
  }
  // Spaces after the JSON are part of the format; they put the first tensor on a multiple of 8 bytes.
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const length = Math.ceil(json.length / 8) * 8;
  if (length > HEADER_LIMIT) throw new Error(`writeSafetensors: a header of ${length} bytes`);
  const head = Buffer.alloc(8 + length, ' ');
  head.writeBigUInt64LE(BigInt(length));
  json.copy(head, 8);

  const hash = createHash('sha256');
  let bytes = 0;
  await writeStreamAtomic(path, async (writeBytes) => {
    const write = (part: Uint8Array) => {
      hash.update(part);
      bytes += part.length;
      writeBytes(part);
    };
    write(head);
    for (const tensor of list) {
      const pieces = 'pieces' in tensor ? tensor.pieces : [await valuesOf(tensor)];
      let values = 0;
      for await (const piece of pieces) {
        values += piece.length;
        write(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
      }
      if (values !== elements(tensor.shape)) {
        throw new Error(
          `writeSafetensors: "${tensor.name}" has ${values} values for the shape [${tensor.shape}]`,
        );
      }
    }
  });
  return { bytes, sha256: hash.digest('hex') };
}

function valuesOf({ data }: TensorToWrite): Float32Array | Promise<Float32Array> {
  return typeof data === 'function' ? data() : data;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function record(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

function fail(path: string, what: string): never {
  throw new UserError(`${path}: not a complete safetensors file: ${what}; copy or download it again`);
}

import { checksum } from '../binary/checksum.ts';
import { type OpenFile, openFile, orClose } from '../binary/file.ts';
import { type Names, type PickleOptions, readWholePickle } from '../binary/pickle.ts';
import { isZip, readZip, type ZipEntry } from '../binary/zip.ts';
import { shown, UserError } from '../system/errors.ts';
import { ELEMENT_BYTES, elements, readFloats, type StoredTensor, type TensorFile } from './tensors.ts';

// What torch.save writes (pytorch, torch/serialization.py): a zip archive of stored files, NAME/data.pkl with a pickle
// of the tensors' names, shapes and positions, and NAME/data/KEY with the numbers of one storage each. Before PyTorch 1.6 it was
// a row of pickles: a magic number, a version, the machine, the tensors, the keys of the storages; then each storage
// as the number of its numbers, in 64 bits, and the numbers.

/** Kinds of storage by their class, as safetensors names them. */
const STORAGES: Record<string, string> = {
  FloatStorage: 'F32',
  DoubleStorage: 'F64',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
};

/** Numbers that one or more tensors are views of. */
class Storage {
  constructor(
    readonly dtype: string,
    readonly size: number,
    /** Its first byte in the file; in the older format, set when the tensors have been read. */
    public begin: number,
  ) {}
}

/** A tensor as a view of its storage. */
class View {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: number[],
    readonly strides: number[],
  ) {}
}

/** A class that a pickle names for a storage. */
class StorageKind {
  constructor(readonly dtype: string) {}
}

/**
 * Opens a state_dict that `torch.save` wrote, of any version. Its pickle is read now, without running any code. The tensors are
 * read by position, so the file may be larger than memory. In an archive, the checksum of a storage is verified when a whole
 * tensor is first read from it; the older format has none. A file that breaks the format, or names anything but tensors, is
 * a `UserError`.
 */
export function readTorchFile(path: string): TensorFile {
  return orClose(openFile(path, 'the .bin or .pt file itself'), (file) => {
    const { root, sums } = isZip(file) ? readArchive(file) : readLegacy(file);
    const tensors = new Map<string, StoredTensor>();
    for (const [name, value] of root instanceof Map ? root : []) {
      if (typeof name === 'string' && value instanceof View)
        tensors.set(name, stored(file, name, value, sums));
    }
    if (tensors.size === 0) bad(file, 'is not a state_dict: it has no tensors by name');
    return { tensors, close: file.close };
  });
}

/** The object that was saved, and the entries of the archive with the checksums of storages. */
interface Saved {
  root: unknown;
  sums: Map<Storage, ZipEntry>;
}

function readArchive(file: OpenFile): Saved {
  const entries = readZip(file);
  const [main, ...more] = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (main === undefined || more.length > 0) bad(file, 'has no data.pkl of torch.save');
  const folder = main.slice(0, -'data.pkl'.length);
  const order = entries.get(`${folder}byteorder`);
  if (order && asText(file, order) === 'big') badOrder(file);
  const sums = new Map<Storage, ZipEntry>();
  const persistent = storagesOf(file, (storage, key) => {
    const entry = entries.get(`${folder}data/${key}`);
    const wanted = storage.size * ELEMENT_BYTES[storage.dtype];
    if (!entry) return bad(file, `lacks the storage ${shown(key)}`);
    if (entry.end - entry.begin !== wanted) {
      bad(file, `has ${entry.end - entry.begin} bytes in the storage ${shown(key)}, ${wanted} are named`);
    }
    storage.begin = entry.begin;
    sums.set(storage, entry);
  });
  const { begin, end } = entries.get(main)!;
  return { root: readWholePickle(file, begin, end, { names: namesFor(file), persistent }).value, sums };
}

/** The magic number 0x1950a86a20f9469cfc6c as a pickle. */
const LEGACY = '80028a0a6cfc9c46f9206aa850192e';
const LEGACY_VERSION = 1001;

function readLegacy(file: OpenFile): Saved {
  const magic = Buffer.from(file.read(0, Math.min(file.bytes, LEGACY.length / 2)));
  if (magic.toString('hex') !== LEGACY) {
    throw new UserError(
      `${file.path}: is not a file of torch.save; download it again, or use model.safetensors`,
    );
  }
  let at = magic.length;
  const next = (options: Partial<PickleOptions> = {}): unknown => {
    const { value, end } = readWholePickle(file, at, file.bytes, { names: {}, ...options });
    at = end;
    return value;
  };
  if (next() !== LEGACY_VERSION) bad(file, 'is of a version of torch.save that nobody knows');
  const machine = next();
  if (!(machine instanceof Map) || machine.get('little_endian') !== true) badOrder(file);
  const pending = new Map<string, Storage>();
  const persistent = storagesOf(file, (storage, key) => pending.set(key, storage));
  const root = next({ names: namesFor(file), persistent });
  const keys = next();
  for (const key of Array.isArray(keys) ? keys : []) {
    const storage = pending.get(key);
    if (!storage) return bad(file, `has a storage ${shown(key)} that no tensor uses`);
    const end = at + COUNT_BYTES + storage.size * ELEMENT_BYTES[storage.dtype];
    if (end > file.bytes) bad(file, `ends within the storage ${shown(key)}`);
    if (new DataView(file.read(at, COUNT_BYTES)).getBigInt64(0, true) !== BigInt(storage.size))
      bad(file, `has another number of numbers in the storage ${shown(key)} than it names`);
    storage.begin = at + COUNT_BYTES;
    at = end;
    pending.delete(key);
  }
  for (const key of pending.keys()) bad(file, `lacks the storage ${shown(key)}`);
  return { root, sums: new Map() };
}

/** Bytes of the number of numbers before a storage. */
const COUNT_BYTES = 8;

/**
 * Makes the storages that a pickle refers to, each once: ('storage', kind, key, device, number of numbers), in the older
 * format with a sixth item, which is None except in files of PyTorch 0.3.
 */
function storagesOf(file: OpenFile, found: (storage: Storage, key: string) => void) {
  const storages = new Map<string, Storage>();
  return (id: unknown): Storage => {
    const [tag, kind, key, , size, view] = Array.isArray(id) ? id : [];
    if (tag !== 'storage' || !(kind instanceof StorageKind) || typeof key !== 'string' || !isCount(size))
      return bad(file, 'refers to something that is not a storage of numbers');
    if (view) return bad(file, 'is of PyTorch 0.3 or earlier');
    const known = storages.get(key);
    if (known) return known;
    const storage = new Storage(kind.dtype, size, 0);
    found(storage, key);
    storages.set(key, storage);
    return storage;
  };
}

/** All names that a pickle of tensors may use (pytorch, torch/_utils.py). */
function namesFor(file: OpenFile): Names {
  const view = (storage: unknown, offset: unknown, shape: unknown, strides: unknown): View => {
    if (!(storage instanceof Storage) || !isCount(offset) || !isCounts(shape) || !isCounts(strides)) {
      return bad(file, 'describes an invalid tensor');
    }
    // No view may go beyond its storage, or repeat it: otherwise a few bytes could use up all memory.
    const size = elements(shape);
    const last = shape.reduce((sum, n, i) => sum + Math.max(0, n - 1) * (strides[i] ?? 0), offset);
    if (strides.length !== shape.length || size > storage.size || (size > 0 && last >= storage.size)) {
      return bad(file, `describes a tensor [${shape}] that is outside of its ${storage.size} numbers`);
    }
    return new View(storage, offset, shape, strides);
  };
  return {
    'collections OrderedDict': () => new Map(),
    'torch._utils _rebuild_tensor_v2': view,
    'torch._utils _rebuild_parameter': (tensor: unknown) => tensor,
    ...Object.fromEntries(
      Object.entries(STORAGES).flatMap(([name, dtype]) => [
        [`torch ${name}`, new StorageKind(dtype)],
        [`torch.storage ${name}`, new StorageKind(dtype)],
      ]),
    ),
  };
}

function stored(file: OpenFile, name: string, view: View, sums: Map<Storage, ZipEntry>): StoredTensor {
  const { storage, shape, strides, offset } = view;
  const bytes = ELEMENT_BYTES[storage.dtype];
  const read = (at: number, count: number) =>
    readFloats(file, name, storage.dtype, storage.begin + at * bytes, count);
  return {
    shape,
    dtype: storage.dtype,
    read(begin, end) {
      const whole = begin === undefined;
      if (whole) checkSum(file, name, storage, sums);
      const [from, to] = [begin ?? 0, end ?? elements(shape)];
      if (isDense(shape, strides)) return read(offset + from, to - from);
      // The numbers of a transposed tensor, such as one converted from TensorFlow, are put in order.
      const values = read(0, storage.size);
      const out = new Float32Array(to - from);
      for (let i = from; i < to; i++) {
        let at = offset;
        for (let axis = shape.length - 1, rest = i; axis >= 0; axis--) {
          at += (rest % shape[axis]) * strides[axis];
          rest = Math.floor(rest / shape[axis]);
        }
        out[i - from] = values[at];
      }
      return out;
    },
  };
}

/** True if the numbers follow one another in the order of the shape. */
function isDense(shape: number[], strides: number[]): boolean {
  let wanted = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] > 1 && strides[axis] !== wanted) return false;
    wanted *= shape[axis];
  }
  return true;
}

/** Compares the checksum of a storage with the archive's, once. */
function checkSum(file: OpenFile, name: string, storage: Storage, sums: Map<Storage, ZipEntry>): void {
  const entry = sums.get(storage);
  if (!entry) return;
  sums.delete(storage);
  if (checksum(file, 'crc32', entry.begin, entry.end) !== entry.crc32)
    bad(file, `has other bytes in tensor ${shown(name)} than were saved (CRC-32)`);
}

/** Maximum axes of a tensor; PyTorch's own limit. */
const MOST_AXES = 64;

function asText(file: OpenFile, { begin, end }: ZipEntry): string {
  return Buffer.from(file.read(begin, Math.min(16, end - begin))).toString('latin1');
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= MOST_AXES && value.every(isCount);
}

function badOrder(file: OpenFile): never {
  bad(file, 'was written on a machine with big-endian numbers');
}

function bad(file: OpenFile, what: string): never {
  throw new UserError(
    `${file.path}: ${what}; download it again, or save the model's state_dict with torch.save or as safetensors`,
  );
}

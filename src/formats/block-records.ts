import { UserError } from '../errors.ts';
import { type OpenFile, openFile } from './file.ts';
import { type Names, readPickle, type Stateful } from './pickle.ts';

// block_records.npy of Hugging Face's REALM (transformers, realm/retrieval_realm.py): the text of each evidence block
// as bytes, in an array of objects, which NumPy writes as a pickle behind its header (numpy, lib/format.py).

/** Bytes of a header; NumPy's own are below 200. */
const HEADER_LIMIT = 10_000;

/** What the pickle of an array of objects names; its own state comes behind its items and says nothing new. */
const NAMES: Names = {
  ...Object.fromEntries(
    ['numpy.core.multiarray', 'numpy._core.multiarray'].map((module) => [
      `${module} _reconstruct`,
      (): Stateful => ({ setState() {} }),
    ]),
  ),
  'numpy ndarray': null,
  'numpy dtype': (): Stateful => ({ setState() {} }),
  // Bytes in a pickle of protocol 2: characters of one byte each.
  '_codecs encode': (text: unknown, codec: unknown): unknown =>
    typeof text === 'string' && codec === 'latin1' ? new Uint8Array(Buffer.from(text, 'latin1')) : undefined,
  // b'' in the same.
  '__builtin__ bytes': () => new Uint8Array(0),
};

/**
 * Streams the blocks of a block_records.npy as documents for `prepare`: the id is the block's row, which is also that of
 * its vector in `block_emb`; a record has no title. Nothing of the pickle is run, and few records are held at a time.
 * `UserError` for a file that holds anything else.
 */
export function* readBlockRecords(path: string): Generator<{ id: string; title: string; text: string }> {
  const file = openFile(path, 'the block_records.npy itself');
  try {
    const { rows, end } = header(file);
    let row = 0;
    for (const record of readPickle(file, end, file.bytes, { names: NAMES, streamLists: true })) {
      if (!(record instanceof Uint8Array)) bad(file, `its record ${row} is no text in bytes`);
      yield { id: String(row), title: '', text: decode(file, row, record) };
      row++;
    }
    if (row !== rows) bad(file, `it holds ${row} records, its header promises ${rows}`);
  } finally {
    file.close();
  }
}

/** How many records there are, and where the header ends: a magic word, a version, a length and a dict as Python writes it. */
function header(file: OpenFile): { rows: number; end: number } {
  const start = new DataView(file.read(0, Math.min(12, file.bytes)));
  if (start.byteLength < 12 || start.getUint32(0) !== 0x934e554d || start.getUint16(4) !== 0x5059) {
    bad(file, 'it does not begin as NumPy files do');
  }
  const first = start.getUint8(6) === 1;
  const length = first ? start.getUint16(8, true) : start.getUint32(8, true);
  const end = (first ? 10 : 12) + length;
  if (length > HEADER_LIMIT || end > file.bytes) bad(file, `its header would be ${length} bytes long`);
  const text = Buffer.from(file.read(end - length, length)).toString('latin1');
  const rows = /'descr': *'\|O'.*'shape': *\((\d+),\)/.exec(text)?.[1];
  if (rows === undefined) bad(file, `it is no list of records, but ${text.trim()}`);
  return { rows: Number(rows), end };
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

function decode(file: OpenFile, row: number, record: Uint8Array): string {
  try {
    return UTF8.decode(record);
  } catch {
    return bad(file, `its record ${row} is not UTF-8`);
  }
}

function bad(file: OpenFile, what: string): never {
  throw new UserError(
    `${file.path}: ${what}; give the block_records.npy of a REALM model of Hugging Face, downloaded whole`,
  );
}

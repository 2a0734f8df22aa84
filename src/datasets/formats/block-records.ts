import { type OpenFile, openFile } from '../../binary/file.ts';
import { type Names, readPickle, type Stateful } from '../../binary/pickle.ts';
import { UserError } from '../../system/errors.ts';
import { writeStreamAtomic } from '../../system/files.ts';

// block_records.npy of Hugging Face's REALM (transformers, realm/retrieval_realm.py): the text of each evidence block
// as bytes, in an array of objects, which NumPy writes as a pickle after its header (numpy, lib/format.py).

/** Maximum bytes of a header; NumPy's own have fewer than 200. */
const HEADER_LIMIT = 10_000;

/** The names in the pickle of an array of objects. The state of the array follows its items and adds nothing. */
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
 * Streams the blocks of a block_records.npy as documents for `prepare`. The id is the block's row, which is also the row of
 * its vector in `block_emb`; a record has no title. No code of the pickle is run, and few records are held at a time.
 * `UserError` for a file with any other content.
 */
export function* readBlockRecords(path: string): Generator<{ id: string; title: string; text: string }> {
  const file = openFile(path, 'the block_records.npy itself');
  try {
    const { rows, end } = header(file);
    let row = 0;
    for (const record of readPickle(file, end, file.bytes, { names: NAMES, streamLists: true })) {
      if (!(record instanceof Uint8Array)) bad(file, `record ${row} is not text in bytes`);
      yield { id: String(row), title: '', text: decode(file, row, record) };
      row++;
    }
    if (row !== rows) bad(file, `it holds ${row} records, but its header states ${rows}`);
  } finally {
    file.close();
  }
}

/** How many texts go into one operation of the pickle, as in Python's own writer. */
const BATCH = 1000;

/** Writes texts as a pickle of protocol 3, which `readBlockRecords` and numpy.load of any version read. */
export async function writeBlockRecords(
  path: string,
  rows: number,
  text: (row: number) => string,
): Promise<void> {
  const description = `{'descr': '|O', 'fortran_order': False, 'shape': (${rows},), }`;
  // The header ends in a line feed at a multiple of 64 bytes.
  const length = Math.ceil((10 + description.length + 1) / 64) * 64 - 10;
  const start = Buffer.from(`\x93NUMPY\x01\x00??${description.padEnd(length - 1)}\n`, 'latin1');
  start.writeUInt16LE(length, 8);
  const latin1 = (text: string) => Buffer.from(text, 'latin1');
  const number = (value: number) => {
    const bytes = latin1('J????');
    bytes.writeInt32LE(value, 1);
    return bytes;
  };
  await writeStreamAtomic(path, async (write) => {
    write(start);
    // _reconstruct(ndarray, (0,), b'b'), then its state: version, shape, the dtype of objects, order, items.
    write(
      latin1('\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01'),
    );
    write(number(rows));
    write(latin1('\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN'));
    write(Buffer.concat([number(-1), number(-1), latin1('K?tb\x89]')]));
    for (let row = 0; row < rows; row += BATCH) {
      const items = [latin1('(')];
      for (let i = row; i < Math.min(rows, row + BATCH); i++) {
        const bytes = Buffer.from(text(i));
        const head = latin1('B????');
        head.writeUInt32LE(bytes.length, 1);
        items.push(head, bytes);
      }
      write(Buffer.concat([...items, latin1('e')]));
    }
    write(latin1('tb.'));
  });
}

/** The number of records, and where the header ends. A header is a magic word, a version, a length and a Python dict. */
function header(file: OpenFile): { rows: number; end: number } {
  const start = new DataView(file.read(0, Math.min(12, file.bytes)));
  if (start.byteLength < 12 || start.getUint32(0) !== 0x934e554d || start.getUint16(4) !== 0x5059) {
    bad(file, 'it does not start like a NumPy file');
  }
  const first = start.getUint8(6) === 1;
  const length = first ? start.getUint16(8, true) : start.getUint32(8, true);
  const end = (first ? 10 : 12) + length;
  if (length > HEADER_LIMIT || end > file.bytes) bad(file, `its header would be ${length} bytes long`);
  const text = Buffer.from(file.read(end - length, length)).toString('latin1');
  const rows = /'descr': *'\|O'.*'shape': *\((\d+),\)/.exec(text)?.[1];
  if (rows === undefined) bad(file, `it is not a list of records, but ${text.trim()}`);
  return { rows: Number(rows), end };
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

function decode(file: OpenFile, row: number, record: Uint8Array): string {
  try {
    return UTF8.decode(record);
  } catch {
    return bad(file, `record ${row} is not UTF-8`);
  }
}

function bad(file: OpenFile, what: string): never {
  throw new UserError(
    `${file.path}: ${what}; give the complete block_records.npy of a REALM model of Hugging Face`,
  );
}

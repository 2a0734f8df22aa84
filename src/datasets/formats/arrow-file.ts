import { type FileHandle, open } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { AsyncRecordBatchFileReader, RecordBatch, Vector } from 'apache-arrow';
import { decompress as unzstd } from 'fzstd';
import { UserError } from '../../system/errors.ts';
import { warn } from '../../system/progress.ts';
import { countRead } from '../bytes.ts';
import { explainRead, type JsonLine } from '../jsonl.ts';
import { needPackage } from '../optional-package.ts';
import { refuseByBytes } from '../unreadable.ts';
import { jsonValue } from './json-value.ts';

// Arrow's IPC format (apache/arrow, docs/source/format/Columnar.rst), as a stream (`save_to_disk` of datasets) or as a file with
// a footer (Feather 2 of pandas and pyarrow, polars). Read by apache-arrow, which is installed on demand (8 MB), a record batch
// at a time: 1,000 rows in files of datasets, 65,536 in those of pandas. Its buffers may be compressed by zstd, or by LZ4, for which
// lz4-napi is needed. Other libraries: @uwdata/flechette is smaller, but takes a whole file; lz4js is no longer maintained.

const WHAT = 'an Arrow file, or a folder of them';

/**
 * Streams the rows of an Arrow or Feather file as objects, with the values that JSON would have: see `jsonValue`.
 * @param columns chooses from the names of the columns; the others are not decoded
 */
export async function* readArrowRows(
  path: string,
  columns: (names: string[]) => string[] = (names) => names,
): AsyncGenerator<JsonLine> {
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    const { size } = await file.stat();
    const { footer } = await examine(file, size, path);
    needPackage('apache-arrow', path, 'Arrow');
    const { RecordBatchReader } = await import('apache-arrow');
    await setDecompressors(path);
    const reader = (await RecordBatchReader.from(file)) as AsyncRecordBatchFileReader;
    await reader.open();
    const chosen = columns(reader.schema.fields.map(({ name }) => name));
    let number = 0;
    for await (const batch of reader) {
      for (const value of rowsOf(batch, chosen)) yield { value, where: `${path}: row ${++number}` };
      if (footer) countRead(Math.round(size / reader.numRecordBatches));
      else countRead(batch.data.byteLength);
    }
  } catch (error) {
    // The library throws plain errors for what it cannot decode.
    if (error instanceof UserError || (error as NodeJS.ErrnoException).syscall !== undefined)
      throw explainRead(path, WHAT, error);
    throw new UserError(
      `${path}: is not a complete Arrow file (${(error as Error).message}); make or download it again`,
    );
  } finally {
    await file?.close();
  }
}

function* rowsOf(batch: RecordBatch, columns: readonly string[]): Generator<Record<string, unknown>> {
  const vectors = columns.map((name) => batch.getChild(name)!);
  for (let row = 0; row < batch.numRows; row++) {
    const value: Record<string, unknown> = {};
    for (const [c, name] of columns.entries()) value[name] = jsonValue(plain(vectors[c].get(row)));
    yield value;
  }
}

/** Lists are vectors of the library, structs are rows of it. */
function plain(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array || value instanceof Date)
    return value;
  if (Symbol.iterator in value && 'length' in value) return Array.from(value as Vector, plain);
  // `in` finds only the fields of a row.
  const { toJSON } = value as { toJSON?(): object };
  if (typeof toJSON !== 'function') return value;
  return Object.fromEntries(Object.entries(toJSON.call(value)).map(([key, item]) => [key, plain(item)]));
}

const FILE_MARK = Buffer.from('ARROW1');
/** The end of a stream: no more bytes of metadata. Before Arrow 0.15 it had only the second half. */
const STREAM_END = Buffer.from('ffffffff00000000', 'hex');

/** Refuses other files by their first bytes, and those that are not complete by the last ones. */
async function examine(file: FileHandle, size: number, path: string): Promise<{ footer: boolean }> {
  const bytesAt = async (at: number) => (await file.read(Buffer.alloc(8), 0, 8, at)).buffer;
  const [head, tail] = [await bytesAt(0), await bytesAt(Math.max(0, size - 8))];
  if (head.toString('latin1', 0, 4) === 'FEA1')
    throw new UserError(
      `${path}: is a Feather file of version 1, which is not read; save it again with pandas or pyarrow (pyarrow.feather.write_feather)`,
    );
  const incomplete = new UserError(`${path}: is not a complete Arrow file; make or download it again`);
  const footer = head.subarray(0, 6).equals(FILE_MARK);
  if (size < 8 || (footer && !tail.subarray(2).equals(FILE_MARK))) throw incomplete;
  if (footer) return { footer };
  const old = head.readUInt32LE(0) !== 0xffffffff;
  if (old) {
    refuseByBytes(path);
    if (head.readUInt32LE(0) > size) throw incomplete;
  }
  // Writers may leave the mark out, and the library takes such an end as the end of the table.
  if (!(old ? tail.readUInt32LE(4) === 0 : tail.equals(STREAM_END)))
    warn(`${path}: has no mark at its end; it may be incomplete`);
  return { footer };
}

const require = createRequire(import.meta.url);

/** The library has no decompressors of its own. */
async function setDecompressors(path: string): Promise<void> {
  const { compressionRegistry, CompressionType } = await import('apache-arrow');
  compressionRegistry.set(CompressionType.ZSTD, {
    // A copy, because the library needs bytes that start at a multiple of 8 in their buffer.
    decode: (bytes) => unzstd(bytes).slice(),
  });
  compressionRegistry.set(CompressionType.LZ4_FRAME, {
    decode(bytes) {
      needPackage('lz4-napi', path, 'LZ4-compressed Arrow');
      return new Uint8Array(require('lz4-napi').decompressFrameSync(bytes));
    },
  });
}

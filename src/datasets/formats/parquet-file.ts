import { isUtf8 } from 'node:buffer';
import { crc32 } from '@node-rs/crc32';
import { parquetMetadataAsync, parquetSchema } from 'hyparquet';
import { assembleNested } from 'hyparquet/src/assemble.js';
import { parquetHeader, readPage } from 'hyparquet/src/column.js';
import { convert, DEFAULT_PARSERS } from 'hyparquet/src/convert.js';
import { getTreePath, isFlatColumn } from 'hyparquet/src/schema.js';
import type { ColumnDecoder, FileMetaData, PageHeader, SchemaTree } from 'hyparquet/src/types.js';
import { compressors } from 'hyparquet-compressors';
import { type OpenFile, openFile } from '../../binary/file.ts';
import { UserError } from '../../system/errors.ts';
import { countRead } from '../bytes.ts';
import { type JsonLine, LINE_LIMIT } from '../jsonl.ts';
import { refuseByBytes } from '../unreadable.ts';
import { jsonValue } from './json-value.ts';

// Parquet (apache/parquet-format, README.md and src/main/thrift/parquet.thrift) by hyparquet and its decompressors. hyparquet
// decodes whole row groups, or whole chunks of a column; a row group has up to a million rows in pandas' files. Here its
// decoders of pages are driven page by page, so that memory is that of a page or two of each column.
// Other libraries: parquet-wasm holds the file and a row group in WebAssembly's memory and needs apache-arrow to read rows;
// parquetjs is no longer maintained; DuckDB's package has 60 MB.

/** Bytes of a column that are read at a time. Writers make pages of about 1 MiB before compression. */
const WINDOW = 1 << 20;
/** A page says how large it is; a larger one than this is refused, so that a small file cannot fill the memory. */
const PAGE_LIMIT = 256 << 20;

/**
 * Streams the rows of a Parquet file as objects, with the values that JSON would have: whole numbers above 2^53 and times
 * become strings, NaN becomes null. Bytes without a type are text if they are UTF-8.
 * @param columns chooses from the names of the columns; the others are not read
 */
export async function* readParquetRows(
  path: string,
  columns: (names: string[]) => string[] = (names) => names,
): AsyncGenerator<JsonLine> {
  const file = openFile(path, 'a Parquet file, or a folder of them');
  try {
    const metadata = await metadataOf(file);
    const tree = parquetSchema(metadata);
    const chosen = columns(tree.children.map(({ element }) => element.name));
    const fields = chosen.map((name) => tree.children.find(({ element }) => element.name === name)!);
    let first = 1;
    for (let number = 0; number < metadata.row_groups.length; number++) {
      yield* rowsOf({ file, tree, fields, metadata, number }, first);
      first += Number(metadata.row_groups[number].num_rows);
      countRead(groupBytes(metadata, number));
    }
  } finally {
    file.close();
  }
}

function groupBytes({ row_groups }: FileMetaData, number: number): number {
  return row_groups[number].columns.reduce(
    (sum, { meta_data }) => sum + Number(meta_data?.total_compressed_size ?? 0),
    0,
  );
}

async function metadataOf(file: OpenFile): Promise<FileMetaData> {
  const slice = (start: number, end = file.bytes) => file.read(start, end - start);
  try {
    return await parquetMetadataAsync({ byteLength: file.bytes, slice }, { geoparquet: false });
  } catch {
    if (!startsLikeParquet(file)) refuseByBytes(file.path);
    throw new UserError(`${file.path}: is not a complete Parquet file; make or download it again`);
  }
}

function startsLikeParquet(file: OpenFile): boolean {
  return file.bytes >= 4 && Buffer.from(file.read(0, 4)).toString('latin1') === 'PAR1';
}

interface Group {
  file: OpenFile;
  metadata: FileMetaData;
  number: number;
  tree: SchemaTree;
  /** The columns to read. */
  fields: SchemaTree[];
}

/** @param first number of the first row in the file, from 1 */
function* rowsOf(group: Group, first: number): Generator<JsonLine> {
  const { metadata, number, fields } = group;
  const { path } = group.file;
  const rows = Number(metadata.row_groups[number].num_rows);
  const columns = fields.map((field) => ({ field, leaves: leavesOf(group, field) }));
  const leaves = columns.flatMap((column) => column.leaves);
  for (let done = 0; done < rows; ) {
    for (const leaf of leaves) {
      while (leaf.rows.length === 0) {
        if (!leaf.more()) throw damaged(path, `it ends after row ${first + done - 1}`);
      }
    }
    const n = leaves.reduce((least, leaf) => Math.min(least, leaf.rows.length), rows - done);
    const values = columns.map(({ field, leaves }) => takeValues(field, leaves, n));
    for (let i = 0; i < n; i++) {
      const value: Record<string, unknown> = {};
      for (let c = 0; c < fields.length; c++) value[fields[c].element.name] = jsonValue(values[c][i]);
      yield { value, where: `${path}: row ${first + done + i}` };
    }
    done += n;
  }
}

/** The next `n` values of a column, put together from those of its leaves. */
function takeValues(field: SchemaTree, leaves: readonly Leaf[], n: number): ArrayLike<unknown> {
  if (field.children.length === 0) return leaves[0].take(n);
  const taken = new Map(leaves.map((leaf) => [leaf.name, leaf.take(n) as unknown[]]));
  assembleNested(taken, field, PARSERS);
  return taken.get(field.element.name)!;
}

/** A column without columns of its own, such as the items of a list: its decoded rows, a page or two at a time. */
interface Leaf {
  /** Its path in the schema. */
  name: string;
  /** The complete rows that wait to be taken. */
  rows: { length: number };
  take(n: number): ArrayLike<unknown>;
  /** Decodes one more page; false at the end. */
  more(): boolean;
}

function leavesOf(group: Group, field: SchemaTree): Leaf[] {
  const { file, metadata, number, tree } = group;
  const { path } = file;
  return metadata.row_groups[number].columns.flatMap(({ meta_data: chunk, file_path }) => {
    if (chunk?.path_in_schema[0] !== field.element.name) return [];
    if (file_path) throw new UserError(`${path}: keeps its columns in other files; write it as one file`);
    const schemaPath = getTreePath(tree, chunk.path_in_schema);
    const decoder: ColumnDecoder = {
      ...chunk,
      element: schemaPath[schemaPath.length - 1].element,
      pathInSchema: chunk.path_in_schema,
      schemaPath,
      parsers: PARSERS,
      compressors,
      utf8: false,
    };
    const offsets = [chunk.dictionary_page_offset, chunk.data_page_offset].map((offset) =>
      Number(offset ?? 0),
    );
    const start = Math.min(...offsets.filter((offset) => offset > 0));
    const where = `column "${chunk.path_in_schema.join('.')}" of row group ${number}`;
    const pages = pagesOf({ file, where, start, end: start + Number(chunk.total_compressed_size) });
    return [leafOf(decoder, pages, Number(chunk.num_values), (what) => damaged(path, `${where} ${what}`))];
  });
}

type Pages = Generator<{ header: PageHeader; view: DataView }>;

function leafOf(
  decoder: ColumnDecoder,
  pages: Pages,
  values: number,
  bad: (what: string) => UserError,
): Leaf {
  const flat = isFlatColumn(decoder.schemaPath);
  let dictionary: ArrayLike<unknown> | undefined;
  let rows: ArrayLike<unknown> = [];
  let at = 0;
  let last: unknown[] = []; // of a nested column, the row that the next page may continue
  let read = 0;
  /** The rows that a page completes. */
  const decode = (header: PageHeader, view: DataView): ArrayLike<unknown> => {
    const reader = { view, offset: 0 };
    const data = (readPage as (...given: unknown[]) => { data?: unknown[] })(
      reader,
      header,
      decoder,
      dictionary,
      flat ? undefined : last,
      0,
    ).data;
    if (header.type === 'DICTIONARY_PAGE') {
      dictionary = convert(data as never, decoder) as ArrayLike<unknown>;
      return [];
    }
    read += (header.data_page_header ?? header.data_page_header_v2)!.num_values;
    if (flat || data === undefined) return data ?? [];
    const all = data === last ? data : [...last, ...data];
    last = read < values ? all.splice(-1) : [];
    return all;
  };
  return {
    name: decoder.pathInSchema.join('.'),
    rows: {
      get length() {
        return rows.length - at;
      },
    },
    take(n) {
      const taken = Array.from({ length: n }, (_, i) => rows[at + i]);
      at += n;
      return taken;
    },
    more() {
      const { value, done } = pages.next();
      if (done) return false;
      try {
        const found = decode(value.header, value.view);
        rows = at === rows.length ? found : [...Array.from(rows).slice(at), ...Array.from(found)];
        at = 0;
      } catch (error) {
        if (error instanceof UserError) throw error;
        throw bad(`cannot be decoded (${(error as Error).message})`);
      }
      return true;
    },
  };
}

/** Where the pages of a column are in the file, and its name in errors. */
interface Chunk {
  file: OpenFile;
  where: string;
  start: number;
  end: number;
}

/** The pages of a chunk of a column, each with its header and its bytes as they are in the file. */
function* pagesOf({ file, where, start, end }: Chunk): Pages {
  const { path } = file;
  let held = new Uint8Array(0);
  let heldAt = start;
  for (let at = start; at < end; ) {
    for (let size = Math.min(WINDOW, end - at); ; ) {
      if (at + size > heldAt + held.length) {
        if (at + size > file.bytes) throw damaged(path, `it ends within ${where}`);
        held = new Uint8Array(file.read(at, size));
        heldAt = at;
      }
      const view = new DataView(held.buffer, held.byteOffset + at - heldAt, heldAt + held.length - at);
      const head = headerOf(view);
      if (head === undefined && size === end - at)
        throw damaged(path, `${where} has a page without a header`);
      const needed = head === undefined ? size * 4 : head.length + head.header.compressed_page_size;
      if (head && (needed > end - at || head.header.uncompressed_page_size > PAGE_LIMIT))
        throw damaged(path, `${where} has a page of ${head.header.uncompressed_page_size} bytes`);
      if (head === undefined || needed > view.byteLength) {
        size = Math.min(needed, end - at);
        continue;
      }
      const { header, length } = head;
      const bytes = new DataView(view.buffer, view.byteOffset + length, header.compressed_page_size);
      if (header.crc !== undefined && (crc32(asBytes(bytes)) ^ header.crc) !== 0)
        throw damaged(path, `${where} has a page whose checksum does not match`);
      if (header.type !== 'INDEX_PAGE') yield { header, view: bytes };
      at += needed;
      break;
    }
  }
}

/** The header of the page at the start of `view`; undefined if it does not end within it. */
function headerOf(view: DataView): { header: PageHeader; length: number } | undefined {
  const reader = { view, offset: 0 };
  try {
    const header = parquetHeader(reader);
    return header.compressed_page_size >= 0 && reader.offset <= view.byteLength
      ? { header, length: reader.offset }
      : undefined;
  } catch {
    return undefined;
  }
}

const asBytes = (view: DataView) => Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);

function damaged(path: string, what: string): UserError {
  return new UserError(`${path}: the file is damaged: ${what}; make or download it again`);
}

/** hyparquet's own put U+FFFD in place of bytes that are not UTF-8. */
const PARSERS = {
  ...DEFAULT_PARSERS,
  stringFromBytes(bytes: Uint8Array | undefined): string | undefined {
    if (bytes === undefined) return undefined;
    if (bytes.length > LINE_LIMIT)
      throw new Error(`a text of ${bytes.length} bytes; at most ${LINE_LIMIT >> 20} MiB can be read`);
    if (!isUtf8(bytes)) throw new Error('a text that is not UTF-8');
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8');
  },
};

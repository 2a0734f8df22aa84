import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { shown, UserError } from '../../system/errors.ts';
import { inside, readJson } from '../../system/files.ts';
import type { JsonLine } from '../jsonl.ts';
import type { Document } from '../types.ts';
import { readArrowRows } from './arrow-file.ts';
import { type Fields, fieldNames, jsonDocument } from './fields.ts';
import { readParquetRows } from './parquet-file.ts';

// Files that hold columns: Parquet and Arrow, one file or the shards of a data set.

/** A format of such files. */
interface Columnar {
  name: string;
  /** The endings of its files. */
  files: RegExp;
  rows(path: string, columns?: (names: string[]) => string[]): AsyncIterable<JsonLine>;
}

const PARQUET: Columnar = { name: 'Parquet', files: /\.(parquet|pq)$/i, rows: readParquetRows };
const ARROW: Columnar = { name: 'Arrow', files: /\.(arrows?|feather|ipc)$/i, rows: readArrowRows };

/** True for the names of Parquet files. */
export const isParquet = (name: string) => PARQUET.files.test(name);
/** True for the names of Arrow and Feather files. */
export const isArrow = (name: string) => ARROW.files.test(name);

/** Whether a folder has Parquet files, itself or in the folders that it holds. */
export const holdsParquet = (folder: string) => filesBelow(folder, PARQUET).length > 0;
/** Whether a folder has Arrow files, itself or in the folders that it holds. */
export const holdsArrow = (folder: string) => filesBelow(folder, ARROW).length > 0;

/**
 * Documents of a Parquet file, or of a folder of shards as the Hugging Face Hub has them
 * (`data/train-00000-of-00005.parquet`; huggingface/hub-docs, docs/hub/datasets-data-files-configuration.md), one per row:
 * see `jsonDocument`. Only the columns of id, title and text are read.
 */
export const readParquetDocuments = (path: string, fields: Fields) =>
  columnarDocuments(path, fields, PARQUET);

/**
 * The same for an Arrow or Feather file, or a folder as `save_to_disk` of Hugging Face's datasets writes it
 * (`data-00000-of-00005.arrow` and state.json; huggingface/datasets, src/datasets/arrow_dataset.py).
 */
export const readArrowDocuments = (path: string, fields: Fields) => columnarDocuments(path, fields, ARROW);

async function* columnarDocuments(path: string, fields: Fields, format: Columnar): AsyncGenerator<Document> {
  let number = 0;
  for (const file of columnarFiles(path, format)) {
    const rows = format.rows(file, (names) => {
      const { chosen, text } = fieldNames(names, fields);
      if (text !== undefined) return chosen;
      throw new UserError(
        `${file}: has no column "${fields.text ?? 'text'}", only ${names.map((name) => shown(name)).join(', ')}; name the column of the text with data.fields, as in --set data.fields.text=NAME`,
      );
    });
    for await (const row of rows) yield jsonDocument(row, number++, fields);
  }
}

/** Rows of questions or judgements, of one Parquet or Arrow file or of the shards of one split. */
export async function* readColumnarObjects(path: string): AsyncGenerator<JsonLine> {
  const format =
    isArrow(path) || (isFolder(path) && !holdsParquet(path) && holdsArrow(path)) ? ARROW : PARQUET;
  const files = columnarFiles(path, format);
  const splits = [...new Set(files.map((file) => SHARD.exec(basename(file))?.[1] ?? basename(file)))];
  if (splits.length > 1) {
    throw new UserError(
      `${path}: holds ${format.name} files of several names (${splits.join(', ')}); name one file, or move those that belong together to a folder of their own`,
    );
  }
  for (const file of files) yield* format.rows(file);
}

/** `train-00000-of-00005.parquet`: split, number and how many there are. */
const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.\w+$/;

/**
 * The file itself, or all files of a format in a folder, in the order of their names. A folder may have them in one folder of its
 * own; in `corpus`, if there are several, as BEIR and MTEB have beside `queries`. `UserError` if a shard is missing, or if
 * the files are in several folders, which are configurations or splits of a data set.
 */
function columnarFiles(path: string, format: Columnar): string[] {
  if (!isFolder(path)) return [path];
  const all = filesBelow(path, format);
  const folders = [...new Set(all.map((file) => join(file, '..')))];
  const folder = folders.length > 1 ? folders.find((name) => basename(name) === 'corpus') : folders[0];
  if (all.length === 0)
    throw new UserError(`${path}: holds no ${format.name} file; give a file or the folder of its shards`);
  if (folder === undefined) {
    throw new UserError(
      `${path}: holds ${format.name} files in several folders (${folders.map((name) => relative(path, name) || '.').join(', ')}); name one of them`,
    );
  }
  const files = savedFiles(folder) ?? all.filter((file) => join(file, '..') === folder);
  for (const file of files) {
    if (!existsSync(file)) throw missing(file);
    const [, split, , of] = SHARD.exec(basename(file)) ?? [];
    if (split === undefined) continue;
    for (let i = 0; i < Number(of); i++) {
      const name = join(folder, basename(file).replace(/-\d{5}-of/, `-${String(i).padStart(5, '0')}-of`));
      if (!files.includes(name)) throw missing(name, Number(of));
    }
  }
  return files;
}

function missing(file: string, of?: number): UserError {
  return new UserError(
    `${file}: is missing${of === undefined ? '' : `, one of ${of} shards`}; download it, or name single files`,
  );
}

/**
 * The files of a folder of `save_to_disk`, as its state.json lists them; undefined for other folders. Beside them may lie
 * `cache-….arrow`, what `map` made of them later.
 */
function savedFiles(folder: string): string[] | undefined {
  const path = join(folder, 'state.json');
  if (!existsSync(path)) return undefined;
  const { _data_files: files, _indices_data_files: indices } = readJson(
    path,
    'list of files',
    'save the data set again',
  ) as Record<string, { filename: string }[] | undefined>;
  if (files === undefined) return undefined;
  if (indices && indices.length > 0)
    throw new UserError(
      `${path}: this data set is a selection of rows that datasets 1 saved; load it and save it again with a newer version`,
    );
  return files.map(({ filename }) => inside(folder, filename));
}

const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

/** Folders within folders: a data set of the Hub has `data`, or a folder for each configuration. */
const DEPTH = 2;

function filesBelow(folder: string, format: Columnar, depth = DEPTH): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    // The Hub's cache has links to files.
    const isFolder = entry.isDirectory();
    if (isFolder && depth > 0) found.push(...filesBelow(path, format, depth - 1));
    else if (!isFolder && format.files.test(entry.name)) found.push(path);
  }
  return found.sort();
}

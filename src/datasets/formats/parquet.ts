import { readdirSync, statSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { shown, UserError } from '../../system/errors.ts';
import type { JsonLine } from '../jsonl.ts';
import type { Document } from '../types.ts';
import { type Fields, fieldNames, jsonDocument } from './fields.ts';
import { readParquetRows } from './parquet-file.ts';

/** True for the names of Parquet files. */
export const isParquet = (name: string) => /\.(parquet|pq)$/i.test(name);

/**
 * Documents of a Parquet file, or of a folder of shards as the Hugging Face Hub has them
 * (`data/train-00000-of-00005.parquet`; huggingface/hub-docs, docs/hub/datasets-data-files-configuration.md), one per row:
 * see `jsonDocument`. Only the columns of id, title and text are read.
 */
export async function* readParquetDocuments(path: string, fields: Fields): AsyncGenerator<Document> {
  let number = 0;
  for (const file of parquetFiles(path)) {
    const rows = readParquetRows(file, (names) => {
      const { chosen, text } = fieldNames(names, fields);
      if (text !== undefined) return chosen;
      throw new UserError(
        `${file}: has no column "${fields.text ?? 'text'}", only ${names.map((name) => shown(name)).join(', ')}; name the column of the text with data.fields, as in --set data.fields.text=NAME`,
      );
    });
    for await (const row of rows) yield jsonDocument(row, number++, fields);
  }
}

/** Rows of questions or judgements, of one file or of the shards of one split. */
export async function* readParquetObjects(path: string): AsyncGenerator<JsonLine> {
  const files = parquetFiles(path);
  const splits = [...new Set(files.map((file) => SHARD.exec(basename(file))?.[1] ?? basename(file)))];
  if (splits.length > 1) {
    throw new UserError(
      `${path}: holds Parquet files of several names (${splits.join(', ')}); name one file, or move those that belong together to a folder of their own`,
    );
  }
  for (const file of files) yield* readParquetRows(file);
}

/** Whether a folder has Parquet files, itself or in the folders that it holds. */
export function holdsParquet(folder: string): boolean {
  return filesBelow(folder).length > 0;
}

/** `train-00000-of-00005.parquet`: split, number and how many there are. */
const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.parquet$/;

/**
 * The file itself, or all Parquet files of a folder in the order of their names. A folder may have them in one folder of its
 * own; in `corpus`, if there are several, as BEIR and MTEB have beside `queries`. `UserError` if a shard is missing, or if
 * the files are in several folders, which are configurations of a data set.
 */
export function parquetFiles(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  const all = filesBelow(path);
  const folders = [...new Set(all.map((file) => join(file, '..')))];
  const folder = folders.length > 1 ? folders.find((name) => basename(name) === 'corpus') : folders[0];
  if (all.length === 0)
    throw new UserError(`${path}: holds no Parquet file; give a file or the folder of its shards`);
  if (folder === undefined) {
    throw new UserError(
      `${path}: holds Parquet files in several folders (${folders.map((name) => relative(path, name) || '.').join(', ')}); name one of them`,
    );
  }
  const files = all.filter((file) => join(file, '..') === folder);
  for (const file of files) {
    const [, split, , of] = SHARD.exec(basename(file)) ?? [];
    if (split === undefined) continue;
    for (let i = 0; i < Number(of); i++) {
      const name = `${split}-${String(i).padStart(5, '0')}-of-${of}.parquet`;
      if (!files.includes(join(folder, name)))
        throw new UserError(
          `${join(folder, name)}: is missing, one of ${Number(of)} shards; download it, or name single files`,
        );
    }
  }
  return files;
}

/** Folders within folders: a data set of the Hub has `data`, or a folder for each configuration. */
const DEPTH = 2;

function filesBelow(folder: string, depth = DEPTH): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    // The Hub's cache has links to files.
    const isFolder = entry.isDirectory();
    if (isFolder && depth > 0) found.push(...filesBelow(path, depth - 1));
    else if (!isFolder && isParquet(entry.name)) found.push(path);
  }
  return found.sort();
}

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { readBlockRecords } from '../formats/block-records.ts';
import { readJsonDocuments } from './formats/documents-json.ts';
import { readJsonlDocuments } from './formats/documents-jsonl.ts';
import { readDprPassages, readTableDocuments } from './formats/documents-table.ts';
import { type Fields, NO_FIELDS } from './formats/fields.ts';
import { readOrqaBlocks } from './formats/orqa-blocks.ts';
import { isShard, readRealmDocuments } from './formats/realm-records.ts';
import { isTextFile, readTextFolder } from './formats/text-folder.ts';
import { readWikiExtractor, wikiExtractorFolders } from './formats/wikiextractor.ts';
import { DOCUMENT_FORMATS, type DocumentFormat } from './formats.ts';
import { refuseUnreadable } from './unreadable.ts';

/** A page of the corpus. */
export interface Document {
  id: string;
  title: string;
  text: string;
}

const READERS: Record<DocumentFormat, (path: string, fields: Fields) => AsyncGenerator<Document>> = {
  jsonl: readJsonlDocuments,
  wikiextractor: readWikiExtractor,
  table: readTableDocuments,
  dpr: readDprPassages,
  text: (path) => readTextFolder(path),
  json: readJsonDocuments,
  squad: readJsonDocuments,
  orqa: readOrqaBlocks,
  realm: readRealmDocuments,
  async *npy(path) {
    yield* readBlockRecords(path);
  },
};

/** Formats whose files hold text, so that another kind of file is known by its first bytes. */
const OF_TEXT = new Set<DocumentFormat>(['jsonl', 'table', 'dpr', 'text', 'json', 'squad']);

/**
 * Streams the documents of a file or folder. `auto` tells the format by the names.
 * @param fields the keys or columns that hold id, title and text, where they are not the usual ones
 */
export async function* readDocuments(
  path: string,
  format: DocumentFormat | 'auto' = 'auto',
  fields: Fields = NO_FIELDS,
): AsyncGenerator<Document> {
  const known = format === 'auto' ? formatOf(path) : format;
  if (OF_TEXT.has(known)) refuseUnreadable(path);
  yield* READERS[known](path, fields);
}

/** The format of a path by its look; a folder that holds none that is known is a `UserError`. */
export function formatOf(path: string): DocumentFormat {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    const name = path.replace(/\.(gz|zst|bz2)$/, '');
    if (/\.[ct]sv$/.test(name)) return 'table';
    if (name.endsWith('.json')) return 'json';
    if (path.endsWith('.npy')) return 'npy';
    if (/(^|\/)blocks\.tfr$/.test(name)) return 'orqa';
    return isShard(path) ? 'realm' : 'jsonl';
  }
  if (existsSync(join(path, 'blocks.tfr'))) return 'orqa';
  if (wikiExtractorFolders(path).length > 0) return 'wikiextractor';
  const names = readdirSync(path);
  if (names.some(isShard)) return 'realm';
  if (names.some((name) => isTextFile(name) || statSync(join(path, name)).isDirectory())) return 'text';
  throw new UserError(
    `${path}: is a folder and holds no documents that are known by their names; name one file, or set data.format to one of ${DOCUMENT_FORMATS.join(', ')}`,
  );
}

/**
 * False of the titles of lists, indexes, outlines and disambiguation pages of Wikipedia: ORQA and DPR leave these out
 * (google-research/language, language/orqa/preprocessing/wiki_preprocessor.py, remove_doc, commit 865fae6; DPR by
 * facebookresearch/DrQA, scripts/retriever/prep_wikipedia.py, commit 6d7c1b7, which ignores the case of the last).
 */
export function isArticle(title: string): boolean {
  return !/^(List|Index|Outline) of ./.test(title) && !/\(disambiguation( page)?\)/i.test(title);
}

import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../system/errors.ts';
import { unpackedName } from './bytes.ts';
import { DOCUMENT_FORMATS, type DocumentFormat } from './document-formats.ts';
import { beirCorpus, readBeirDocuments } from './formats/beir.ts';
import { readBlockRecords } from './formats/block-records.ts';
import {
  holdsArrow,
  holdsParquet,
  isArrow,
  isParquet,
  readArrowDocuments,
  readParquetDocuments,
} from './formats/columnar.ts';
import { readJsonDocuments } from './formats/documents-json.ts';
import { readJsonlDocuments } from './formats/documents-jsonl.ts';
import { readDprPassages, readTableDocuments } from './formats/documents-table.ts';
import { type Fields, NO_FIELDS } from './formats/fields.ts';
import { isDump, isXml, readMediaWiki } from './formats/mediawiki.ts';
import { readOrqaBlocks } from './formats/orqa-blocks.ts';
import { isShard, readRealmDocuments } from './formats/realm-records.ts';
import { isTextFile, readTextFolder } from './formats/text-folder.ts';
import { readWikiExtractor, wikiExtractorFolders } from './formats/wikiextractor.ts';
import type { Document, LeftOut } from './types.ts';
import { refuseUnreadable, unreadableName } from './unreadable.ts';

const READERS: Record<
  DocumentFormat,
  (path: string, fields: Fields, leftOut: LeftOut) => AsyncGenerator<Document>
> = {
  jsonl: readJsonlDocuments,
  wikiextractor: readWikiExtractor,
  mediawiki: readMediaWiki,
  table: readTableDocuments,
  parquet: readParquetDocuments,
  arrow: readArrowDocuments,
  beir: readBeirDocuments,
  dpr: readDprPassages,
  text: readTextFolder,
  json: readJsonDocuments,
  squad: readJsonDocuments,
  orqa: readOrqaBlocks,
  realm: readRealmDocuments,
  async *npy(path) {
    yield* readBlockRecords(path);
  },
};

/** Formats of text files: for them, the first bytes show whether a file is of another kind. */
const TEXT_FORMATS = new Set<DocumentFormat>(['jsonl', 'table', 'dpr', 'text', 'json', 'squad']);

/**
 * Streams the documents of a file or folder. `auto` recognises the format by the names.
 * @param fields the keys or columns that hold id, title and text, if they are not the usual ones
 * @param leftOut called for each page of a wiki that is left out
 */
export async function* readDocuments(
  path: string,
  format: DocumentFormat | 'auto' = 'auto',
  fields: Fields = NO_FIELDS,
  leftOut: LeftOut = () => {},
): AsyncGenerator<Document> {
  const known = format === 'auto' ? formatOf(path) : format;
  // Markdown may start like HTML.
  if (TEXT_FORMATS.has(known) && !(known === 'text' && isTextFile(path))) refuseUnreadable(path);
  yield* READERS[known](path, fields, leftOut);
}

/** The format of a path by its name and content. `UserError` for a folder without documents of a known format. */
export function formatOf(path: string): DocumentFormat {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    const name = unpackedName(path);
    if (/\.[ct]sv$/.test(name)) return 'table';
    if (name.endsWith('.json')) return 'json';
    if (path.endsWith('.npy')) return 'npy';
    if (isParquet(path)) return 'parquet';
    if (isArrow(path)) return 'arrow';
    if (/(^|\/)wiki_\d+$/.test(name)) return 'wikiextractor';
    if (isXml(path)) return 'mediawiki';
    if (isTextFile(path) && !holdsJson(path)) return 'text';
    if (/(^|\/)blocks\.tfr$/.test(name)) return 'orqa';
    return isShard(path) ? 'realm' : 'jsonl';
  }
  if (existsSync(join(path, 'blocks.tfr'))) return 'orqa';
  if (wikiExtractorFolders(path).length > 0) return 'wikiextractor';
  if (beirCorpus(path) !== undefined) return 'beir';
  const names = readdirSync(path);
  if (names.some(isShard)) return 'realm';
  if (names.some(isDump)) return 'mediawiki';
  // A data set of the Hub has a README.md beside its files; a folder of notes has more.
  if (!names.some((name) => isTextFile(name) && !/^(readme|licen[cs]e|changelog)\b/i.test(name))) {
    if (holdsParquet(path)) return 'parquet';
    if (holdsArrow(path)) return 'arrow';
  }
  if (names.some((name) => isTextFile(name) || statSync(join(path, name)).isDirectory())) return 'text';
  const other = names
    .map((name) => unreadableName(join(path, name)))
    .find((sentence) => sentence !== undefined);
  throw new UserError(
    `${path}: this folder holds no documents that realm recognises by their names${other ? ` (${other})` : ''}; name one file, or set data.format to one of ${DOCUMENT_FORMATS.join(', ')}`,
  );
}

/** Whether a text file starts like JSON lines, whatever its name: some collections call them .txt. */
function holdsJson(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return false; // the code that reads it reports what is wrong
  }
  const head = Buffer.alloc(64);
  const length = readSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  return /^(\xef\xbb\xbf)?\s*\{\s*"/.test(head.toString('latin1', 0, length));
}

/**
 * False for the titles of lists, indexes, outlines and disambiguation pages of Wikipedia: ORQA and DPR leave these out
 * (google-research/language, language/orqa/preprocessing/wiki_preprocessor.py, remove_doc, commit 865fae6; DPR with
 * facebookresearch/DrQA, scripts/retriever/prep_wikipedia.py, commit 6d7c1b7, which ignores the case of "disambiguation").
 */
export function isArticle(title: string): boolean {
  return !/^(List|Index|Outline) of ./.test(title) && !/\(disambiguation( page)?\)/i.test(title);
}

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { UserError } from '../system/errors.ts';
import { unpackedName } from './bytes.ts';

// Common kinds of files that realm does not read. Each is recognised by its first bytes or its name, and has a remedy.

interface Kind {
  name: string;
  /** What is wrong; without it, that realm does not read such files. */
  what?: string;
  /** Endings of names, without the dot. */
  endings: string;
  /** The first bytes; undefined if only the name shows the kind. */
  magic?: RegExp;
  /** What to do; `*` stands for the file's name without its ending. */
  remedy: string;
}

const PANDOC = (ending: string) =>
  `convert it to Markdown, for example with "pandoc *.${ending} -t gfm -o *.md"`;

/** Names are compared first: .docx, .xlsx and .epub are all zip files and have the same first bytes. */
const KINDS: readonly Kind[] = [
  {
    name: 'Parquet',
    what: 'is a Parquet file under another name',
    endings: 'parquet pq',
    magic: /^PAR1/,
    remedy: 'unpack it if it is compressed, and give it a name that ends in .parquet',
  },
  {
    name: 'Git LFS',
    what: 'is only a pointer of Git LFS to the file',
    endings: '',
    magic: /^version https:\/\/git-lfs/,
    remedy: 'run "git lfs pull" in its folder',
  },
  {
    name: 'Arrow',
    what: 'is an Arrow file',
    endings: 'arrow arrows feather ipc',
    magic: /^ARROW1/,
    remedy: 'unpack it if it is compressed, and give it a name that ends in .arrow',
  },
  {
    name: 'PDF',
    what: 'is a PDF file',
    endings: 'pdf',
    magic: /^%PDF-/,
    remedy: 'as documents, such files are read in a folder or by their own name, which must end in .pdf',
  },
  {
    name: 'Word',
    what: 'is a Word file',
    endings: 'docx',
    remedy: 'as documents, such files are read in a folder or by their own name, which must end in .docx',
  },
  {
    name: 'Word',
    endings: 'doc',
    remedy: 'save it as text in a word processor, or with "soffice --convert-to txt *.doc"',
  },
  { name: 'OpenDocument', endings: 'odt', remedy: PANDOC('odt') },
  { name: 'EPUB', endings: 'epub', remedy: PANDOC('epub') },
  { name: 'RTF', endings: 'rtf', magic: /^\{\\rtf/, remedy: PANDOC('rtf') },
  {
    name: 'spreadsheet',
    endings: 'xlsx xls ods',
    remedy: 'save the sheet as CSV with a first row that names the columns, such as id,title,text',
  },
  {
    name: 'PowerPoint',
    endings: 'pptx ppt odp',
    remedy: 'save it as text, or as PDF and then "pdftotext *.pdf *.txt"',
  },
  {
    name: 'HTML',
    what: 'is an HTML page',
    endings: 'html htm xhtml',
    magic: /^\s*(<!--|<!doctype html|<html)/i,
    remedy: 'as documents, such files are read in a folder or by their own name, which must end in .html',
  },
  { name: 'MDX', endings: 'mdx', remedy: 'save it as Markdown (.md)' },
  { name: 'reStructuredText', endings: 'rst', remedy: PANDOC('rst') },
  {
    name: 'AsciiDoc',
    endings: 'adoc asciidoc',
    remedy: 'convert it with "asciidoctor -b docbook *.adoc" and "pandoc -f docbook *.xml -t gfm -o *.md"',
  },
  { name: 'Org', endings: 'org', remedy: PANDOC('org') },
  { name: 'LaTeX', endings: 'tex', remedy: PANDOC('tex') },
  { name: 'notebook', endings: 'ipynb', remedy: PANDOC('ipynb') },
  {
    name: 'WikiExtractor',
    what: 'is a file of WikiExtractor',
    endings: '',
    magic: /^\s*<doc id="/,
    remedy: 'name the folder that holds AA, or set data.format to wikiextractor',
  },
  {
    name: 'XML',
    endings: 'xml',
    magic: /^\s*<\?xml/,
    remedy:
      'as documents, only dumps of Wikipedia and other wikis are read (their name must end in .xml); convert others to JSON Lines of {"id", "title", "text"}',
  },
  {
    name: 'image',
    endings: 'png jpg jpeg gif webp tif tiff bmp svg',
    magic: /^(\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*|MM.\*)/s,
    remedy: 'recognise its text first, for example with "tesseract IMAGE *"',
  },
  {
    name: 'SQLite',
    endings: 'sqlite sqlite3 db',
    magic: /^SQLite format 3/,
    remedy:
      'export the table as CSV with its header, for example with "sqlite3 -header -csv FILE \'select id, title, text from documents\' > *.csv"',
  },
  {
    name: 'Python pickle',
    endings: 'pkl pickle',
    remedy: 'save the data as JSON Lines of {"id", "title", "text"}',
  },
  {
    name: 'archive',
    endings: 'zip tar tgz 7z rar',
    magic: /^(PK[^ -~]{2}|7z\xbc\xaf|Rar!)/,
    remedy: 'unpack it and give the folder',
  },
  { name: 'Office', endings: '', magic: /^\xd0\xcf[^ -~]\xe0/, remedy: 'save it as text or as CSV' },
];

/** Bytes of a file that are examined. */
const HEAD_BYTES = 64;

/** Throws a `UserError` with a remedy if a file is of a kind that realm does not read, by its name or its first bytes. */
export function refuseUnreadable(path: string): void {
  if (path === '-' || !statSync(path, { throwIfNoEntry: false })?.isFile()) return;
  const kind = kindByName(path) ?? kindByBytes(path);
  if (kind) throw new UserError(unreadable(path, kind));
}

/** Throws a `UserError` with a remedy if the first bytes of a file show a kind that realm does not read, whatever its name. */
export function refuseByBytes(path: string): void {
  const kind = kindByBytes(path);
  if (kind) throw new UserError(unreadable(path, kind));
}

/** The sentence for a file whose name shows such a kind; undefined for other names. */
export function unreadableName(path: string): string | undefined {
  const kind = kindByName(path);
  return kind && unreadable(path, kind);
}

function unreadable(path: string, { name, what, remedy }: Kind): string {
  const stem = basename(path).replace(/\.\w+$/, '');
  return `${path}: ${what ?? `realm does not read ${name} files yet`}; ${remedy.replaceAll('*', stem)}`;
}

function kindByName(path: string): Kind | undefined {
  const ending = /\.(\w+)$/.exec(unpackedName(path))?.[1].toLowerCase();
  return ending === undefined ? undefined : KINDS.find(({ endings }) => endings.split(' ').includes(ending));
}

function kindByBytes(path: string): Kind | undefined {
  const head = Buffer.alloc(HEAD_BYTES);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return undefined; // the code that reads it reports what is wrong
  }
  const length = readSync(fd, head, 0, HEAD_BYTES, 0);
  closeSync(fd);
  const text = head.toString('latin1', 0, length).replace(/^\xef\xbb\xbf/, '');
  return KINDS.find(({ magic }) => magic?.test(text));
}

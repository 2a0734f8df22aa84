import { isUtf8 } from 'node:buffer';
import { readdirSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { UserError } from '../../system/errors.ts';
import { readText } from '../../system/files.ts';
import { countRead } from '../bytes.ts';
import { installCommand, isInstalled, needPackage, type OptionalPackage } from '../optional-package.ts';
import type { Document } from '../types.ts';
import { docxDocument } from './docx.ts';
import { htmlDocument } from './html.ts';
import { markdownDocuments } from './markdown.ts';
import { pdfPages } from './pdf.ts';

const TEXT = /\.(txt|text)$/i;
const MARKDOWN = /\.(md|markdown)$/i;

/** Kinds of files that need a package of their own. */
const PAGES: readonly { kind: string; name: RegExp; needs: OptionalPackage }[] = [
  { kind: 'HTML', name: /\.(html?|xhtml)$/i, needs: '@mozilla/readability' },
  { kind: 'PDF', name: /\.pdf$/i, needs: 'unpdf' },
  { kind: 'Word', name: /\.docx$/i, needs: 'mammoth' },
];

const pageKind = (name: string) => PAGES.find((kind) => kind.name.test(name));

/** True for the names that `readTextFolder` reads, perhaps with a package that is not installed. */
export const isTextFile = (name: string) =>
  TEXT.test(name) || MARKDOWN.test(name) || pageKind(name) !== undefined;

/**
 * A text, Markdown, HTML, PDF or Word file, or all of them in a folder and its subfolders, in the order of their paths. A text,
 * HTML or Word file is one document, a Markdown file one or more (see `markdownDocuments`), a PDF one a page. The id is the
 * path in the folder; the title of a text file is its name.
 */
export async function* readTextFolder(path: string): AsyncGenerator<Document> {
  if (!statSync(path).isDirectory()) yield* textDocuments(path, basename(path));
  else
    for (const { id, left } of filesIn(path))
      if (left === undefined) yield* textDocuments(join(path, id), id);
}

interface Found {
  /** The path in the folder. */
  id: string;
  /** Its kind, if it is left out. */
  left?: string;
}

/** Folders of other people's files, which nobody wants to search. */
const NOT_OURS = new Set(['node_modules']);

/** All files in a folder, in order. Hidden files and links are left out: a link can lead out of the folder, or in a circle. */
function* filesIn(path: string, within = ''): Generator<Found> {
  const entries = readdirSync(join(path, within), { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const id = within === '' ? entry.name : `${within}/${entry.name}`;
    if (entry.isSymbolicLink()) yield { id, left: 'link' };
    else if (entry.name.startsWith('.'))
      yield { id, left: entry.isDirectory() ? 'hidden folder' : 'hidden file' };
    else if (entry.isDirectory() && NOT_OURS.has(entry.name)) yield { id, left: `${entry.name} folder` };
    else if (entry.isDirectory()) yield* filesIn(path, id);
    else if (entry.isFile() && isTextFile(entry.name)) {
      const needs = pageKind(entry.name)?.needs;
      if (needs === undefined || isInstalled(needs)) yield { id };
      else yield { id, left: `${extname(entry.name).toLowerCase()} (read after "${installCommand(needs)}")` };
    } else yield { id, left: extname(entry.name).toLowerCase() || 'without an ending' };
  }
}

/** How many files of each kind `readTextFolder` leaves out in a folder, the most frequent first. */
export function leftOutFiles(path: string): Map<string, number> {
  const counts = new Map<string, number>();
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return counts;
  for (const { left } of filesIn(path)) if (left !== undefined) counts.set(left, (counts.get(left) ?? 0) + 1);
  return new Map([...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)));
}

/** The counts of `leftOutFiles` in words. */
export function leftOutWords(counts: Map<string, number>): string {
  const total = [...counts.values()].reduce((sum, n) => sum + n, 0);
  const kinds = [...counts].map(([kind, n]) => `${n} ${kind}`).join(', ');
  return `left out ${total} ${total === 1 ? 'file or folder' : 'files or folders'}: ${kinds} (realm reads .txt, .md, .html, .pdf and .docx in folders)`;
}

/** The documents of one file. */
async function* textDocuments(path: string, id: string): AsyncGenerator<Document> {
  const name = basename(id, extname(id));
  const page = pageKind(id);
  if (!page) {
    const text = readText(path, 'text file', 'save it as UTF-8, split it, or move it out of the folder');
    countRead(Buffer.byteLength(text));
    yield* MARKDOWN.test(id) ? markdownDocuments(text, id, name) : [{ id, title: name, text }];
    return;
  }
  needPackage(page.needs, path, page.kind);
  if (statSync(path).size > PAGE_LIMIT)
    throw new UserError(
      `${path}: is longer than ${PAGE_LIMIT >> 20} MiB; split it, or move it out of the folder`,
    );
  const bytes = await readFile(path);
  countRead(bytes.length);
  if (page.kind === 'PDF') yield* pdfPages(bytes, path, id, name);
  else if (page.kind === 'Word') yield await docxDocument(bytes, path, id, name);
  else yield await htmlDocument(decodeHtml(bytes, path), id, name);
}

/** Maximum bytes of a file that is read as a whole: long books with pictures. */
const PAGE_LIMIT = 256 << 20;
/** Bytes of a page of HTML in which browsers look for its encoding. */
const CHARSET_BYTES = 1024;

/** UTF-8, or the encoding that the page states. */
function decodeHtml(bytes: Buffer, path: string): string {
  if (isUtf8(bytes)) return bytes.toString('utf8').replace(/^\uFEFF/, '');
  const charset = /charset\s*=\s*["']?([\w-]+)/i.exec(bytes.toString('latin1', 0, CHARSET_BYTES))?.[1];
  try {
    if (charset !== undefined) return new TextDecoder(charset, { fatal: true }).decode(bytes);
  } catch {
    // said below
  }
  throw new UserError(`${path}: is not UTF-8, nor in an encoding that it states; save it as UTF-8`);
}

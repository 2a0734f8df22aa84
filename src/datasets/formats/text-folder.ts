import { readdirSync, statSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import { readText } from '../../system/files.ts';
import { countRead } from '../bytes.ts';
import type { Document } from '../types.ts';
import { markdownDocuments } from './markdown.ts';

const TEXT = /\.(txt|text)$/i;
const MARKDOWN = /\.(md|markdown)$/i;

/** True for the names that `readTextFolder` reads. */
export const isTextFile = (name: string) => TEXT.test(name) || MARKDOWN.test(name);

/**
 * A `.txt` or `.md` file, or all of them in a folder and its subfolders, in the order of their paths. A text file is one
 * document, a Markdown file one or more (see `markdownDocuments`). The id is the path in the folder; the title of a text
 * file is its name.
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
    else if (entry.isFile() && isTextFile(entry.name)) yield { id };
    else yield { id, left: extname(entry.name).toLowerCase() || 'without an ending' };
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
  return `left out ${total} ${total === 1 ? 'file or folder' : 'files or folders'}: ${kinds} (realm reads .txt and .md in folders)`;
}

/** The documents of one text or Markdown file. */
export function textDocuments(path: string, id: string): Document[] {
  const text = readText(path, 'text file', 'save it as UTF-8, split it, or move it out of the folder');
  countRead(Buffer.byteLength(text));
  const name = basename(id, extname(id));
  return MARKDOWN.test(id) ? markdownDocuments(text, id, name) : [{ id, title: name, text }];
}

import { readdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import { readText } from '../../files.ts';
import type { Document } from '../documents.ts';

const TEXT = /\.(txt|text)$/i;
const MARKDOWN = /\.(md|markdown)$/i;

/** True of the names that `readTextFolder` reads. */
export const isTextFile = (name: string) => TEXT.test(name) || MARKDOWN.test(name);

/**
 * Every `.txt` and `.md` file in a folder and the folders in it, a document each, in the order of their paths. The id is
 * the path in the folder; the title is a Markdown file's first heading, or else the name of the file.
 * Hidden files and links are passed over: a link can lead out of the folder, or round in it.
 */
export async function* readTextFolder(path: string, within = ''): AsyncGenerator<Document> {
  const entries = readdirSync(join(path, within), { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const id = within === '' ? entry.name : `${within}/${entry.name}`;
    if (entry.isDirectory()) yield* readTextFolder(path, id);
    else if (entry.isFile() && isTextFile(entry.name)) yield textDocument(join(path, id), id);
  }
}

/** One such file. */
export function textDocument(path: string, id: string): Document {
  let text = readText(path, 'text file', 'save it as UTF-8, split it, or move it out of the folder');
  const name = basename(id, extname(id));
  if (!MARKDOWN.test(id)) return { id, title: name, text };
  text = withoutFrontMatter(text);
  return { id, title: firstHeading(text) ?? name, text };
}

/** Without the settings between two lines of `---` (YAML) or `+++` (TOML) with which a Markdown file may begin. */
function withoutFrontMatter(text: string): string {
  return text.replace(/^(---|\+\+\+)[ \t]*\r?\n(?:[\s\S]*?\r?\n)?\1[ \t]*(?:\r?\n|$)/, '');
}

/** The first line `# Heading` that does not stand in a block of code. */
function firstHeading(text: string): string | undefined {
  let code = false;
  for (const line of text.split(/\r?\n/)) {
    if (/^ {0,3}(```|~~~)/.test(line)) code = !code;
    const heading = code ? undefined : /^ {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$/.exec(line)?.[1];
    if (heading) return heading;
  }
  return undefined;
}

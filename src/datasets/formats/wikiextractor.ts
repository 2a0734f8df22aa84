import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { decodeHTML } from 'entities';
import { UserError } from '../../system/errors.ts';
import { type JsonLine, LINE_LIMIT, readJsonLines, readLines, stringField } from '../jsonl.ts';
import type { Document } from '../types.ts';

// The output of WikiExtractor (attardi/wikiextractor, README.md and wikiextractor/extract.py, write_output, commit 8f1b434):
// folders AA, AB, … of files wiki_00, wiki_01, …. With --json they have one {"id", "revid", "url", "title", "text"} per line;
// without it, lines between <doc id="…" url="…" title="…"> and </doc>, the first of which is the title again.

const FOLDER = /^[A-Z]{2}$/;
const FILE = /^wiki_\d+(\.gz|\.zst|\.bz2)?$/;
const WHAT = 'a file that WikiExtractor wrote';

/** The documents of a folder or file of WikiExtractor's. HTML entities that it left are decoded, as in ORQA and DrQA. */
export async function* readWikiExtractor(path: string): AsyncGenerator<Document> {
  for (const file of filesOf(path)) {
    for await (const { id, title, text } of documentsOf(file))
      yield { id, title: decodeHTML(title), text: decodeHTML(text) };
  }
}

function filesOf(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  return wikiExtractorFolders(path).flatMap((folder) =>
    readdirSync(join(path, folder))
      .filter((name) => FILE.test(name))
      .sort()
      .map((name) => join(path, folder, name)),
  );
}

async function* documentsOf(path: string): AsyncGenerator<Document> {
  let first = '';
  for await (const { text } of readLines(path, WHAT)) {
    first = text;
    if (text.trim() !== '') break;
  }
  if (first.startsWith('<doc ')) yield* taggedDocuments(path);
  else for await (const line of readJsonLines(path, WHAT)) yield jsonDocument(line);
}

function jsonDocument(line: JsonLine): Document {
  return { id: stringField(line, 'id'), title: stringField(line, 'title'), text: stringField(line, 'text') };
}

/** Titles may contain quotes. */
const START = /^<doc id="([^"]*)" .*?title="(.*)">$/;

async function* taggedDocuments(path: string): AsyncGenerator<Document> {
  let open: { id: string; title: string; lines: string[] } | undefined;
  let last = 0;
  let size = 0;
  for await (const { text: line, number } of readLines(path, WHAT)) {
    last = number;
    const where = `${path}: line ${number}`;
    if (open === undefined) {
      if (line.trim() === '') continue;
      const [, id, title] = START.exec(line) ?? [];
      if (id === undefined)
        throw new UserError(
          `${where}: is not a line such as <doc id="12" url="…" title="…">; make the file again`,
        );
      open = { id, title, lines: [] };
      size = 0;
    } else if (line === '</doc>') {
      const { id, title, lines } = open;
      const text = (lines[0] === title ? lines.slice(1) : lines).join('\n').trim();
      yield { id, title, text };
      open = undefined;
    } else {
      open.lines.push(line);
      size += line.length;
      if (size > LINE_LIMIT)
        throw new UserError(
          `${where}: a document is longer than ${LINE_LIMIT >> 20} MiB, or has no </doc>; make the file again`,
        );
    }
  }
  if (open !== undefined)
    throw new UserError(`${path}: line ${last}: the file ends within a document; make or copy it again`);
}

/** Names of the folders AA, AB, … in `path`, in order. */
export function wikiExtractorFolders(path: string): string[] {
  return readdirSync(path)
    .filter((name) => FOLDER.test(name))
    .sort();
}

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { decodeHTML } from 'entities';
import { readJsonLines, stringField } from '../jsonl.ts';
import type { Document } from '../types.ts';
import { refuseUnreadable } from '../unreadable.ts';

// The output of WikiExtractor with --json (attardi/wikiextractor, README.md and wikiextractor/WikiExtractor.py,
// commit 8f1b434): folders AA, AB, … of files wiki_00, wiki_01, …, with one {"id", "revid", "url", "title", "text"} per line.

const FOLDER = /^[A-Z]{2}$/;
const FILE = /^wiki_\d+(\.gz|\.zst|\.bz2)?$/;

/** The documents of a folder of WikiExtractor's. HTML entities that it left are decoded, as in ORQA and DrQA. */
export async function* readWikiExtractor(path: string): AsyncGenerator<Document> {
  for (const folder of wikiExtractorFolders(path)) {
    const names = readdirSync(join(path, folder)).filter((name) => FILE.test(name));
    for (const name of names.sort()) {
      const what = 'a file that WikiExtractor wrote with --json';
      refuseUnreadable(join(path, folder, name));
      for await (const line of readJsonLines(join(path, folder, name), what)) {
        yield {
          id: stringField(line, 'id'),
          title: decodeHTML(stringField(line, 'title')),
          text: decodeHTML(stringField(line, 'text')),
        };
      }
    }
  }
}

/** Names of the folders AA, AB, … in `path`, in order. */
export function wikiExtractorFolders(path: string): string[] {
  return readdirSync(path)
    .filter((name) => FOLDER.test(name))
    .sort();
}

import { closeSync, openSync, writeSync } from 'node:fs';
import type { Corpus } from '../src/corpus/store/reader.ts';

/** A block as sentence-transformers gets it: the title before the text. */
export function blockText(corpus: Corpus, block: number): string {
  return `${corpus.title(block)} ${corpus.text(block)}`.trim();
}

/** Writes a file of JSON lines, one at a time. */
export function writeJsonLines(path: string, records: Iterable<object>): void {
  const file = openSync(path, 'w');
  try {
    for (const record of records) writeSync(file, `${JSON.stringify(record)}\n`);
  } finally {
    closeSync(file);
  }
}

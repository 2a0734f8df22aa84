import { readJsonLines } from '../jsonl.ts';
import type { Document } from '../types.ts';
import { type Fields, jsonDocument } from './fields.ts';
import { isMrqaHeader } from './mrqa.ts';

/** Documents of a JSONL file with one object such as `{"id", "title", "text"}` per line: see `jsonDocument`. */
export async function* readJsonlDocuments(path: string, fields: Fields): AsyncGenerator<Document> {
  let number = 0;
  for await (const line of readJsonLines(path, 'a JSONL file of documents')) {
    if (number === 0 && isMrqaHeader(line)) continue;
    yield jsonDocument(line, number++, fields);
  }
}

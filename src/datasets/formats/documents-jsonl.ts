import { readJsonLines } from '../jsonl.ts';
import type { Document } from '../types.ts';
import { type Fields, jsonDocument } from './fields.ts';

/** Documents of a JSONL file, an object such as `{"id", "title", "text"}` a line: see `jsonDocument`. */
export async function* readJsonlDocuments(path: string, fields: Fields): AsyncGenerator<Document> {
  let number = 0;
  for await (const line of readJsonLines(path, 'a JSONL file of documents')) {
    yield jsonDocument(line, number++, fields);
  }
}

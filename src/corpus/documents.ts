import { readJsonLines, stringField } from './jsonl.ts';

/** A page of the corpus. */
export interface Document {
  id: string;
  title: string;
  text: string;
}

/**
 * Streams the documents of a JSONL file (`.jsonl`, or `.jsonl.gz`), one `{"id", "title", "text"}` a line. A document
 * without an id gets its number in the file, from 0; one without a title has none. Other keys are passed over.
 */
export async function* readDocuments(path: string): AsyncGenerator<Document> {
  let number = 0;
  for await (const line of readJsonLines(path, 'a JSONL file of documents')) {
    const { id, title } = line.value;
    yield {
      id: id === undefined ? String(number) : typeof id === 'number' ? String(id) : stringField(line, 'id'),
      title: title === undefined ? '' : stringField(line, 'title'),
      text: stringField(line, 'text'),
    };
    number++;
  }
}

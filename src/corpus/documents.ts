import { UserError } from '../errors.ts';
import { type JsonLine, readJsonLines, stringField } from './jsonl.ts';

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
      id:
        id === undefined
          ? String(number)
          : typeof id === 'number'
            ? numberId(line, id)
            : stringField(line, 'id'),
      title: title === undefined ? '' : stringField(line, 'title'),
      text: stringField(line, 'text'),
    };
    number++;
  }
}

/** Beyond 2^53 JSON's numbers lose digits, and two documents would share an id. */
function numberId({ where }: JsonLine, id: number): string {
  if (Math.abs(id) <= Number.MAX_SAFE_INTEGER) return String(id);
  throw new UserError(
    `${where}: has a number as "id" that is too large to be kept exactly; put it in quotes`,
  );
}

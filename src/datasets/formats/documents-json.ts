import { readJsonElements } from '../json-elements.ts';
import type { Document } from '../types.ts';
import { type Fields, jsonDocument } from './fields.ts';
import { squadPassages } from './squad.ts';

/** Documents of a JSON file that is one list of objects such as `{"id", "title", "text"}`, or SQuAD's list of articles. */
export async function* readJsonDocuments(path: string, fields: Fields): AsyncGenerator<Document> {
  let number = 0;
  for await (const element of readJsonElements(path, 'a JSON file of documents')) {
    if (element.value.paragraphs !== undefined) yield* squadPassages(element, number);
    else yield jsonDocument(element, number, fields);
    number++;
  }
}

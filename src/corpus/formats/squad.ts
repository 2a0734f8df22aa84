import { UserError } from '../../errors.ts';
import type { Document } from '../documents.ts';
import { readJsonElements } from '../json-elements.ts';
import { type JsonLine, objectsField, stringField } from '../jsonl.ts';
import { type Question, questionId } from '../qa.ts';

// SQuAD 1.1 and 2.0 (rajpurkar/SQuAD-explorer, dataset/): {"data": [{"title", "paragraphs": [{"context", "qas":
// [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"?}]}]}]}. A passage's id is made of its
// article's title and its number in it, for Z and for the questions alike.

/** The paragraphs as documents: passages, for `text.packing: as-is`. */
export async function* readSquadPassages(path: string): AsyncGenerator<Document> {
  for await (const article of readJsonElements(path, 'a JSON file of SQuAD')) {
    for (const { id, title, paragraph } of paragraphs(article)) {
      yield { id, title, text: stringField(paragraph, 'context') };
    }
  }
}

/** The questions of one article; those of SQuAD 2.0 that have no answer have an empty list. */
export function squadQuestions(article: JsonLine): Question[] {
  return paragraphs(article).flatMap(({ id, paragraph }) =>
    objectsField(paragraph, 'qas').map((qa) => ({
      question: stringField(qa, 'question'),
      ...questionId(qa),
      answers: [...new Set(objectsField(qa, 'answers').map((answer) => stringField(answer, 'text')))],
      answerKind: 'string' as const,
      passageId: id,
    })),
  );
}

function paragraphs(article: JsonLine): { id: string; title: string; paragraph: JsonLine }[] {
  if (!Array.isArray(article.value.paragraphs)) {
    throw new UserError(
      `${article.where}: has no "paragraphs"; give a JSON file of SQuAD, or name a file of one object a line .jsonl`,
    );
  }
  const title = stringField(article, 'title');
  return objectsField(article, 'paragraphs').map((paragraph, i) => ({
    id: `${title}#${i}`,
    title: title.replaceAll('_', ' '),
    paragraph,
  }));
}

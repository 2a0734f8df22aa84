import { type JsonLine, objectsField, questionId, stringField } from '../jsonl.ts';
import type { Document, Question } from '../types.ts';

// SQuAD 1.1 and 2.0 (rajpurkar/SQuAD-explorer, dataset/): {"data": [{"title", "paragraphs": [{"context", "qas":
// [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"?}]}]}]}. A passage's id is made of its
// article's title and its number in it, for Z and for the questions alike.

/** The paragraphs of one article as documents: passages, for `text.splitting: as-is`. */
export function squadPassages(article: JsonLine): Document[] {
  return paragraphs(article).map(({ id, title, paragraph }) => ({
    id,
    title,
    text: stringField(paragraph, 'context'),
  }));
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
  const title = stringField(article, 'title');
  return objectsField(article, 'paragraphs').map((paragraph, i) => ({
    id: `${title}#${i}`,
    title: title.replaceAll('_', ' '),
    paragraph,
  }));
}

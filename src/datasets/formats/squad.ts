import { type JsonLine, objectsField, questionId, stringField } from '../jsonl.ts';
import type { Document, Question } from '../types.ts';

// SQuAD 1.1 and 2.0 (rajpurkar/SQuAD-explorer, dataset/): {"data": [{"title", "paragraphs": [{"context", "qas":
// [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"?}]}]}]}. A passage's id is made of its
// article's title and its number in it, for Z and for the questions alike. Files that others made in this format may leave
// out the title, as deepset's annotation tool does: then the article's number takes its place in the id.

/**
 * The paragraphs of one article as documents: passages, for `text.splitting: as-is`.
 * @param number of the article in its file, from 0
 */
export function squadPassages(article: JsonLine, number: number): Document[] {
  return paragraphs(article, number).map(({ id, title, paragraph }) => ({
    id,
    title,
    text: stringField(paragraph, 'context'),
  }));
}

/** The questions of one article; those of SQuAD 2.0 that have no answer have an empty list. */
export function squadQuestions(article: JsonLine, number: number): Question[] {
  return paragraphs(article, number).flatMap(({ id, paragraph }) =>
    objectsField(paragraph, 'qas').map((qa) => ({
      question: stringField(qa, 'question'),
      ...questionId(qa),
      answers: [...new Set(objectsField(qa, 'answers').map((answer) => stringField(answer, 'text')))],
      answerKind: 'string' as const,
      passageId: id,
    })),
  );
}

function paragraphs(article: JsonLine, number: number): { id: string; title: string; paragraph: JsonLine }[] {
  const title = (article.value.title ?? '') === '' ? '' : stringField(article, 'title');
  return objectsField(article, 'paragraphs').map((paragraph, i) => ({
    id: `${title || number}#${i}`,
    title: title.replaceAll('_', ' '),
    paragraph,
  }));
}

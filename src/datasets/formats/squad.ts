import { type JsonLine, objectsField, questionId, stringField } from '../jsonl.ts';
import type { Document, Question } from '../types.ts';

// SQuAD 1.1 and 2.0 (rajpurkar/SQuAD-explorer, dataset/): {"data": [{"title", "paragraphs": [{"context", "qas":
// [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"?}]}]}]}. A passage's id is the title of its
// article and its number in it, both for Z and for the questions. Files that others made in this format may have no titles,
// as those of deepset's annotation tool: then the id has the article's number instead.

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

/** The questions of one article; the questions of SQuAD 2.0 without an answer have an empty list of answers. */
export function squadQuestions(article: JsonLine, number: number): Question[] {
  return paragraphs(article, number).flatMap(({ id, paragraph }) =>
    objectsField(paragraph, 'qas').map((qa) => ({
      question: stringField(qa, 'question'),
      ...questionId(qa),
      answers: [
        ...new Set(
          // Some tools leave the list out where there is no answer.
          (qa.value.answers ?? null) === null
            ? []
            : objectsField(qa, 'answers').map((answer) => stringField(answer, 'text')),
        ),
      ],
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

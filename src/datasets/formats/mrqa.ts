import { type JsonLine, objectsField, questionId, stringField, stringsField } from '../jsonl.ts';
import type { Question } from '../types.ts';

/** The first line of an MRQA file, `{"header": {"dataset", "split"}}`, which is neither a document nor a question. */
export const isMrqaHeader = ({ value }: JsonLine) =>
  typeof value.header === 'object' && Object.keys(value).length === 1;

/**
 * A line of MRQA: `{"context", "qas": [{"qid", "question", "answers": […], "detected_answers"}]}` (mrqa/
 * MRQA-Shared-Task-2019, README.md, "Training Data"). "answers" are all texts that count as right.
 * @param number of the line, from 0 without the header: the id of its context as a document if it has no other
 */
export function mrqaQuestions(line: JsonLine, number: number): Question[] {
  return objectsField(line, 'qas').map((qa) => ({
    question: stringField(qa, 'question'),
    ...questionId(qa, 'qid'),
    answers: [...new Set(stringsField(qa, 'answers'))],
    answerKind: 'string',
    passageId: questionId(line).id || String(number),
  }));
}

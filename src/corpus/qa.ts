import { UserError } from '../errors.ts';
import { type JsonLine, readJsonLinesSync, stringField, wholeText } from './jsonl.ts';

/** A question and every answer that counts as right. */
export interface Question {
  question: string;
  answers: string[];
  /** Id of the document that holds the answer, where the data set tells. */
  passageId?: string;
}

/** Reads a whole question set: JSONL (or `.jsonl.gz`) of `{"question", "answer": [string, …], "passage_id"?}`. */
export function readQuestions(path: string): Question[] {
  const questions = Array.from(readJsonLinesSync(path, 'a JSONL file of questions'), (line) => {
    const passageId = line.value.passage_id;
    return {
      question: stringField(line, 'question'),
      answers: answersOf(line),
      ...(passageId === undefined ? {} : { passageId: stringField(line, 'passage_id') }),
    };
  });
  if (questions.length === 0) {
    throw new UserError(`${path}: holds no question; every line must be {"question": …, "answer": […]}`);
  }
  return questions;
}

/** Under "answer", or "answers" as some data sets have it; a lone string is a list of one. */
function answersOf(line: JsonLine): string[] {
  const field = line.value.answer ?? line.value.answers;
  const answers = typeof field === 'string' ? [field] : field;
  if (
    !Array.isArray(answers) ||
    answers.length === 0 ||
    answers.some((answer) => typeof answer !== 'string')
  ) {
    throw new UserError(`${line.where}: "answer" must be a list of one or more strings`);
  }
  return answers.map((answer) => wholeText(line, answer));
}

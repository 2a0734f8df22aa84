import { type JsonLine, objectsField, questionId, stringField, stringsField } from '../jsonl.ts';
import type { Question } from '../types.ts';

/**
 * TriviaQA's `{"Question", "Answer": {"Value", "Aliases", …}}`. Every alias is a right answer, as in its own evaluation
 * (mandarjoshi90/triviaqa, README.md). The test sets have no "Answer".
 */
export function triviaQuestion(line: JsonLine): Question {
  const [answer] =
    line.value.Answer === undefined
      ? []
      : objectsField({ ...line, value: { Answer: [line.value.Answer] } }, 'Answer');
  const answers = answer ? [stringField(answer, 'Value'), ...stringsField(answer, 'Aliases')] : [];
  return {
    question: stringField(line, 'Question'),
    ...questionId(line, 'QuestionId'),
    answers: [...new Set(answers)],
    answerKind: 'string',
  };
}

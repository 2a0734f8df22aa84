import { type JsonLine, objectsField, questionId, stringField, stringsField } from '../jsonl.ts';
import type { Question } from '../types.ts';

/**
 * TriviaQA's `{"Question", "Answer": {"Value", "Aliases", …}}`, with every alias a right answer, as its own evaluation
 * counts them (mandarjoshi90/triviaqa, README.md). The test sets come without "Answer".
 */
export function triviaQuestion(line: JsonLine): Question[] {
  const [answer] =
    line.value.Answer === undefined
      ? []
      : objectsField({ ...line, value: { Answer: [line.value.Answer] } }, 'Answer');
  const answers = answer ? [stringField(answer, 'Value'), ...stringsField(answer, 'Aliases')] : [];
  return [
    {
      question: stringField(line, 'Question'),
      ...questionId(line, 'QuestionId'),
      answers: [...new Set(answers)],
      answerKind: 'string',
    },
  ];
}

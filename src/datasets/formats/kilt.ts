import { UserError } from '../../system/errors.ts';
import { type JsonLine, objectsField, questionId, stringField } from '../jsonl.ts';
import type { Question } from '../types.ts';

/**
 * KILT's `{"id", "input", "output": [{"answer"?, "provenance"?}, …]}` (facebookresearch/KILT, README.md, "KILT data
 * format", commit 2664322). An output without an answer has only a provenance; the test sets have no output.
 */
export function kiltQuestion(line: JsonLine): Question {
  const question = stringField(line, 'input');
  if (question === '') {
    throw new UserError(
      `${line.where}: has an empty "input"; KILT's scripts/get_triviaqa_input.py fills in the questions of TriviaQA`,
    );
  }
  const outputs = (line.value.output ?? null) === null ? [] : objectsField(line, 'output');
  const answers = outputs.filter(({ value }) => (value.answer ?? null) !== null);
  return {
    question,
    ...questionId(line),
    answers: [...new Set(answers.map((output) => stringField(output, 'answer')))],
    answerKind: 'string',
  };
}

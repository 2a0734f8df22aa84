import { type JsonLine, stringField } from '../jsonl.ts';
import type { Question } from '../types.ts';

/**
 * WebQuestions as published: `{"url", "utterance", "targetValue": "(list (description "A B") (description C))"}`. The
 * answers are extracted as in DrQA (facebookresearch/DrQA, scripts/convert/webquestions.py, commit 6d7c1b7).
 */
export function webQuestion(line: JsonLine): Question {
  const target = stringField(line, 'targetValue');
  const found = target.match(/(?<=\(description ).+?(?=\) \(description|\)\)$)/g) ?? [];
  return {
    question: stringField(line, 'utterance'),
    answers: found.map((answer) => answer.replaceAll('"', '')),
    answerKind: 'string',
  };
}

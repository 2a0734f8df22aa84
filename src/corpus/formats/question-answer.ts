import { UserError } from '../../errors.ts';
import { type JsonLine, stringField, stringsField } from '../jsonl.ts';
import { answerKindOf, type Question } from '../qa.ts';

/**
 * `{"question", "answer": [string, …]}`, the form of NQ-open and of ORQA's and DrQA's files, or with "answers" as DPR,
 * FiD and Atlas have it. "passage_id" tells the document that holds the answer, "answer_kind" may say "regex".
 * DPR's training files come with "positive_ctxs", which are not read; it writes ’ as ' in their questions
 * (facebookresearch/DPR, dpr/utils/data_utils.py, normalize_question, commit a31212d).
 */
export function plainQuestion(line: JsonLine): Question[] {
  const { value } = line;
  const question = stringField(line, 'question');
  const answers = stringsField(
    line,
    value.answer === undefined && value.answers !== undefined ? 'answers' : 'answer',
  );
  if (answers.length === 0) {
    throw new UserError(`${line.where}: "answer" must be a list of one or more strings`);
  }
  return [
    {
      question: value.positive_ctxs === undefined ? question : question.replaceAll('’', "'"),
      answers,
      answerKind: answerKindOf(line) ?? 'string',
      ...(value.passage_id === undefined ? {} : { passageId: stringField(line, 'passage_id') }),
    },
  ];
}

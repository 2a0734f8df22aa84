import { UserError } from '../../system/errors.ts';
import {
  answerKindOf,
  type JsonLine,
  objectsField,
  questionId,
  stringField,
  stringsField,
} from '../jsonl.ts';
import type { Question } from '../types.ts';

/**
 * `{"question", "answer": [string, …]}`, the form of NQ-open and of ORQA's and DrQA's files, or with "answers" as in DPR,
 * FiD and Atlas. "passage_id" names the document that holds the answer; "answer_kind" may be "regex".
 * DPR's training files have "positive_ctxs" and "hard_negative_ctxs", passages of its `psgs_w100.tsv`: the first of the
 * positive ones is the document, as in DPR's own training. DPR replaces ’ by ' in their questions
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
  const passageId =
    value.passage_id === undefined ? passageIds(line, 'positive_ctxs')[0] : stringField(line, 'passage_id');
  const negativeIds = passageIds(line, 'hard_negative_ctxs').slice(0, NEGATIVES_KEPT);
  return [
    {
      question: value.positive_ctxs === undefined ? question : question.replaceAll('’', "'"),
      ...questionId(line),
      answers,
      answerKind: answerKindOf(line) ?? 'string',
      ...(passageId === undefined ? {} : { passageId }),
      ...(negativeIds.length === 0 ? {} : { negativeIds }),
    },
  ];
}

/** Negatives kept for a question, the best by BM25 first: all those of NQ would take hundreds of MiB. */
const NEGATIVES_KEPT = 20;

/** Ids of the passages in a list of DPR's; passages without an id are skipped. Files have one key or the other. */
function passageIds(line: JsonLine, key: string): string[] {
  if (line.value[key] === undefined) return [];
  return objectsField(line, key).flatMap(({ value: { passage_id, psg_id } }) => {
    const id = passage_id ?? psg_id;
    return typeof id === 'string' || typeof id === 'number' ? [String(id)] : [];
  });
}

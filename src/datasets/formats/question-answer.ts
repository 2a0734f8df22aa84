import { shown, UserError } from '../../system/errors.ts';
import {
  answerKindOf,
  type JsonLine,
  objectsField,
  questionId,
  stringField,
  stringsField,
} from '../jsonl.ts';
import type { Question } from '../types.ts';
import { parsePythonList } from './python-list.ts';

/** The names that published collections use: Tevatron and FlashRAG have the later ones, PopQA the last one of the answers. */
const QUESTION = ['question', 'query', 'question_text'];
const ANSWERS = ['answer', 'answers', 'golden_answers', 'possible_answers'];
const ID = ['id', 'question_id', 'query_id', 'qid', '_id', 'example_id'];

/**
 * `{"question", "answer": [string, …]}`, the form of NQ-open and of ORQA's and DrQA's files, or with "answers" as in DPR,
 * FiD and Atlas, or "golden_answers" as in FlashRAG. "passage_id" names the document that holds the answer; "answer_kind" may
 * be "regex".
 * DPR's training files have "positive_ctxs" and "hard_negative_ctxs", passages of its `psgs_w100.tsv`: the first of the
 * positive ones is the document, as in DPR's own training. DPR replaces ’ by ' in their questions
 * (facebookresearch/DPR, dpr/utils/data_utils.py, normalize_question, commit a31212d).
 * Tevatron's training files have the same as "positive_passages" and "negative_passages" (texttron/tevatron, README.md).
 * Rows of the Hugging Face Hub have answers in objects: SQuAD's `{"text": […], "answer_start": […]}` and TriviaQA's
 * `{"value", "aliases": […]}`. A question whose answers are null or none has an empty list.
 */
export function plainQuestion(line: JsonLine): Question {
  const { value } = line;
  const question = queryText(line);
  const answers = [...new Set(answersOf(line))];
  const passageId =
    (value.passage_id ?? null) === null
      ? (passageIds(line, 'positive_ctxs')[0] ?? passageIds(line, 'positive_passages')[0])
      : stringField(line, 'passage_id');
  const negativeIds = [
    ...passageIds(line, 'hard_negative_ctxs'),
    ...passageIds(line, 'negative_passages'),
  ].slice(0, NEGATIVES_KEPT);
  return {
    question: value.positive_ctxs === undefined ? question : question.replaceAll('’', "'"),
    ...queryId(line),
    answers,
    answerKind: answerKindOf(line) ?? 'string',
    ...(passageId === undefined ? {} : { passageId }),
    ...(negativeIds.length === 0 ? {} : { negativeIds }),
  };
}

/** Whether a question is under one of the usual keys. */
export const hasQueryText = ({ value }: JsonLine) => QUESTION.some((key) => typeof value[key] === 'string');

/** The text of a question under one of the usual keys. */
export function queryText(line: JsonLine): string {
  return stringField(line, QUESTION.find((key) => line.value[key] !== undefined) ?? QUESTION[0]);
}

/** The id of a question under one of the usual keys, if it has one. */
export function queryId(line: JsonLine): { id?: string } {
  return questionId(line, ID.find((key) => (line.value[key] ?? null) !== null) ?? ID[0]);
}

function answersOf(line: JsonLine): string[] {
  const { value, where } = line;
  const key = ANSWERS.find((key) => value[key] !== undefined);
  if (key === undefined) {
    // A passage for training stands for an answer; without either, a key is probably misspelt.
    if (value.positive_passages !== undefined) return [];
    throw new UserError(`${where}: "answer" must be a list of one or more strings`);
  }
  const found = value[key];
  if (found === null) return [];
  if (typeof found === 'string' && key === 'possible_answers') return parsePythonList(found) ?? [found];
  if (typeof found !== 'object') return stringsField(line, key);
  if (Array.isArray(found)) {
    const objects = found.length > 0 && found.every((item) => typeof item === 'object' && item !== null);
    return objects
      ? objectsField(line, key).map((answer) => stringField(answer, 'text'))
      : stringsField(line, key);
  }
  const answer = { value: found as Record<string, unknown>, where };
  if (answer.value.text !== undefined) return stringsField(answer, 'text');
  if (answer.value.value !== undefined) {
    const value = stringField(answer, 'value');
    // The test set on the Hub has this for every answer.
    return value === '<unk>' ? [] : [value, ...stringsField(answer, 'aliases')];
  }
  throw new UserError(
    `${where}: has "${key}" ${shown(found)}; "${key}" must be a list of strings, or an object with "text" or "value"`,
  );
}

/** Negatives kept for a question, the best by BM25 first: all those of NQ would take hundreds of MiB. */
const NEGATIVES_KEPT = 20;

/** Ids of the passages in a list of DPR's or Tevatron's; passages without an id are skipped. */
function passageIds(line: JsonLine, key: string): string[] {
  if ((line.value[key] ?? null) === null) return [];
  return objectsField(line, key).flatMap(({ value: { passage_id, psg_id, docid } }) => {
    const id = passage_id ?? psg_id ?? docid;
    return typeof id === 'string' || typeof id === 'number' ? [String(id)] : [];
  });
}

import { statSync } from 'node:fs';
import { UserError } from '../system/errors.ts';
import { say, warn } from '../system/progress.ts';
import { unpackedName } from './bytes.ts';
import { isArrow, isParquet, readColumnarObjects } from './formats/columnar.ts';
import { kiltQuestion } from './formats/kilt.ts';
import { isMrqaHeader, mrqaQuestions } from './formats/mrqa.ts';
import { isNaturalQuestion, naturalQuestion } from './formats/natural-questions.ts';
import { hasQueryText, plainQuestion, queryId, queryText } from './formats/question-answer.ts';
import { squadQuestions } from './formats/squad.ts';
import { readTableQueries, readTableQuestions } from './formats/table-questions.ts';
import { triviaQuestion } from './formats/triviaqa.ts';
import { webQuestion } from './formats/webquestions.ts';
import { readJsonElements } from './json-elements.ts';
import { type JsonLine, readJsonLines, stringField } from './jsonl.ts';
import type { AnswerKind, Question, ReadQuestion } from './types.ts';
import { refuseUnreadable } from './unreadable.ts';

/** Questions of a file, and how many were left out. */
export interface QuestionFile {
  questions: Question[];
  /** Left out because the file gives no answer for them (SQuAD 2.0, KILT, Natural Questions). */
  unanswerable: number;
  /** Left out because their answer is yes or no, which no document holds (Natural Questions). */
  yesNo: number;
  /** Answers that were dropped because they have no visible character. */
  blankAnswers: number;
}

/**
 * Reads a whole question set. `.csv` and `.tsv` are tables; `.json` is one list, of SQuAD, TriviaQA, WebQuestions or DPR;
 * Parquet and Arrow files, or a folder of them, have one in a row; anything else has one object per line. The keys of an object show its format.
 * @param kind what the answers are; `auto` decides by the file's name, by its lines, or by the look of the answers
 */
export async function readQuestions(path: string, kind: AnswerKind | 'auto' = 'auto'): Promise<Question[]> {
  const file = await readQuestionFile(path, kind);
  const left = leftOutQuestions(file);
  if (left !== undefined) warn(`${path}: ${left}`);
  if (file.questions.length === 0) {
    throw new UserError(
      `${path}: holds no question with an answer; expected {"question": …, "answer": […]} on every line`,
    );
  }
  return file.questions;
}

/** What was left out of a file of questions and why; undefined if nothing was. */
export function leftOutQuestions({
  questions,
  unanswerable,
  yesNo,
  blankAnswers,
}: QuestionFile): string | undefined {
  const all = questions.length + unanswerable + yesNo;
  const parts = [
    [unanswerable, `${unanswerable} without an answer`],
    [yesNo, `${yesNo} with a yes or no as the answer`],
    [blankAnswers, `${blankAnswers} answers without a visible character`],
  ] as const;
  const left = parts.filter(([n]) => n > 0).map(([, words]) => words);
  if (left.length === 0) return undefined;
  return `read ${all} questions, kept ${questions.length}, left out ${left.join(', ')}`;
}

/** Maximum characters of a file's questions and answers, ten times TriviaQA's: so a small `.gz` cannot fill the memory. */
const HELD_LIMIT = 128 << 20;
/** Characters that a question counts in addition to its texts, about what it takes in memory. */
const QUESTION_OVERHEAD = 64;

/** Neither a space nor a character that only controls others. */
const VISIBLE = /[^\s\p{C}]/u;

export async function readQuestionFile(
  path: string,
  kind: AnswerKind | 'auto' = 'auto',
): Promise<QuestionFile> {
  const questions: Question[] = [];
  const left = { unanswerable: 0, yesNo: 0, blankAnswers: 0 };
  let held = 0;
  for await (const { yesNo, ...question } of allQuestions(path)) {
    const visible = question.answers.filter((answer) => VISIBLE.test(answer));
    left.blankAnswers += question.answers.length - visible.length;
    question.answers = visible;
    if (visible.length === 0) {
      left[yesNo ? 'yesNo' : 'unanswerable']++;
      continue;
    }
    questions.push(question);
    held += QUESTION_OVERHEAD + question.question.length;
    for (const text of [...question.answers, ...(question.negativeIds ?? [])]) held += text.length;
    if (held > HELD_LIMIT) {
      throw new UserError(`${path}: holds more than ${HELD_LIMIT >> 20} MiB of questions; split it`);
    }
  }
  const all = kind === 'auto' ? guessKind(path, questions) : kind;
  if (all !== undefined) for (const question of questions) question.answerKind = all;
  return { questions, ...left };
}

async function* allQuestions(path: string): AsyncGenerator<ReadQuestion> {
  if (isTable(path)) {
    refuseUnreadable(path);
    yield* readTableQuestions(path);
    return;
  }
  let number = 0;
  for await (const line of readQuestionObjects(path)) yield* questionsOf(line, number++);
}

const isTable = (path: string) => /\.[ct]sv$/.test(unpackedName(path));

const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

/** The objects of a file of questions that is not a table, or of a folder of Parquet or Arrow files. */
async function* readQuestionObjects(path: string): AsyncGenerator<JsonLine> {
  if (isParquet(path) || isArrow(path) || isFolder(path)) {
    yield* readColumnarObjects(path);
    return;
  }
  refuseUnreadable(path);
  if (unpackedName(path).endsWith('.json')) yield* readJsonElements(path, 'a JSON file of questions');
  else {
    for await (const line of readJsonLines(path, 'a JSONL file of questions'))
      if (!isMrqaHeader(line)) yield line;
  }
}

/** @param number of the object in its file, from 0 */
function questionsOf(line: JsonLine, number: number): ReadQuestion[] {
  const has = (key: string) => line.value[key] !== undefined;
  if (has('paragraphs')) return squadQuestions(line, number);
  if (has('qas')) return mrqaQuestions(line, number);
  if (isNaturalQuestion(line)) return [naturalQuestion(line)];
  if (has('Question')) return [triviaQuestion(line)];
  if (has('targetValue')) return [webQuestion(line)];
  if (has('input')) return [kiltQuestion(line)];
  if (has('_id') && has('text') && !has('question'))
    throw new UserError(
      `${line.where}: is a query without answers, as BEIR has them; it can be evaluated with judgements ("realm eval recall --qrels"), but answers need {"question", "answer": […]}`,
    );
  return [plainQuestion(line)];
}

/** The text of a question, and its id if the file has one. */
export type Query = Pick<Question, 'id' | 'question'>;

/**
 * The questions of a file with or without answers, to search for them: BEIR's and MTEB's `{"_id", "text"}`, rows of id and
 * text as in MS MARCO's `queries.*.tsv`, tables with named columns, and every form that `readQuestions` reads.
 */
export async function* readQueries(path: string): AsyncGenerator<Query> {
  if (isTable(path)) {
    refuseUnreadable(path);
    yield* readTableQueries(path);
    return;
  }
  let number = 0;
  for await (const line of readQuestionObjects(path)) {
    if (hasQueryText(line)) yield { ...queryId(line), question: queryText(line) };
    else if (typeof line.value.text === 'string')
      yield { ...queryId(line), question: stringField(line, 'text') };
    else yield* questionsOf(line, number);
    number++;
  }
}

/** If more than this share of questions have answers that look like regular expressions, all answers count as such. */
const REGEX_SHARE = 0.2;

/**
 * What almost no plain answer contains: it is in 64 % of CuratedTREC's questions, and in 0.03 % of those of NQ-open,
 * WebQuestions and SQuAD (all in square brackets).
 */
const LOOKS_REGEX = /\\[swdbSWDB.?()[\]]|\.[*+]|\)\?|\w\?\w|\S\|\S|\(\?:|\[\w+\]/;

/**
 * The kind of all answers of a file that does not state it line by line: regular expressions if the file is CuratedTREC by
 * its name or looks like it. If regular expressions are read as strings, exact match is 5 % where it should be 30 %
 * (facebookresearch/DrQA, issues 56 and 146).
 */
function guessKind(path: string, questions: readonly Question[]): AnswerKind | undefined {
  if (questions.some((question) => question.answerKind === 'regex')) return undefined;
  if (/curated.?trec/i.test(path.replace(/.*\//, ''))) return 'regex';
  const alike = questions.filter(({ answers }) => answers.some((answer) => LOOKS_REGEX.test(answer))).length;
  if (alike <= REGEX_SHARE * questions.length) return undefined;
  say(
    `${path}: ${alike} of ${questions.length} questions have answers that look like regular expressions; all answers are used as such (data.answers: string uses them as text)`,
  );
  return 'regex';
}

import { UserError } from '../system/errors.ts';
import { say, warn } from '../system/progress.ts';
import { kiltQuestion } from './formats/kilt.ts';
import { plainQuestion } from './formats/question-answer.ts';
import { squadQuestions } from './formats/squad.ts';
import { readTableQuestions } from './formats/table-questions.ts';
import { triviaQuestion } from './formats/triviaqa.ts';
import { webQuestion } from './formats/webquestions.ts';
import { readJsonElements } from './json-elements.ts';
import { type JsonLine, readJsonLines } from './jsonl.ts';
import type { AnswerKind, Question } from './types.ts';
import { refuseUnreadable } from './unreadable.ts';

/** Questions of a file, and how many were left out because the file gives no answer for them (SQuAD 2.0, KILT). */
export interface QuestionFile {
  questions: Question[];
  unanswerable: number;
}

/**
 * Reads a whole question set. `.csv` and `.tsv` are tables; `.json` is one list, of SQuAD, TriviaQA, WebQuestions or DPR;
 * anything else has one object per line. The keys of an object show its format.
 * @param kind what the answers are; `auto` decides by the file's name, by its lines, or by the look of the answers
 */
export async function readQuestions(path: string, kind: AnswerKind | 'auto' = 'auto'): Promise<Question[]> {
  const { questions, unanswerable } = await readQuestionFile(path, kind);
  if (unanswerable > 0) warn(`${path}: ${unanswerable} questions without an answer are left out`);
  if (questions.length === 0) {
    throw new UserError(
      `${path}: holds no question with an answer; expected {"question": …, "answer": […]} on every line`,
    );
  }
  return questions;
}

/** Maximum characters of a file's questions and answers, ten times TriviaQA's: so a small `.gz` cannot fill the memory. */
const HELD_LIMIT = 128 << 20;
/** Characters that a question counts in addition to its texts, about what it takes in memory. */
const QUESTION_OVERHEAD = 64;

export async function readQuestionFile(
  path: string,
  kind: AnswerKind | 'auto' = 'auto',
): Promise<QuestionFile> {
  const questions: Question[] = [];
  let unanswerable = 0;
  let held = 0;
  for await (const question of allQuestions(path)) {
    if (question.answers.length === 0) {
      unanswerable++;
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
  return { questions, unanswerable };
}

async function* allQuestions(path: string): AsyncGenerator<Question> {
  refuseUnreadable(path);
  const name = path.replace(/\.(gz|zst|bz2)$/, '');
  let number = 0;
  if (/\.[ct]sv$/.test(name)) yield* readTableQuestions(path);
  else if (name.endsWith('.json')) {
    for await (const element of readJsonElements(path, 'a JSON file of questions'))
      yield* questionsOf(element, number++);
  } else {
    for await (const line of readJsonLines(path, 'a JSONL file of questions'))
      yield* questionsOf(line, number++);
  }
}

/** @param number of the object in its file, from 0 */
function questionsOf(line: JsonLine, number: number): Question[] {
  const has = (key: string) => line.value[key] !== undefined;
  if (has('paragraphs')) return squadQuestions(line, number);
  if (has('Question')) return triviaQuestion(line);
  if (has('targetValue')) return webQuestion(line);
  if (has('input')) return kiltQuestion(line);
  return plainQuestion(line);
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

import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { foldedHasAnswer, foldText, hasAnswer } from '../answers/has-answer.ts';
import type { Config } from '../config.ts';
import { splitSentences } from '../corpus/sentences.ts';
import { salientSpans } from '../corpus/spans/salient-spans.ts';
import type { DocumentFormat } from '../datasets/document-formats.ts';
import { formatOf, readDocuments } from '../datasets/documents.ts';
import { readQuestionFile } from '../datasets/questions.ts';
import type { Question } from '../datasets/types.ts';
import { BYTES_PER_WORD_PIECE, sampleStream } from '../preflight/corpus-statistics.ts';
import { UserError } from '../system/errors.ts';

/** What is in a file or folder of documents. */
export interface DocumentSurvey {
  path: string;
  format: DocumentFormat;
  documents: number;
  characters: number;
  words: number;
  /** Word pieces, estimated from the bytes. */
  tokens: number;
  /** True when only a part was read, and the numbers are estimates. */
  estimated: boolean;
  /** The texts that were read. */
  texts: string[];
}

/** Counts the documents of a path; only a few MiB of a large one are read. Throws a `UserError` for what `realm prepare` cannot read. */
export async function surveyDocuments(
  path: string,
  { format: given, fields }: Pick<Config['data'], 'format' | 'fields'>,
): Promise<DocumentSurvey> {
  if (path === '-')
    throw new UserError(
      '-: standard input can be read only once; save the documents to a file and pass its path',
    );
  if (!existsSync(path))
    throw new UserError(`${path}: no such file or folder; pass the path of your documents`);
  const format = given === 'auto' ? formatOf(path) : given;
  const { lines, scale } = await sampleStream(readDocuments(path, format, fields), path);
  const texts = lines.map(({ text }) => String(text));
  if (texts.every((text) => text.trim() === ''))
    throw new UserError(
      `${path}: holds no document with text; pass a file or folder of documents in a format that realm reads (docs/data.md)`,
    );
  let [characters, words, bytes] = [0, 0, 0];
  for (const text of texts) {
    characters += text.length;
    bytes += Buffer.byteLength(text);
    for (const _ of text.matchAll(/\S+/g)) words++;
  }
  return {
    path,
    format,
    documents: Math.round(texts.length * scale),
    characters: Math.round(characters * scale),
    words: Math.round(words * scale),
    tokens: Math.round((bytes / BYTES_PER_WORD_PIECE) * scale),
    estimated: scale !== 1,
    texts,
  };
}

/** Sentences in which a name or a date is looked for: text that has any has one much earlier. */
const SEARCHED_SENTENCES = 5000;

/** Whether the rules that `realm prepare` uses find anything to mask in the texts. */
export function hasSalientSpan(texts: readonly string[]): boolean {
  let searched = 0;
  for (const text of texts)
    for (const { start, end } of splitSentences(text)) {
      if (salientSpans(text.slice(start, end)).length > 0) return true;
      if (++searched === SEARCHED_SENTENCES) return false;
    }
  return false;
}

/** What a file of questions is for. */
export type Role = 'train' | 'dev' | 'test';

export interface QuestionSurvey {
  path: string;
  role: Role;
  questions: Question[];
  /** Left out, because they have no answer. */
  unanswerable: number;
}

/** Reads files of questions. A single file is for training; several must have their roles in their names. */
export async function surveyQuestions(paths: readonly string[]): Promise<QuestionSurvey[]> {
  const found: QuestionSurvey[] = [];
  for (const path of paths) {
    const role = paths.length === 1 ? 'train' : roleOf(path);
    const other = found.find((one) => one.role === role);
    if (other)
      throw new UserError(
        `${path}: has "${role}" in its name, and so has ${other.path}; pass at most one file each for train, dev and test`,
      );
    const { questions, unanswerable } = await readQuestionFile(path);
    if (questions.length === 0)
      throw new UserError(
        `${path}: holds no question with an answer; every line must be {"question": …, "answer": […]}`,
      );
    found.push({ path, role, questions, unanswerable });
  }
  if (found.length > 0 && !found.some(({ role }) => role === 'train'))
    throw new UserError(
      `${paths.join(', ')}: none of these names has "train" in it; add the file of training questions, named so`,
    );
  return found;
}

function roleOf(path: string): Role {
  const name = basename(path).toLowerCase();
  const roles = (['train', 'dev', 'test'] as const).filter((role) =>
    (role === 'dev' ? /dev|valid/ : new RegExp(role)).test(name),
  );
  if (roles.length === 1) return roles[0];
  throw new UserError(
    `${path}: its name does not say what the questions are for; rename the file so that its name contains exactly one of train, dev and test`,
  );
}

/** Evenly spaced questions whose answers are looked for in the documents. */
const SAMPLED_QUESTIONS = 200;

/** The share of questions with an answer in the texts, from a sample of the questions. */
export function answersFound(questions: readonly Question[], texts: readonly string[]): number {
  const step = Math.max(1, questions.length / SAMPLED_QUESTIONS);
  const some = Array.from(
    { length: Math.min(questions.length, SAMPLED_QUESTIONS) },
    (_, i) => questions[Math.floor(i * step)],
  );
  const folded = texts.map(foldText);
  const found = some.filter((question) =>
    question.answerKind === 'regex'
      ? texts.some((text) => hasAnswer(text, question))
      : folded.some((text) => foldedHasAnswer(text, question.answers)),
  );
  return found.length / Math.max(1, some.length);
}

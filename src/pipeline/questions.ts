import { resolve } from 'node:path';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { readQuestions } from '../datasets/questions.ts';
import type { Question } from '../datasets/types.ts';
import { type EncodedQuestion, encodeQuestions } from '../model/questions.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import type { Context } from './context.ts';
import { inputPath } from './inputs.ts';

/** All questions of data.dev; none if it names no file. */
export async function readDevQuestions({ run, config }: Context): Promise<Question[]> {
  if (config.data.dev === null) return [];
  return readQuestions(inputPath(run, config, 'data.dev'), config.data.answers);
}

/** The questions of data.train. Throws a `UserError` if it names no file. */
export async function readTrainQuestions({ run, config }: Context): Promise<Question[]> {
  return readQuestions(inputPath(run, config, 'data.train'), config.data.answers);
}

/** A sentence about the questions that are too long for the model; undefined if there are none. */
export function aboutLongQuestions(
  questions: readonly Pick<EncodedQuestion, 'ids'>[],
  { text }: Config,
): string | undefined {
  const room = text.questionTokens - 2; // [CLS] and [SEP]
  const long = questions.filter(({ ids }) => ids.length > room).length;
  if (long === 0) return undefined;
  return `${long} of ${questions.length} questions are longer than text.questionTokens (${text.questionTokens}); they are truncated`;
}

/** Tokenises questions, and prints how many of them are truncated. */
export function encodeAll(corpus: Corpus, questions: readonly Question[], config: Config): EncodedQuestion[] {
  const encoded = encodeQuestions(corpus, questions);
  const about = aboutLongQuestions(encoded, config);
  if (about) say(about);
  return encoded;
}

/** At most `n` of them, evenly spaced. */
export function spread<T>(all: readonly T[], n: number): T[] {
  const step = Math.max(1, all.length / n);
  return Array.from({ length: Math.min(n, all.length) }, (_, i) => all[Math.floor(i * step)]);
}

/** The file of an evaluation's questions: `file`, or else data.test, or else data.dev. */
export function questionFile({ run, config }: Context, file?: string): string {
  if (file !== undefined) return resolve(file);
  const { test, dev } = config.data;
  if (test === null && dev === null)
    throw new UserError(`${run.config}: data.test names no file; pass the questions with --questions FILE`);
  return inputPath(run, config, test === null ? 'data.dev' : 'data.test');
}

/** The questions that a run is evaluated on. */
export async function testQuestions(context: Context, corpus: Corpus): Promise<EncodedQuestion[]> {
  return encodeQuestions(corpus, await readQuestions(questionFile(context), context.config.data.answers));
}

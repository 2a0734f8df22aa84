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

/** All questions of data.dev; none where it names no file. */
export async function readDevQuestions({ run, config }: Context): Promise<Question[]> {
  if (config.data.dev === null) return [];
  return readQuestions(inputPath(run, config, 'data.dev'), config.data.answers);
}

/** The questions of data.train; a `UserError` where it names no file. */
export async function readTrainQuestions({ run, config }: Context): Promise<Question[]> {
  return readQuestions(inputPath(run, config, 'data.train'), config.data.answers);
}

/** The sentence about questions that are longer than the model reads them; undefined where none is. */
export function aboutLongQuestions(
  questions: readonly Pick<EncodedQuestion, 'ids'>[],
  { text }: Config,
): string | undefined {
  const room = text.questionTokens - 2; // [CLS] and [SEP]
  const long = questions.filter(({ ids }) => ids.length > room).length;
  if (long === 0) return undefined;
  return `${long} of ${questions.length} questions are longer than text.questionTokens (${text.questionTokens}); their ends are not read`;
}

/** Tokenises questions, and says how many of them are too long to be read whole. */
export function encodeAll(corpus: Corpus, questions: readonly Question[], config: Config): EncodedQuestion[] {
  const encoded = encodeQuestions(corpus, questions);
  const about = aboutLongQuestions(encoded, config);
  if (about) say(about);
  return encoded;
}

/** At most `n` of them, evenly spread. */
export function spread<T>(all: readonly T[], n: number): T[] {
  const step = Math.max(1, all.length / n);
  return Array.from({ length: Math.min(n, all.length) }, (_, i) => all[Math.floor(i * step)]);
}

/** Where the questions of an evaluation stand: data.test, else data.dev, where no file is given. */
export function questionFile({ run, config }: Context, file?: string): string {
  if (file !== undefined) return resolve(file);
  const { test, dev } = config.data;
  if (test === null && dev === null)
    throw new UserError(`${run.config}: data.test names no file; name the questions with --questions FILE`);
  return inputPath(run, config, test === null ? 'data.dev' : 'data.test');
}

/** The questions that a run is measured on. */
export async function testQuestions(context: Context, corpus: Corpus): Promise<EncodedQuestion[]> {
  return encodeQuestions(corpus, await readQuestions(questionFile(context), context.config.data.answers));
}

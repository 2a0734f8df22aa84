import { resolve } from 'node:path';
import { type Question, readQuestions } from '../corpus/qa.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { type EncodedQuestion, encodeQuestions } from '../train/qa.ts';
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

import { resolve } from 'node:path';
import { type Question, readQuestions } from '../corpus/qa.ts';
import type { Context } from './context.ts';

/** All questions of data.dev; none where it names no file. */
export async function readDevQuestions({ config }: Context): Promise<Question[]> {
  return config.data.dev === null ? [] : readQuestions(resolve(config.data.dev), config.data.answers);
}

/** At most `n` of them, evenly spread. */
export function spread<T>(all: readonly T[], n: number): T[] {
  const step = Math.max(1, all.length / n);
  return Array.from({ length: Math.min(n, all.length) }, (_, i) => all[Math.floor(i * step)]);
}

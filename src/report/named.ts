import { basename, resolve } from 'node:path';
import { type Look, look } from './look.ts';
import type { RunRecord } from './record.ts';

interface Name {
  /** Its folder's name, or the whole path if two folders have the same name. */
  name: string;
  look: Look;
}

/** A run with its name and look in the report. */
export type NamedRun = RunRecord & Name;

export function named<T extends { dir: string }>(runs: readonly T[]): (T & Name)[] {
  const names = runs.map(({ dir }) => basename(resolve(dir)) || dir);
  return runs.map((run, i) => ({
    ...run,
    name: names.filter((name) => name === names[i]).length > 1 ? run.dir : names[i],
    look: look(i),
  }));
}

export const STAGE_NAMES: Record<string, string> = {
  'ict-warmup': 'inverse cloze warm-up',
  'reader-warmup': 'reader warm-up',
  pretrain: 'pretraining',
  'finetune-qa': 'fine-tuning',
  'closed-book': 'closed book',
};

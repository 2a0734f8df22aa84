import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import { modelFolder } from '../hub/cache.ts';
import { isHubName } from '../hub/name.ts';
import type { Run } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';

/** The settings that name input files, and what each file contains. */
const INPUTS = {
  'data.documents': 'your documents (a file or a folder)',
  'data.sentences': 'the sentences to train on',
  'data.train': 'the training questions',
  'data.dev': 'the questions to develop with',
  'data.test': 'the test questions',
  'text.ner': 'the NER model (a folder)',
} as const;

/** The path that a setting names. Throws a `UserError` if it names none or the file does not exist. `-` is standard input. */
export function inputPath(run: Run, config: Config, setting: keyof typeof INPUTS): string {
  const [group, name] = setting.split('.');
  const path = (config[group as 'data'] as Record<string, unknown>)[name] as string | null;
  const remedy = `pass ${INPUTS[setting]} with --set ${setting}=PATH`;
  if (path === null) throw new UserError(`${run.config}: ${setting} names no file; ${remedy}`);
  if (setting === 'text.ner' && isHubName(path)) return modelFolder(path);
  if (path === '-' || existsSync(path)) return path;
  throw new UserError(
    `${path}: no such file, which ${setting} names (a path in a configuration file is relative to that file's folder); ${remedy}`,
  );
}

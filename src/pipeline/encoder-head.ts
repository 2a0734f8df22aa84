import type { Config } from '../config.ts';
import { cachedFolder } from '../hub/cache.ts';
import { isInUse, type Run, runConfig } from '../run/folder.ts';
import { HEAD_SETTINGS } from '../settings.ts';
import { readSentenceHead } from '../weights/sentence-encoder.ts';

/**
 * The settings of the head that come from `model.initial`, as `--set` writes them: those that are null, where it is a
 * folder of sentence-transformers. With `model.pooling` set, its head is left out as a whole.
 */
export function headSettings({ model }: Config): string[] {
  if (model.initial === null || model.pooling !== null) return [];
  const folder = cachedFolder(model.initial); // undefined: not fetched yet
  const head = folder === undefined ? undefined : readSentenceHead(folder);
  if (!head) return [];
  return HEAD_SETTINGS.flatMap((name) =>
    model[name] === null && head[name] != null ? [`model.${name}=${JSON.stringify(head[name])}`] : [],
  );
}

/** `set` with the settings of the head of a new run, which keeps them; a run that is in use has its own already. */
export function withEncoderHead(
  run: Run,
  options: { config?: string; set: readonly string[] },
): readonly string[] {
  if (isInUse(run)) return options.set;
  return [...options.set, ...headSettings(runConfig(run, options, () => {}, false))];
}

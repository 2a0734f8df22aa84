import type { Config } from '../config.ts';
import { isHubName } from '../hub/name.ts';
import { type Run, runConfig } from '../run/folder.ts';

/** The settings that may name a model on the Hub, and the purpose of that model. */
const MODELS = [
  ['model.initial', 'encoder', ({ model }: Config) => model.initial],
  ['model.initialReader', 'encoder', ({ model }: Config) => model.initialReader],
  ['text.ner', 'ner', ({ text }: Config) => text.ner],
] as const;

/**
 * Downloads the models that the settings of a command name on the Hub, before the run is changed.
 * @param check throws if the command cannot work with the settings; then nothing is downloaded
 * @returns `set` with the commit of each model: the run saves it, and later commands find the model in the cache by it
 */
export async function withHubModels(
  run: Run,
  { config: file, set }: { config?: string; set: readonly string[] },
  check: (config: Config) => void = () => {},
): Promise<string[]> {
  const config = runConfig(run, { config: file, set }, check, false);
  const pinned: string[] = [];
  for (const [setting, purpose, read] of MODELS) {
    const name = read(config);
    if (name === null || !isHubName(name)) continue;
    const { fetchModel } = await import('../hub/fetch.ts');
    pinned.push(`${setting}=${await fetchModel(name, purpose)}`);
  }
  return [...set, ...pinned];
}

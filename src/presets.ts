import { readdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { errorCode, UserError } from './system/errors.ts';

// The configurations that come with realm are in its own folder `configs`, wherever realm is installed and started.

const folder = fileURLToPath(new URL('../configs/', import.meta.url));
const END = '.yaml';

/** Names of the configurations that come with realm, such as `squad-open`. */
export function presets(): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(END))
    .map((name) => name.slice(0, -END.length))
    .sort();
}

/**
 * The file that `--config` means: the caller's own if it exists, else a preset by its name (`squad-open`,
 * `squad-open.yaml` or `configs/squad-open.yaml`). `UserError` if it is neither; the message lists the presets.
 */
export function configFile(given: string): string {
  if (isOwnFile(given)) return given;
  const name = /^(?:\.\/)?(?:configs\/)?([\w-]+)(?:\.yaml)?$/.exec(given)?.[1];
  if (name !== undefined && presets().includes(name)) return `${folder}${name}${END}`;
  throw new UserError(
    `${given}: no such configuration file; name your own file, or one that comes with realm: ${presets().join(', ')}`,
  );
}

/** A folder counts only if it does not have the name of a preset: if there is a folder `world`, `--config world` is the preset. */
function isOwnFile(given: string): boolean {
  try {
    return !statSync(given).isDirectory() || !presets().includes(given);
  } catch (error) {
    // Any other fault of the path is reported when it is read.
    return !['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '');
  }
}

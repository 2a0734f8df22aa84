import { existsSync } from 'node:fs';
import { closest } from 'fastest-levenshtein';
import { Document, stringify } from 'yaml';
import { type Config, loadConfig, RENAMED } from '../config.ts';
import { isHubName } from '../hub/name.ts';
import { runFolder } from '../run/folder.ts';
import { isSetting, type Section, type Setting, settingsReference } from '../settings.ts';
import { UserError } from '../system/errors.ts';

/** A setting of a run that differs from its default, or names a file. */
export interface RunSetting {
  name: string;
  value: unknown;
  default: unknown;
  /** Of a file or folder: whether it is there. */
  exists?: boolean;
}

/** All settings, or those of a name such as qa, qa.optimizer or qa.steps. */
export function describedSettings(name?: string): (Setting | Section)[] {
  const all = settingsReference();
  if (name === undefined) return all;
  const named = all.filter((entry) => entry.name === name || entry.name.startsWith(`${name}.`));
  if (named.length > 0) return named;
  const renamed = RENAMED.get(name);
  throw new UserError(
    renamed === undefined
      ? `config ${name}: no such setting; did you mean "${closest(
          name,
          all.map((entry) => entry.name),
        )}"?`
      : `${name} is now ${renamed}; use the new name`,
  );
}

/** Settings with their defaults as a settings file, with a comment above each: what it means, what it can be, its source. */
export function settingLines(entries: readonly (Setting | Section)[]): string[] {
  const lines: string[] = [];
  const written = new Set<string>();
  const write = (name: string, value: string, comments: readonly string[]) => {
    const keys = name.split('.');
    // The groups above a setting that is asked for alone.
    keys.slice(0, -1).forEach((key, depth) => {
      const group = keys.slice(0, depth + 1).join('.');
      if (!written.has(group)) lines.push(`${'  '.repeat(depth)}${key}:`);
      written.add(group);
    });
    const indent = '  '.repeat(keys.length - 1);
    lines.push(...comments.map((comment) => `${indent}# ${comment}`), `${indent}${keys.at(-1)}:${value}`);
    written.add(name);
  };
  for (const entry of entries) {
    if (!entry.name.includes('.') && lines.length > 0) lines.push('');
    if (!isSetting(entry)) {
      write(entry.name, '', [entry.description]);
      continue;
    }
    const { unit, values, source } = entry;
    const facts = [`${values}${unit === undefined || unit === 'path' ? '' : `; ${unit}`}`];
    write(entry.name, ` ${new Document(entry.default).toString().trim()}`, [
      entry.description,
      source === undefined ? facts[0] : `${facts[0]}; source: ${source}`,
    ]);
  }
  return lines;
}

/** The settings of a run that differ from the defaults, and all files and folders that it names. */
export function runSettings(dir: string): RunSetting[] {
  const { config: file } = runFolder(dir);
  if (!existsSync(file))
    throw new UserError(`${file}: no such file; name the folder of a run that has settings, with --run`);
  const config = loadConfig(file, []);
  return settingsReference()
    .filter(isSetting)
    .map(({ name, default: byDefault, unit }) => {
      const value = valueAt(config, name);
      const isFile = unit === 'path' && typeof value === 'string' && value !== '-' && !isHubName(value);
      return { name, value, default: byDefault, ...(isFile && { exists: existsSync(value) }) };
    })
    .filter((setting) => setting.value !== setting.default);
}

function valueAt(config: Config, name: string): unknown {
  return name.split('.').reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
}

export function runSettingLines(settings: readonly RunSetting[]): string[] {
  if (settings.length === 0) return ['every setting has its default'];
  const width = Math.max(...settings.map(({ name }) => name.length));
  return settings.map(({ name, value, default: byDefault, exists }) => {
    const remark =
      exists === false ? '(missing)' : byDefault === null ? '' : `(default ${shownValue(byDefault)})`;
    return `${name.padEnd(width)}  ${shownValue(value)} ${remark}`.trimEnd();
  });
}

function shownValue(value: unknown): string {
  return stringify(value).trim();
}

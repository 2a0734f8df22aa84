import { realpathSync } from 'node:fs';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { closest } from 'fastest-levenshtein';
import { parse, stringify } from 'yaml';
import type { z } from 'zod';
import { isHubName } from './hub/name.ts';
import { configFile } from './presets.ts';
import { PATHS, type Config as Settings, schema } from './settings.ts';
import { shown, UserError } from './system/errors.ts';
import { makeFolder, readText, writeFileAtomic } from './system/files.ts';
import { withoutPassword } from './system/passwords.ts';

/** All settings of a run, checked and complete. */
export type Config = Settings;

/** Settings that had another name before: the old name, and the one to use. */
export const RENAMED: ReadonlyMap<string, string> = new Map([
  ['text.packing', 'text.splitting'],
  ['ict.chunk', 'ict.microBatch'],
  ['index.scalar', 'index.dtype'],
  ['index.shards', 'index.subIndexes'],
  ['index.connectivity', 'index.m'],
  ['index.expansionAdd', 'index.efConstruction'],
  ['index.expansionSearch', 'index.efSearch'],
  ['refresh.niceness', 'refresh.nice'],
]);

/** Applies `map` to every path in settings, or in the part of them that has the name `name`. */
function mapPaths(settings: unknown, map: (path: string) => string, name = ''): unknown {
  if (typeof settings === 'string') return PATHS.has(name) ? map(settings) : settings;
  if (!isGroup(settings)) return settings;
  return Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [
      key,
      mapPaths(value, map, name === '' ? key : `${name}.${key}`),
    ]),
  );
}

/** `settings` without those that are paths: runs on the same data in other folders agree in them. */
export function withoutPaths(settings: Record<string, unknown>, name = ''): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(settings).flatMap(([key, value]) => {
      const inner = name === '' ? key : `${name}.${key}`;
      if (PATHS.has(inner)) return [];
      return [[key, isGroup(value) ? withoutPaths(value, inner) : value]];
    }),
  );
}

/** True of a group of settings. */
export function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The folder of the package, and the prefix of a path in it: such a path works wherever realm is installed. */
const PACKAGE = fileURLToPath(new URL('../', import.meta.url));
const PACKAGED = 'realm:';

/** True of standard input and of a model on the Hugging Face Hub (hf:owner/name): they are not files of this machine. */
const isNoFile = (path: string) => path === '-' || isHubName(path);

/** Makes a path absolute: it is relative to `folder`, or to the package if it starts with `realm:`. */
function absolutePath(path: string, folder: string): string {
  if (isNoFile(path)) return path;
  if (path.startsWith(PACKAGED)) return join(PACKAGE, path.slice(PACKAGED.length));
  return resolve(folder, path);
}

/**
 * How an absolute path is written into a configuration file in `folder`: relative to it, so that both can be moved together.
 * It stays absolute where the two have no folder in common but the root.
 */
export function portablePath(path: string, folder: string): string {
  if (isNoFile(path)) return path;
  const slashes = (text: string) => text.split(sep).join('/');
  if (path.startsWith(join(PACKAGE, 'assets', sep))) return PACKAGED + slashes(relative(PACKAGE, path));
  const near = relative(folder, path);
  const top = resolve(folder).split(sep)[1];
  return isAbsolute(near) || path.split(sep)[1] !== top ? path : slashes(near);
}

/** The folder that a configuration file is in. A link on the way to it changes nothing about what its paths mean. */
export function folderOf(file: string): string {
  return realpathSync(dirname(file));
}

/** A settings file as it is written, its paths absolute. */
interface Layer {
  file: string;
  tree: Record<string, unknown>;
}

/**
 * The configuration of a file or preset (or the defaults) with `--set path.to.key=value` overrides, checked. Its paths are
 * absolute: those in the file are relative to the file's folder, those of `--set` to the current folder.
 */
export function loadConfig(given?: string, overrides: readonly string[] = []): Config {
  const layers = given === undefined ? [] : readLayers(configFile(given));
  const tree = layers.reduceRight((below, { tree }) => merged(below, tree), {});
  for (const override of overrides) setByPath(tree, override);
  return check(tree, layers, overrides);
}

/**
 * A settings file, and after it the file that it extends with `extends: other.yaml` (relative to its own folder). One level
 * only: a reader looks at two files at most, and files cannot extend each other in a circle.
 */
function readLayers(file: string): Layer[] {
  const { extends: base, ...tree } = readYaml(file, 'name one with --config, such as squad-open');
  if (base === undefined) return [{ file, tree }];
  if (typeof base !== 'string')
    throw new UserError(`${file}: extends: expected the name of a settings file, got ${shown(base)}`);
  const below = absolutePath(base, folderOf(file));
  const settings = readYaml(below, `correct extends in ${file}`);
  if (Object.hasOwn(settings, 'extends'))
    throw new UserError(
      `${file}: extends ${base}, which extends another file; only one level is possible, so copy its settings into one of the files`,
    );
  return [
    { file, tree },
    { file: below, tree: settings },
  ];
}

/** The settings of `above`, and those of `below` that `above` does not name. */
function merged(below: Record<string, unknown>, above: Record<string, unknown>): Record<string, unknown> {
  const result = { ...below };
  for (const [key, value] of Object.entries(above)) {
    const base = Object.hasOwn(below, key) ? below[key] : undefined;
    setOwn(result, key, isGroup(base) && isGroup(value) ? merged(base, value) : value);
  }
  return result;
}

/** Writes a run's configuration file, with the paths that `portablePath` gives. */
export function saveConfig(path: string, config: Config): void {
  makeFolder(dirname(path));
  const folder = folderOf(path);
  const saved = mapPaths(config, (path) => portablePath(path, folder));
  writeFileAtomic(
    path,
    `# The settings of this run; later commands read them here. Paths are relative to this file's folder.\n${stringify(saved)}`,
  );
}

/** Bytes of a configuration file, thirty times what all settings take: the parser needs a KiB for a byte of the worst. */
const SETTINGS_LIMIT = 64 << 10;
/** Levels of a configuration file; the settings have three. */
const DEEPEST = 20;

/** @param remedy what to do where the file is missing */
function readYaml(path: string, remedy: string): Record<string, unknown> {
  const text = readText(path, 'configuration file', remedy, SETTINGS_LIMIT);
  let tree: unknown;
  try {
    tree = parse(text, { maxAliasCount: 0, logLevel: 'error' }) ?? {};
  } catch (error) {
    // The first line ends with a colon, because the next lines show the position.
    const why = (error as Error).message.split('\n')[0].replace(/:$/, '');
    // The parser is recursive, and reports a stack overflow like any other mistake.
    throw new UserError(
      `${path}: not valid YAML: ${/call stack/.test(why) ? 'it is nested too deep' : why}; correct the file`,
    );
  }
  if (deeperThan(tree, DEEPEST))
    throw new UserError(`${path}: is nested deeper than any setting; correct the file`);
  if (typeof tree !== 'object' || Array.isArray(tree))
    throw new UserError(`${path}: expected settings as "name: value" lines`);
  const folder = folderOf(path);
  return mapPaths(tree, (path) => absolutePath(path, folder)) as Record<string, unknown>;
}

function deeperThan(tree: unknown, levels: number): boolean {
  if (typeof tree !== 'object' || tree === null) return false;
  return levels === 0 || Object.values(tree).some((value) => deeperThan(value, levels - 1));
}

/**
 * Sets `a.b.c=value` in a tree; the value is read as YAML, so 3, 1e-4, true, null and text come out as such, but for a lone
 * - (standard input), which would be a list.
 */
function setByPath(tree: Record<string, unknown>, override: string): void {
  const at = override.indexOf('=');
  if (at < 1) throw new UserError(`--set ${override}: expected path.to.key=value`);
  const keys = override.slice(0, at).split('.');
  let value: unknown;
  try {
    const text = override.slice(at + 1);
    value = text === '-' ? text : parse(text);
    value = mapPaths(value, (path) => absolutePath(path, process.cwd()), keys.join('.'));
  } catch {
    throw new UserError(`--set ${override}: the value is not valid YAML; put it in quotes`);
  }
  let node = tree;
  for (const key of keys.slice(0, -1)) {
    const held = Object.hasOwn(node, key) ? node[key] : undefined;
    if (typeof held !== 'object' || held === null) setOwn(node, key, {});
    node = node[key] as Record<string, unknown>;
  }
  setOwn(node, keys[keys.length - 1], value);
}

/** Sets a property of the object itself: the key `__proto__` must not reach what all objects share. */
function setOwn(node: object, key: string, value: unknown): void {
  Object.defineProperty(node, key, { value, enumerable: true, writable: true, configurable: true });
}

/** Checks a tree against the schema and fills in defaults; every complaint names the setting, and what set it. */
function check(tree: unknown, layers: readonly Layer[], overrides: readonly string[]): Config {
  const set = overrides.map((override) => override.slice(0, override.indexOf('=')));
  /** Where a setting comes from: the last `--set` of it or of its group, else the first file that has it. */
  const source = (name: string) => {
    if (layers.length === 0 || set.some((key) => `${name}.`.startsWith(`${key}.`))) return '--set ';
    const { file } = layers.find(({ tree }) => has(tree, name.split('.'))) ?? layers[0];
    return `${file}: `;
  };
  const result = schema.safeParse(tree);
  if (!result.success) {
    const complaints = result.error.issues.flatMap((issue) => complaintsOf(issue, tree));
    // The source is repeated only where it changes.
    const sources = complaints.map(([name]) => source(name));
    throw new UserError(
      complaints.map(([, what], i) => `${sources[i] === sources[i - 1] ? '' : sources[i]}${what}`).join('; '),
    );
  }
  const misfits = contradictions(result.data);
  if (misfits.length > 0) throw new UserError(`${layers[0]?.file ?? '--set'}: ${misfits.join('; ')}`);
  return result.data;
}

/** Whether settings have a value at a path of keys. */
function has(tree: unknown, [key, ...rest]: readonly string[]): boolean {
  if (key === undefined) return true;
  return isGroup(tree) && Object.hasOwn(tree, key) && has(tree[key], rest);
}

/** Names of the settings that an issue is about, each with the complaint about it. */
function complaintsOf(issue: z.core.$ZodIssue, tree: unknown): [string, string][] {
  if (issue.code === 'unrecognized_keys') {
    const known = Object.keys(keysAt(issue.path));
    return issue.keys.map((key) => {
      const name = [...issue.path, key].join('.');
      const renamed = RENAMED.get(name);
      if (renamed !== undefined) return [name, `${name} is now ${renamed}; use the new name`];
      const meant = [...issue.path, closest(key, known)].join('.');
      return [name, `unknown setting "${name}"; did you mean "${meant}"?`];
    });
  }
  const name = issue.path.join('.');
  const value = issue.path.reduce<unknown>(
    (node, key) => (node as Record<PropertyKey, unknown>)?.[key],
    tree,
  );
  const got = shown(typeof value === 'string' ? withoutPassword(value) : value);
  const what = issue.message.replace(/^Invalid (input|option): /, '').replace(/, received \w+$/, '');
  return [[name, `${name || 'the file'}: ${what}, got ${got}`]];
}

/** Settings that are valid alone and contradict each other: one message for each contradiction. */
function contradictions(config: Config): string[] {
  const { model, text, qa, pretrain, hybrid } = config;
  const found: string[] = [];
  if (model.hidden % model.heads !== 0)
    found.push(`model.hidden (${model.hidden}) must be a multiple of model.heads (${model.heads})`);
  found.push(...widthMisfits(model));
  if (qa.readerTokens <= text.questionTokens + 1)
    found.push(
      `qa.readerTokens (${qa.readerTokens}) leaves no room for a block behind a question of text.questionTokens (${text.questionTokens}); raise it`,
    );
  if (qa.contrastive > 0 && qa.refreshEvery === null)
    found.push(
      'qa.contrastive trains the document tower, so the index must follow it; set qa.refreshEvery too, such as 100 (with refresh.mode off a new index is built only at the end)',
    );
  if (qa.contrastive === 0 && qa.weakSupervision !== 1)
    found.push(
      'qa.weakSupervision is the weight of losses beside qa.contrastive, which is 0; set that too, such as to 1',
    );
  if (qa.contrastive === 0 && qa.minedNegatives > 0)
    found.push('qa.minedNegatives are negatives of qa.contrastive, which is 0; set that too, such as to 1');
  if (qa.contrastive === 0 && qa.readQuestions !== null)
    found.push(
      'qa.readQuestions leaves questions to qa.contrastive alone, which is 0; set that too, such as to 1',
    );
  if (pretrain.hybrid && hybrid.weight === null)
    found.push('pretrain.hybrid needs the weight of hybrid retrieval; set hybrid.weight too, such as to 0.5');
  const tooLong = tooLongFor(config, model.positions);
  if (tooLong.length > 0)
    found.push(`model.positions is ${model.positions}, too few for these sequences: ${tooLong.join('; ')}`);
  return found;
}

/** What is wrong with model.width; a head that is still to be read from model.initial is checked when it is known. */
function widthMisfits({ width, pooling, initial, dense, hidden, projection }: Config['model']): string[] {
  if (width === null) return [];
  if (typeof projection === 'number')
    return [
      `model.width (${width}) and model.projection (${projection}) both set the length of the vectors; set one of them to null`,
    ];
  if (pooling === 'pooler' || (pooling === null && initial === null))
    return [
      'model.width needs model.pooling cls or mean, or a sentence encoder as model.initial; set one of them, or model.width to null',
    ];
  const own = dense?.at(-1)?.size ?? hidden;
  return pooling === null || width < own
    ? []
    : [
        `model.width is ${width}, and vectors have ${own} numbers without it; lower it to ${own - 1} or less, or set it to null`,
      ];
}

/** The settings that make sequences longer than `positions` tokens, each with the largest value that fits. */
export function tooLongFor({ text, model, qa }: Config, positions: number): string[] {
  const sum = (a: [string, number], b: [string, number], least: number) => {
    const [[first, x], [second, y]] = [a, b];
    if (x + y <= positions) return [];
    const room = positions - x;
    return [
      `${first} (${x}) + ${second} (${y}) are ${x + y} tokens; ${
        room >= least
          ? `lower ${second} to ${room} or less, or lower both`
          : `lower both, to ${positions} together`
      }`,
    ];
  };
  return [
    // Pretraining joins a sentence and a block, whose own special tokens and title are not counted.
    ...sum(['text.sentenceTokens', text.sentenceTokens], ['text.blockTokens', text.blockTokens], 16),
    ...(qa.readerTokens > positions
      ? [`qa.readerTokens is ${qa.readerTokens}; lower it to ${positions} or less`]
      : []),
    // The closed-book baseline puts the masks of an answer behind the question.
    ...sum(['model.maxSpanWidth', model.maxSpanWidth], ['text.questionTokens', text.questionTokens], 8),
  ];
}

/** The defaults at a path of the tree: its keys are the settings that exist there. */
function keysAt(path: readonly PropertyKey[]): object {
  return path.reduce<unknown>(
    (node, key) => (node as Record<PropertyKey, unknown>)[key],
    schema.parse({}),
  ) as object;
}

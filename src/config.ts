import { realpathSync } from 'node:fs';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { closest } from 'fastest-levenshtein';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { DOCUMENT_FORMATS } from './datasets/document-formats.ts';
import { isHubName } from './hub/name.ts';
import { configFile } from './presets.ts';
import { isSchedule, SCHEDULE_FORM } from './schedule.ts';
import { shown, UserError } from './system/errors.ts';
import { makeFolder, readText, writeFileAtomic } from './system/files.ts';

// Defaults are the paper's and the released code's own numbers where they exist; configuration files hold differences.

/** No number of things may be beyond any use: a slip of the pen would ask for all memory. */
const count = (value: number, least = 1, most = 1e9) => z.int().min(least).max(most).default(value);
/**
 * A setting that names a file or folder; null: none. Every such setting is declared with this very schema, by which
 * `PATHS` finds it. A NUL character would end a path early, and Node throws.
 */
const path = z
  .string()
  .refine((text) => !text.includes('\0'), { error: 'a path cannot hold a NUL character' })
  .nullable()
  .default(null);
const field = z
  .union([z.string().min(1), z.int().min(1)])
  .nullable()
  .default(null);
const share = (value: number) => z.number().min(0).max(1).default(value);

/** Steps between two, or a schedule such as 0-1000:500,1000-:2000. */
const schedule = z.union([z.int().min(1), z.string().refine(isSchedule, { error: SCHEDULE_FORM })]);

const optimizer = (learningRate: number) =>
  section({
    /** Highest learning rate. */
    learningRate: z.number().positive().default(learningRate),
    /** Steps of linear warm-up; null: min(10000, max(100, steps / 10)), the released code's rule. */
    warmupSteps: z.int().min(0).nullable().default(null),
    weightDecay: z.number().min(0).default(0.01),
    beta1: share(0.9),
    beta2: share(0.999),
    epsilon: z.number().positive().default(1e-6),
    /** Gradients are scaled down to this global norm. */
    clipNorm: z.number().positive().default(1),
  });

/** A group of settings in which every one has a default. */
function section<T extends z.ZodRawShape>(shape: T) {
  return z.strictObject(shape).prefault({} as never);
}

const schema = section({
  /** Seed of everything random in a run. */
  seed: z.int().min(0).default(1),
  data: section({
    /** Z: a file or folder of documents, plain, .gz or .zst; - is standard input. */
    documents: path,
    /** What `documents` is; auto: by the look of its names. */
    format: z.enum(['auto', ...DOCUMENT_FORMATS]).default('auto'),
    /** The key (or name or number of a column) of a document's id, title and text; null: one of the usual names. */
    fields: section({ id: field, title: field, text: field }),
    /** Leave out lists, indexes, outlines and disambiguation pages by their titles, as ORQA and DPR do. */
    articlesOnly: z.boolean().default(false),
    /** X: sentences with or without ready-made spans; null: the sentences of Z. */
    sentences: path,
    /** Questions with their answers. */
    train: path,
    dev: path,
    test: path,
    /** What the answers are; auto: regular expressions where it is CuratedTREC by its name or looks like it. */
    answers: z.enum(['auto', 'string', 'regex']).default('auto'),
  }),
  /** The generated world of the demo. */
  world: section({
    /** Documents, one for each person, town, firm and book. */
    documents: z.int().min(20).default(1500),
    /** Share of the facts that only test questions ask. */
    heldOut: share(0.15),
  }),
  text: section({
    /** A vocab.txt; null: the one beside `model.initial`, or else one trained on the documents. */
    vocabulary: path,
    /** Word pieces of a vocabulary trained here. */
    vocabularySize: count(30522),
    lowercase: z.boolean().default(true),
    /**
     * A folder with a NER model of Hugging Face exported to ONNX, or one on the Hub (hf:owner/name), which finds the names
     * to mask; null: rules do.
     */
    ner: path,
    /** How a document is cut into blocks: whole sentences (orqa), 100 words (dpr), or not at all. */
    splitting: z.enum(['sentences', 'dpr', 'as-is']).default('sentences'),
    /** Tokens of a block with its title and special tokens. */
    blockTokens: count(288, 16),
    /** Tokens of a masked sentence with its special tokens (realm), the longest X. */
    sentenceTokens: count(96, 8),
    /** Tokens of a question or ICT query with its special tokens (orqa). */
    questionTokens: count(64, 8),
  }),
  model: section({
    layers: count(12, 1, 1000),
    hidden: count(768, 1, 1e6),
    heads: count(12, 1, 1e6),
    intermediate: count(3072, 1, 1e6),
    /** Keep less for the gradients and compute it again: a third more time, a fraction of the memory. */
    recompute: z.boolean().default(false),
    /** Longest sequence the encoder can take. */
    positions: count(512),
    gelu: z.enum(['exact', 'tanh']).default('tanh'),
    dropout: z.number().min(0).max(0.9).default(0.1),
    layerNormEps: z.number().positive().default(1e-12),
    /** Length of a retrieval vector. */
    projection: count(128),
    projectionLayerNormEps: z.number().positive().default(1e-3),
    /** One tower for queries and documents, as released; false: two, as the paper counts. */
    sharedTowers: z.boolean().default(true),
    /** Retrieval scores are divided by this before the softmax; the paper has none (1). */
    temperature: z.number().positive().default(1),
    spanHidden: count(256),
    /** Widest answer, word pieces. */
    maxSpanWidth: count(10),
    spanLayerNormEps: z.number().positive().default(1e-3),
    /**
     * A folder to start from, a BERT's or a REALM's of Hugging Face or Google, with its vocab.txt, or such a model on the
     * Hub as hf:owner/name or hf:owner/name@revision; null: random weights.
     */
    initial: path,
    /** Another such folder or model for the reader; null: `initial`. */
    initialReader: path,
  }),
  ict: section({
    steps: count(100_000),
    batch: count(4096),
    /** Sequences embedded at once; a larger batch is embedded in chunks with exactly the same gradients. */
    microBatch: count(64),
    /** Chance that the query sentence stays in its block. */
    keepSentence: share(0.1),
    optimizer: optimizer(1e-4),
  }),
  index: section({
    /** graph: an HNSW graph, fast and nearly right; exact: every block is looked at, and no graph is built. */
    kind: z.enum(['graph', 'exact']).default('graph'),
    /** Graphs that share the blocks: building takes the memory of one, a search the time of all. */
    subIndexes: count(1, 1, 1000),
    /** What a graph keeps; auto: f32 up to a million blocks, f16 beyond. */
    dtype: z.enum(['auto', 'f32', 'f16']).default('auto'),
    m: count(16),
    efConstruction: count(128),
    efSearch: count(128),
    /** Tokens embedded in one call while building. */
    tokensPerBatch: count(8192),
    /** Processor threads of building; more than 1 makes the graph differ from run to run. */
    threads: count(1),
  }),
  pretrain: section({
    steps: count(200_000),
    batch: count(512),
    /** Examples in one forward and backward pass; the gradients of a batch are summed over passes. */
    microBatch: count(16),
    /** K, the null document counted. */
    candidates: count(8),
    /** Most masked word pieces of an example. */
    maxMasks: count(10),
    /**
     * What is masked of a sentence: a salient span, or, to compare, 15 % of its word pieces, one by one (tokens) or in
     * spans of whole words (spans).
     */
    masking: z.enum(['salient', 'tokens', 'spans']).default('salient'),
    /** Whether the null document is among the candidates. */
    nullDocument: z.boolean().default(true),
    /** Whether the block that a sentence stands in is kept from its candidates. */
    dropTrivial: z.boolean().default(true),
    marginalize: z.enum(['span', 'token']).default('span'),
    /** A retrieved block that shares this share of the sentence's word-piece 5-grams is its trivial source. */
    trivialOverlap: share(0.8),
    optimizer: optimizer(3e-5),
  }),
  refresh: section({
    /** Steps between two snapshots handed to the refresher, or a schedule such as 0-1000:500,1000-:2000. */
    every: schedule.default(500),
    /** async: the child works while training goes on; sync: training waits; off: the first index stays. */
    mode: z.enum(['async', 'sync', 'off']).default('async'),
    /** A refresh is due and the last one still in work: training goes on with the old index, or waits for it. */
    onLate: z.enum(['continue', 'wait']).default('continue'),
    /** The child has died `maxFailures` times in a row: train on with the index at hand, or stop. */
    onFailure: z.enum(['continue', 'stop']).default('continue'),
    maxFailures: count(5),
    /** What the child computes on; null: the trainer's engine. */
    engine: z.enum(['tensorflow', 'webgpu', 'wasm', 'cpu']).nullable().default(null),
    /** Processor threads of the child; 0: all. */
    threads: z.int().min(0).default(0),
    /** Niceness of the child process. */
    nice: z.int().min(0).max(19).default(5),
    /** Indexes kept on disk. */
    keepIndexes: count(2),
  }),
  qa: section({
    /** Stage whose retriever fine-tuning begins with; one that was not pretrained has the inverse cloze task's. */
    retriever: z.enum(['pretrain', 'ict']).default('pretrain'),
    /** Where its reader comes from: pretraining, or the weights of `model.initial` as pretraining begins with them. */
    reader: z.enum(['pretrain', 'initial']).default('pretrain'),
    steps: count(300_000),
    batch: count(1),
    /** Questions in one forward and backward pass; the gradients of a batch are summed over passes. */
    microBatch: count(16),
    /** Blocks in the retriever's loss. */
    retrieverBlocks: count(5000),
    /** Blocks the reader reads. */
    readerBlocks: count(5),
    /** Train too with the blocks of a question's own document ("passage_id") that hold an answer; not so in ORQA. */
    gold: z.boolean().default(false),
    /** Blocks without an answer that the retriever's loss has besides, DPR's where its questions name them, else BM25's best; not so in ORQA. */
    hardNegatives: count(0, 0, 1000),
    /**
     * Train the document tower too, and refresh the index every so many steps (or by a schedule) as the other settings of
     * `refresh` have it; null: both stay as they are, as in ORQA and REALM.
     */
    refreshEvery: schedule.nullable().default(null),
    /** Tokens of question and block together (orqa: 288 + 32). */
    readerTokens: count(320),
    /** Questions of data.dev answered at each checkpoint, by which the best one is told; 0: none. */
    devQuestions: count(200, 0),
    optimizer: optimizer(1e-5),
  }),
  /** The baseline that answers with the null document alone. */
  closedBook: section({
    steps: count(20_000),
    batch: count(32),
    optimizer: optimizer(1e-5),
  }),
  train: section({
    /** Steps between two metric lines. */
    logEvery: count(10),
    /** Steps between two checkpoints. */
    saveEvery: count(500),
    /** Checkpoints of a stage kept on disk; the best one stays besides. */
    keep: count(2),
    /** The checkpoint of a stage that later stages and evaluations take; a stage itself always goes on from its latest. */
    use: z.enum(['latest', 'best']).default('latest'),
    /** Steps skipped for a loss that is not finite or explodes, after which a stage stops; counted from its last good checkpoint on. */
    maxSkipped: count(10),
  }),
});

export type Config = z.infer<typeof schema>;

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

/** Names of the settings that are paths, such as data.documents. */
const PATHS: ReadonlySet<string> = new Set(pathsIn(schema));

function pathsIn(node: z.ZodType, name = ''): string[] {
  if (node === path) return [name];
  if (!(node instanceof z.ZodPrefault)) return [];
  const { shape } = node.unwrap() as z.ZodObject;
  return Object.entries(shape).flatMap(([key, inner]) =>
    pathsIn(inner as z.ZodType, name === '' ? key : `${name}.${key}`),
  );
}

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

/** realm's own folder, and how a file in it is written: a run then works with realm installed anywhere. */
const PACKAGE = fileURLToPath(new URL('../', import.meta.url));
const PACKAGED = 'realm:';

/** Standard input, and a model on the Hugging Face Hub (hf:owner/name): no files of this machine. */
const isNoFile = (path: string) => path === '-' || isHubName(path);

/** The absolute path of one that is relative to `folder`; a `realm:` one is inside realm's own folder. */
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
export function loadConfig(given: string | undefined, overrides: readonly string[]): Config {
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

/** Writes a run's configuration file, its paths as `portablePath` has them. */
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
    // The first line ends with a colon, since the lines after it show the place.
    const why = (error as Error).message.split('\n')[0].replace(/:$/, '');
    // The parser calls itself for each level, and reports the stack's end as any other mistake.
    throw new UserError(
      `${path}: not valid YAML: ${/call stack/.test(why) ? 'it is nested too deep' : why}; correct the file`,
    );
  }
  if (deeperThan(tree, DEEPEST)) throw new UserError(`${path}: is nested deeper than any setting`);
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
  const got = shown(
    issue.path.reduce<unknown>((node, key) => (node as Record<PropertyKey, unknown>)?.[key], tree),
  );
  const what = issue.message.replace(/^Invalid (input|option): /, '').replace(/, received \w+$/, '');
  return [[name, `${name || 'the file'}: ${what}, got ${got}`]];
}

/** Settings that are right alone and wrong together, in words. */
function contradictions(config: Config): string[] {
  const { model, text, qa } = config;
  const found: string[] = [];
  if (model.hidden % model.heads !== 0)
    found.push(`model.hidden (${model.hidden}) must be a multiple of model.heads (${model.heads})`);
  if (qa.readerTokens <= text.questionTokens + 1)
    found.push(
      `qa.readerTokens (${qa.readerTokens}) leaves no room for a block behind a question of text.questionTokens (${text.questionTokens}); raise it`,
    );
  const tooLong = tooLongFor(config, model.positions);
  if (tooLong.length > 0)
    found.push(`model.positions is ${model.positions}, too few for these sequences: ${tooLong.join('; ')}`);
  return found;
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

import { existsSync, statSync } from 'node:fs';
import { basename, dirname, extname, resolve } from 'node:path';
import { folderOf, loadConfig, portablePath } from '../config.ts';
import { unpackedName } from '../datasets/bytes.ts';
import { isDevQuestion } from '../datasets/resplit.ts';
import { modelFolder } from '../hub/cache.ts';
import { isHubName } from '../hub/name.ts';
import { DEFAULT_FILE } from '../init/default-file.ts';
import {
  type Encoder,
  type Files,
  fitToHours,
  isTooSlow,
  type Proposal,
  propose,
  type Setting,
  type Size,
  type Survey,
} from '../init/proposal.ts';
import { settingsText } from '../init/settings-file.ts';
import {
  answersFound,
  type DocumentSurvey,
  hasSalientSpan,
  type QuestionSurvey,
  surveyDocuments,
  surveyQuestions,
} from '../init/survey.ts';
import { statisticsOfFiles } from '../preflight/corpus-statistics.ts';
import { doctor } from '../preflight/machine.ts';
import { preflight } from '../preflight/needs.ts';
import { about } from '../preflight/rates.ts';
import type { Machine, Preflight, StageNeeds } from '../preflight/types.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, writeFileAtomic } from '../system/files.ts';
import { say } from '../system/progress.ts';
import { hasMaskHead, readHubConfig } from '../weights/import-bert.ts';
import { bertFolder, readSentenceHead } from '../weights/sentence-encoder.ts';
import { resplitFiles, resplitQuestions } from './data.ts';
import { headSettings } from './encoder-head.ts';
import { quoted } from './next-command.ts';
import { runPreflight, vocabularyOf } from './preflight.ts';

export interface InitOptions {
  /** The configuration file to write. */
  to: string;
  /** An encoder's folder, or its name on the Hub; undefined: random weights. */
  initial?: string;
  /** Most hours that all stages together should take; undefined: by the size of the corpus. */
  hours?: number;
  /** The user's own settings, as `path=value`; they replace proposed ones. */
  set: readonly string[];
  /** Replaces existing files. */
  force: boolean;
}

export interface Initialised {
  config: string;
  documents: Omit<DocumentSurvey, 'texts'>;
  questions: { path: string; role: string; count: number; unanswerable: number }[];
  /** The two files that one file of questions was split into. */
  split?: { train: string; dev: string; trainQuestions: number; devQuestions: number };
  /** Share of training questions with an answer in the documents; undefined if the documents were not read completely. */
  answersFound?: number;
  machine: Machine & { cores: number; engine: string };
  size: Size;
  hours: number;
  /** The encoder that the model starts from, or null for random weights. */
  initial: string | null;
  settings: Record<string, Setting['value']>;
  estimate: Preflight;
  /** The next commands, with the fewest and the most seconds that each is expected to take. */
  next: { command: string; secondsRange?: [number, number] }[];
  notes: string[];
}

/** With fewer questions a fifth is held out, not a tenth, because a tenth of few questions measures nothing. */
const FEW_QUESTIONS = 1000;

/**
 * Examines the user's files and the machine, proposes settings, and writes them as a commented configuration file.
 * @param documents file or folder of documents
 * @param questionFiles files of questions; a single one is split into training and held-out questions
 */
export async function init(
  documents: string | undefined,
  questionFiles: readonly string[],
  options: InitOptions,
): Promise<Initialised> {
  if (documents === undefined)
    throw new UserError(
      'init: no documents are named; pass the file or folder of your documents, then your questions if you have any: realm init DOCUMENTS [QUESTIONS]',
    );
  refuseExisting([options.to], options.force);
  const encoder = options.initial === undefined ? undefined : await encoderOf(options.initial);
  say(`reading ${documents}`);
  const own = loadConfig(undefined, options.set);
  const { texts, ...surveyed } = await surveyDocuments(documents, own.data);
  const questions = await surveyQuestions(questionFiles);
  const { files, split } = splitOf(resolve(documents), questions, options);
  if (split) refuseExisting([split.train, split.dev], options.force);
  const train = questions.find(({ role }) => role === 'train')?.questions ?? [];
  const namedDev = questions.find(({ role }) => role === 'dev')?.questions.length ?? 0;
  const found = train.length > 0 && !surveyed.estimated ? answersFound(train, texts) : undefined;

  say('measuring this machine');
  const diagnosis = await doctor(dirname(resolve(options.to)));
  const trainQuestions = split?.trainQuestions ?? train.length;
  const devQuestions = split?.devQuestions ?? namedDev;
  const survey: Survey = {
    documents: surveyed.documents,
    tokens: surveyed.tokens,
    trainQuestions,
    devQuestions,
    questionsNameDocuments:
      2 * train.filter(({ passageId }) => passageId !== undefined).length > train.length,
    // Sentences of the user's own may have spans, and a model may find some where the rules do not.
    spans: own.data.sentences !== null || own.text.ner !== null || hasSalientSpan(texts),
    gpu: diagnosis.engine?.description.endsWith('on the GPU') ?? false,
    encoder,
  };
  const testQuestions = questions.find(({ role }) => role === 'test')?.questions.length ?? devQuestions;
  /** Proposes settings, measures their pace, and limits the steps to the hours. */
  const fitted = async (survey: Survey) => {
    const first = withOwn(propose(survey, files, options.hours), options.set);
    // The split files are not written yet; their questions are counted above.
    const unsplit = split ? [`data.train=${JSON.stringify(questions[0].path)}`, 'data.dev=null'] : [];
    const base = withHead([...overrides(first), ...unsplit]);
    const census = await statisticsOfFiles(base, vocabularyOf(base));
    const counts = { ...census.counts, trainQuestions, devQuestions, testQuestions };
    const { stages, machine } = await runPreflight(
      { config: base, census: { ...census, counts } },
      diagnosis,
    );
    const stage = (name: string) => stages.find((s) => s.stage === name);
    const pace = {
      ict: stage('ict-warmup')!.stepSeconds!,
      readerWarmup: stage('reader-warmup')?.stepSeconds ?? 0,
      pretrain: stage('pretrain')!.stepSeconds!,
      qa: stage('finetune-qa')!.stepSeconds!,
      index: stage('build-index')!.seconds,
    };
    const fit = (beside: number) => {
      const proposal = fitToHours(first, { ...pace, beside }, trainQuestions > 0);
      const estimate = preflight(withHead(overrides(proposal)), counts, machine);
      return { proposal, machine, estimate };
    };
    return fit(besideSteps(plannedStages(fit(0).estimate, trainQuestions > 0, files)));
  };
  let result = await fitted(survey);
  if (isTooSlow(result.proposal)) result = await fitted({ ...survey, slow: true });
  const { proposal, machine, estimate } = result;
  const planned = plannedStages(estimate, trainQuestions > 0, files);

  makeFolder(dirname(resolve(options.to)));
  if (split) await resplitQuestions(questions[0].path, dirname(options.to), split.parts);
  writeConfig(options.to, proposal, encoder);
  const run = newRunFolder(documents);
  return {
    config: options.to,
    documents: surveyed,
    questions: questions.map(({ path, role, questions, unanswerable }) => ({
      path,
      role,
      count: questions.length,
      unanswerable,
    })),
    split: split && {
      train: split.train,
      dev: split.dev,
      trainQuestions: split.trainQuestions,
      devQuestions: split.devQuestions,
    },
    answersFound: found,
    machine: { ...machine, cores: diagnosis.cpus.count, engine: diagnosis.engine!.description },
    size: proposal.size,
    hours: proposal.hours,
    initial: options.initial ?? null,
    settings: Object.fromEntries(proposal.settings.map(({ path, value }) => [path, value])),
    estimate,
    next: nextCommands(options.to, run, planned, trainQuestions > 0),
    notes: notesOn({
      proposal,
      encoder,
      spans: survey.spans,
      trainQuestions,
      found,
      estimate,
      planned,
      documents,
      questionFiles,
      options,
    }),
  };
}

/** The proposal, with the user's own settings instead of those proposed. */
function withOwn(proposal: Proposal, set: readonly string[]): Proposal {
  const config = loadConfig(undefined, set); // its paths are absolute
  const own = set.map((override): Setting => {
    const path = override.slice(0, override.indexOf('='));
    const value = path
      .split('.')
      .reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
    return { path, value: value as Setting['value'], why: 'your own choice (--set)', own: true };
  });
  const settings = proposal.settings.map((one) => own.find(({ path }) => path === one.path) ?? one);
  return { ...proposal, settings: [...settings, ...own.filter((one) => !settings.includes(one))] };
}

/** The settings with the head of the encoder, as `realm prepare` will take it. */
function withHead(set: readonly string[]) {
  return loadConfig(undefined, [...set, ...headSettings(loadConfig(undefined, set))]);
}

/** `--set` of all settings; JSON is YAML too. */
function overrides({ settings }: Proposal): string[] {
  return settings.map(({ path, value }) => `${path}=${JSON.stringify(value)}`);
}

function refuseExisting(paths: readonly string[], force: boolean): void {
  for (const path of paths) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new UserError(`${path}: is a folder; pass the file to write with --to`);
    if (!force && existsSync(path))
      throw new UserError(
        `${path}: already exists; replace it with --force, or choose another file with --to`,
      );
  }
}

async function fetchEncoder(initial: string): Promise<string> {
  const { fetchModel, Unreachable } = await import('../hub/fetch.ts');
  try {
    return await fetchModel(initial, 'encoder');
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    throw new UserError(`${error.message}, or leave --initial out to start from random weights`);
  }
}

/** The sizes of an encoder in a folder or on the Hub; one on the Hub is downloaded into its cache. */
async function encoderOf(initial: string): Promise<Encoder> {
  const name = isHubName(initial) ? await fetchEncoder(initial) : resolve(initial);
  const model = modelFolder(name);
  const folder = bertFolder(model);
  const { layers, hidden, heads, intermediate, positions, gelu, projection } = readHubConfig(folder);
  return {
    name,
    layers,
    hidden,
    heads,
    intermediate,
    positions,
    gelu: gelu ?? 'exact',
    projection: projection === 'none' ? undefined : projection,
    head: readSentenceHead(model),
    fillsMasks: hasMaskHead(name),
  };
}

/** The files of the settings, and how a single file of questions will be split. */
function splitOf(documents: string, questions: readonly QuestionSurvey[], { to }: InitOptions) {
  const path = (role: string) => {
    const one = questions.find((survey) => survey.role === role);
    return one ? resolve(one.path) : null;
  };
  const files: Files = { documents, train: path('train'), dev: path('dev'), test: path('test') };
  if (questions.length !== 1) return { files };
  const all = questions[0].questions;
  const parts = all.length < FEW_QUESTIONS ? 5 : 10;
  const devQuestions = all.filter(({ question }) => isDevQuestion(question, parts)).length;
  if (devQuestions === 0 || devQuestions === all.length) return { files };
  const { train, dev } = resplitFiles(questions[0].path, dirname(to));
  return {
    files: { ...files, train: resolve(train), dev: resolve(dev) },
    split: { train, dev, parts, trainQuestions: all.length - devQuestions, devQuestions },
  };
}

const HEAD = [
  'Settings for your own data, proposed by "realm init". Change them as you like; a comment gives the reason of each.',
  "Paths are relative to this file's folder. All other settings have their defaults.",
];

const IS_PATH = /^data\.(documents|train|dev|test)$|^model\.initial$/;

function writeConfig(to: string, { size, settings }: Proposal, encoder: Encoder | undefined): void {
  const folder = folderOf(to);
  const portable = settings.map((setting) =>
    IS_PATH.test(setting.path) ? { ...setting, value: portablePath(String(setting.value), folder) } : setting,
  );
  const start = encoder ? 'from a pretrained encoder' : 'from random weights';
  writeFileAtomic(to, settingsText(portable, [...HEAD, `Preset: a ${size} corpus, ${start}.`]));
}

/** What the user will run, in order: without questions nothing is fine-tuned, and stages without steps are left out. */
function plannedStages({ stages }: Preflight, questions: boolean, files: Files): StageNeeds[] {
  const measured = questions && (files.dev ?? files.test) !== null;
  return stages.filter(
    ({ stage, steps }) =>
      steps !== 0 && (stage === 'finetune-qa' ? questions : stage === 'eval' ? measured : true),
  );
}

/** Seconds of stages outside their steps: preparing, embedding all blocks, answering questions. */
function besideSteps(stages: readonly StageNeeds[]): number {
  return stages.reduce((sum, s) => sum + s.seconds - (s.steps ?? 0) * (s.stepSeconds ?? 0), 0);
}

function nextCommands(
  config: string,
  run: string,
  planned: readonly StageNeeds[],
  questions: boolean,
): Initialised['next'] {
  const words: Record<string, string> = {
    prepare: `prepare --config ${quoted(config)}`,
    eval: 'eval exact-match',
  };
  return [
    ...planned.map(({ stage, secondsRange }) => ({
      command: `realm ${words[stage] ?? stage} --run ${run}`,
      secondsRange,
    })),
    ...(questions ? [{ command: `realm ask --run ${run}` }] : []),
  ];
}

/** The folder proposed for the run: one that does not exist, because a run that exists may have other settings. */
function newRunFolder(documents: string): string {
  const stem = unpackedName(basename(documents));
  const run = `runs/${basename(stem, extname(stem)).replace(/[^\w-]+/g, '-') || 'mine'}`;
  if (!existsSync(run)) return run;
  for (let n = 2; ; n++) if (!existsSync(`${run}-${n}`)) return `${run}-${n}`;
}

/** The same `realm init` again, with other questions or another encoder. */
function initCommand(documents: string, questions: readonly string[], options: InitOptions): string {
  const { to, initial, hours, set } = options;
  return [
    'realm init',
    ...[documents, ...questions].map(quoted),
    ...(to === DEFAULT_FILE ? [] : ['--to', quoted(to)]),
    ...(hours === undefined ? [] : ['--hours', String(hours)]),
    ...set.flatMap((one) => ['--set', quoted(one)]),
    '--force',
    ...(initial === undefined ? [] : ['--initial', quoted(initial)]),
  ].join(' ');
}

/** A small BERT that two cores can train: 4 layers of 256, 11 million parameters. */
const SUGGESTED_ENCODER = 'hf:google/bert_uncased_L-4_H-256_A-4 (4 layers of 256, about 45 MB)';

/** A larger share of questions without an answer in the documents gets a note. */
const MAX_SHARE_WITHOUT_ANSWER = 0.2;

/** An estimate that is longer than the hours by more than this factor gets a note. */
const TOO_LONG = 1.1;

/** What a user should know about the proposal before running it. */
function notesOn(input: {
  proposal: Proposal;
  encoder: Encoder | undefined;
  /** Whether the documents have names or dates. */
  spans: boolean;
  trainQuestions: number;
  /** Share of the training questions with an answer in the documents; undefined if it was not measured. */
  found: number | undefined;
  estimate: Preflight;
  planned: readonly StageNeeds[];
  documents: string;
  questionFiles: readonly string[];
  options: InitOptions;
}): string[] {
  const { encoder, trainQuestions, found, planned, documents, questionFiles, options } = input;
  const { size, hours } = input.proposal;
  const { warnings } = input.estimate;
  const seconds = planned.reduce((sum, stage) => sum + stage.seconds, 0);
  return [
    ...(encoder
      ? []
      : [
          `Random weights know no language, and ${size === 'tiny' || size === 'small' ? 'a corpus of this size teaches very little of it: expect few right answers' : 'learning it takes days or more'}. ` +
            `Use this to see every stage work. A pretrained encoder is much better. Choose one on the Hugging Face Hub, such as ${SUGGESTED_ENCODER}, or a folder with a BERT (config.json, model.safetensors, vocab.txt): ${initCommand(documents, questionFiles, { ...options, initial: SUGGESTED_ENCODER.split(' ')[0] })}`,
        ]),
    ...(trainQuestions === 0
      ? [
          `Without questions the model cannot be fine-tuned to answer. Write some with their answers, one a line: {"question": "…", "answer": ["…"]}, and run: ${initCommand(documents, [...questionFiles, 'QUESTIONS'], options)}`,
        ]
      : []),
    ...(trainQuestions > 0 && trainQuestions < 1000
      ? [`${trainQuestions} questions are few for training; each further hundred helps.`]
      : []),
    ...(found !== undefined && 1 - found > MAX_SHARE_WITHOUT_ANSWER
      ? [
          `${((1 - found) * 100).toFixed(0)} % of the training questions have no answer in the documents, word for word: the model can only find answers that are there. Check that documents and questions belong together.`,
        ]
      : []),
    ...(input.spans
      ? []
      : [
          'No names or dates were found in the documents, so there is nothing to mask: pretrain and reader-warmup are left out. A model that names entities (text.ner) may find some.',
        ]),
    ...(seconds > TOO_LONG * 3600 * hours
      ? [
          `All stages take about ${about(seconds)} by the estimate, more than the ${about(3600 * hours)} allowed: about ${about(besideSteps(planned))} of it go into preparing, embedding the blocks and answering questions, and no stage gets fewer steps than these. Allow more with --hours, or use fewer documents or a smaller encoder.`,
        ]
      : []),
    ...warnings,
  ];
}

// ---------------------------------------------------------------------------------------------------- lines

const number = (n: number) => n.toLocaleString('en');

export function initLines(result: Initialised): string[] {
  const { documents: d, questions, split, machine, notes } = result;
  const roughly = d.estimated ? 'about ' : '';
  const range = ([low, high]: [number, number]) =>
    high < 1 ? about(high) : `${about(low)} to ${about(high)}`;
  const width = Math.max(...result.next.map(({ command }) => command.length));
  const total = (end: 0 | 1) => result.next.reduce((sum, next) => sum + (next.secondsRange?.[end] ?? 0), 0);
  return [
    `Documents  ${roughly}${number(d.documents)} in ${d.path} (format ${d.format}): ${roughly}${number(d.words)} words, ${number(d.characters)} characters, about ${number(d.tokens)} word pieces`,
    ...questions.map(
      ({ path, role, count, unanswerable }) =>
        `Questions  ${number(count)} with answers in ${path} (${split ? 'split' : role})${unanswerable > 0 ? `; ${number(unanswerable)} without an answer left out` : ''}`,
    ),
    ...(questions.length === 0 ? ['Questions  none'] : []),
    ...(split
      ? [
          `  ${number(split.trainQuestions)} to train on: ${split.train}`,
          `  ${number(split.devQuestions)} held out for measuring, chosen by the hash of each question: ${split.dev}`,
        ]
      : []),
    ...(result.answersFound === undefined
      ? []
      : [
          `Answers    ${(100 * result.answersFound).toFixed(0)} % of the training questions have an answer in the documents, word for word`,
        ]),
    `Machine    ${machine.cores} cores, ${(machine.memory / 2 ** 30).toFixed(1)} GiB of memory, ${machine.engine}`,
    `Preset     a ${result.size} corpus, ${result.initial === null ? 'random weights' : `from ${result.initial}`}, at most ${about(3600 * result.hours)} by the estimate (--hours changes it)`,
    `Written    ${result.config}`,
    '',
    `Next, with expected times (${range([total(0), total(1)])} in all):`,
    ...result.next.map(({ command, secondsRange }) =>
      secondsRange ? `  ${command.padEnd(width)}   ${range(secondsRange)}` : `  ${command}`,
    ),
    ...notes.flatMap((note) => ['', `Note: ${note}`]),
  ];
}

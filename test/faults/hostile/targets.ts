import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import * as harmless from './harmless.ts';
import {
  ANY,
  GZIP,
  JSON_FILE,
  JSON_LINES,
  type Mutations,
  POINTER,
  RECORDS,
  SAFETENSORS,
  TEXT,
  VOCABULARY,
  YAML,
} from './mutations.ts';
import type { State } from './runs.ts';

/** Files of one kind, the commands that read them, and which changes may be accepted. */
export interface Target {
  name: string;
  state: State;
  /** Which files of the state, by their paths in it. */
  files: RegExp;
  /** Command lines without `--run`; the cases take turns. */
  commands: string[][];
  mutations: Mutations;
  judge: harmless.Judge;
  /** Cases of each file. */
  cases: number;
  /** What else a refusal may name, if the corrupted file contradicts another and it is unknown which one is wrong. */
  naming?: RegExp;
  /** Why the file may be missing, if it may. */
  mayBeMissing?: string;
  /** Why any change may be accepted. */
  accepted?: string;
  /** Each case takes seconds: the short form has only one. */
  slow?: true;
}

const prepare = ['prepare', '--config', 'settings.yaml'];
const ask = ['ask', 'Where was Talvora Benik born?'];
const exactMatch = ['eval', 'exact-match'];
const recall = ['eval', 'recall'];
const doctor = ['doctor', '--config', 'settings.yaml'];

const COUNTED = 'is counted here, not checked: the commands that use it do that';

const text = { ...ANY, ...TEXT };
const json = { ...text, ...JSON_FILE };
const jsonLines = { ...text, ...JSON_LINES };
const tensors = { ...ANY, ...SAFETENSORS };
const records = { ...ANY, ...RECORDS };

/** The files of a corpus, which every command opens. */
function corpus(state: State, ...commands: string[][]): Target[] {
  const common = { state, commands };
  return [
    {
      ...common,
      name: `corpus-${state}`,
      files: /^run\/corpus\/(?!manifest\.json|vocab\.txt)/,
      mutations: records,
      judge: harmless.sealed,
      cases: 7,
    },
    {
      ...common,
      name: `corpus-vocabulary-${state}`,
      files: /^run\/corpus\/vocab\.txt$/,
      mutations: { ...text, ...VOCABULARY },
      judge: harmless.sealed,
      cases: 20,
    },
    {
      ...common,
      name: `corpus-manifest-${state}`,
      files: /^run\/corpus\/manifest\.json$/,
      mutations: json,
      judge: harmless.sameJson(),
      // The manifest contradicts the file: either may be the corrupted one.
      naming: /run\/corpus\b|run\/index\b/,
      cases: 30,
    },
  ];
}

/** Fields of a state that may differ if another stage reads only the weights, and those that may if the stage resumes. */
const INFORMS = ['settings', 'score', 'averages', 'sinceSave', 'firstLoss', 'skipped', 'index'];
const OF_THE_STAGE = [...INFORMS, 'steps', 'corpusSha256'];

/** The weights, the state and the pointer of one stage's latest checkpoint. */
function checkpoint(stage: string, state: State, ...commands: string[][]): Target[] {
  const resumes = state.endsWith('-midway');
  const common = { state, commands, naming: new RegExp(`checkpoints/${stage}|this run has no retriever`) };
  return [
    {
      ...common,
      name: `weights-${stage}-${state}`,
      files: new RegExp(`^run/checkpoints/${stage}/.*model\\.safetensors$`),
      mutations: tensors,
      judge: harmless.sealed,
      cases: 50,
    },
    {
      ...common,
      name: `state-${stage}-${state}`,
      files: new RegExp(`^run/checkpoints/${stage}/.*state\\.json$`),
      mutations: json,
      judge: harmless.sameJson(...(resumes ? INFORMS : OF_THE_STAGE)),
      cases: 30,
    },
    {
      ...common,
      name: `pointer-${stage}-${state}`,
      files: new RegExp(`^run/checkpoints/${stage}/latest$`),
      mutations: { ...text, ...POINTER },
      judge: harmless.checkpointPointer,
      mayBeMissing: 'without a pointer the newest checkpoint counts',
      cases: 20,
    },
  ];
}

/** The moments of a stage's optimizer are read when the stage resumes. */
function moments(stage: string, state: State, command: string[]): Target {
  return {
    name: `moments-${stage}`,
    state,
    files: new RegExp(`^run/checkpoints/${stage}/.*optimizer\\.safetensors$`),
    commands: [command],
    mutations: tensors,
    judge: harmless.sealed,
    naming: new RegExp(`checkpoints/${stage}`),
    cases: 40,
  };
}

export const TARGETS: Target[] = [
  {
    name: 'settings',
    state: 'fresh',
    files: /^settings\.yaml$/,
    commands: [prepare],
    mutations: { ...text, ...YAML },
    judge: harmless.settings,
    // The settings of a new run are reported under the file name that they would get.
    naming: /data\/|encoder|run\/config\.yaml/,
    cases: 110,
  },
  {
    name: 'run-settings',
    state: 'tuned',
    files: /^run\/config\.yaml$/,
    commands: [recall, ask],
    mutations: { ...text, ...YAML },
    judge: harmless.settings,
    // A stage's checkpoint does not fit other settings.
    naming: /checkpoints\/|run\/corpus|data\/|encoder/,
    cases: 110,
  },
  {
    name: 'documents',
    state: 'fresh',
    files: /^data\/documents\.jsonl$/,
    commands: [prepare, [...prepare, '--set', 'model.initial=null']],
    mutations: jsonLines,
    judge: harmless.documents,
    cases: 130,
  },
  {
    name: 'documents-gz',
    state: 'fresh',
    files: /^data\/documents\.jsonl\.gz$/,
    commands: [[...prepare, '--set', 'data.documents=data/documents.jsonl.gz']],
    mutations: { ...ANY, ...GZIP },
    judge: gzipped(harmless.documents),
    cases: 70,
  },
  {
    name: 'sentences',
    state: 'fresh',
    files: /^data\/sentences\.jsonl$/,
    commands: [prepare],
    mutations: jsonLines,
    judge: harmless.sentences,
    cases: 100,
  },
  {
    name: 'sentences-gz',
    state: 'fresh',
    files: /^data\/sentences\.jsonl\.gz$/,
    commands: [[...prepare, '--set', 'data.sentences=data/sentences.jsonl.gz']],
    mutations: { ...ANY, ...GZIP },
    judge: gzipped(harmless.sentences),
    cases: 40,
  },
  {
    name: 'training-questions',
    state: 'pretrained',
    files: /^data\/questions\.train\.jsonl$/,
    commands: [['finetune-qa']],
    mutations: jsonLines,
    judge: harmless.questions,
    cases: 80,
  },
  {
    name: 'test-questions',
    state: 'tuned',
    files: /^data\/questions\.test\.jsonl$/,
    commands: [recall, exactMatch, [...recall, '--questions', 'data/questions.test.jsonl']],
    mutations: jsonLines,
    judge: harmless.questions,
    cases: 90,
  },
  {
    name: 'test-questions-gz',
    state: 'tuned',
    files: /^data\/questions\.test\.jsonl\.gz$/,
    commands: [[...recall, '--questions', 'data/questions.test.jsonl.gz']],
    mutations: { ...ANY, ...GZIP },
    judge: gzipped(harmless.questions),
    cases: 40,
  },
  {
    name: 'doctor',
    slow: true,
    state: 'fresh',
    files: /^data\/(documents|sentences|questions\.test)\.jsonl$/,
    commands: [doctor],
    mutations: jsonLines,
    judge: harmless.sealed,
    accepted: COUNTED,
    cases: 6,
  },
  {
    name: 'doctor-gz',
    slow: true,
    state: 'fresh',
    files: /^data\/documents\.jsonl\.gz$/,
    commands: [[...doctor, '--set', 'data.documents=data/documents.jsonl.gz']],
    mutations: GZIP,
    judge: harmless.sealed,
    accepted: COUNTED,
    cases: 8,
  },
  {
    name: 'encoder-description',
    state: 'prepared',
    files: /^encoder\/config\.json$/,
    commands: [['ict-warmup']],
    mutations: json,
    judge: harmless.sameFields(
      'vocab_size',
      'num_hidden_layers',
      'hidden_size',
      'num_attention_heads',
      'intermediate_size',
      'max_position_embeddings',
    ),
    naming: /encoder\/model\.safetensors/,
    cases: 90,
  },
  {
    name: 'encoder-weights',
    state: 'prepared',
    files: /^encoder\/model\.safetensors$/,
    commands: [['ict-warmup']],
    mutations: tensors,
    judge: harmless.weights(/^(?!.*(embeddings|encoder\.layer))/),
    cases: 120,
  },
  {
    name: 'encoder-vocabulary',
    state: 'fresh',
    files: /^encoder\/vocab\.txt$/,
    commands: [prepare, [...prepare, '--set', 'text.vocabulary=encoder/vocab.txt']],
    mutations: { ...text, ...VOCABULARY },
    judge: harmless.vocabulary,
    cases: 90,
  },
  ...corpus('prepared', ['ict-warmup']),
  ...corpus('warm', ['build-index'], ['pretrain']),
  ...corpus('pretrained', ['finetune-qa'], ['build-index', '--stage', 'ict-warmup']),
  ...corpus('tuned', ask, recall, exactMatch),
  {
    name: 'doctor-corpus',
    slow: true,
    state: 'warm',
    files: /^run\/corpus\//,
    commands: [['doctor', '--run', 'run']],
    mutations: records,
    judge: harmless.sealed,
    accepted: COUNTED,
    naming: /run\/corpus\b/,
    cases: 1,
  },
  {
    name: 'index',
    state: 'tuned',
    files: /^run\/index\/step-0000006\/(?!manifest\.json)/,
    commands: [ask, exactMatch, recall],
    mutations: records,
    judge: harmless.sealed,
    cases: 50,
  },
  {
    name: 'index-going-on',
    state: 'pretrain-midway',
    files: /^run\/index\/step-\d+\/(?!manifest\.json)/,
    commands: [['pretrain']],
    mutations: records,
    judge: harmless.sealed,
    cases: 20,
  },
  {
    name: 'index-manifest',
    state: 'tuned',
    files: /^run\/index\/step-0000006\/manifest\.json$/,
    commands: [ask, exactMatch, recall],
    mutations: json,
    judge: harmless.indexManifest,
    naming: /run\/index\b/,
    cases: 80,
  },
  {
    name: 'index-pointer',
    state: 'tuned',
    files: /^run\/index\/current$/,
    commands: [ask, recall],
    mutations: { ...text, ...POINTER },
    judge: harmless.pointer,
    naming: /run\/index\b/,
    mayBeMissing: 'without a pointer there is no index yet, and one is made',
    cases: 80,
  },
  {
    name: 'note',
    state: 'tuned',
    files: /verified\.json$/,
    commands: [ask, exactMatch],
    mutations: json,
    judge: harmless.sealed,
    accepted: 'saves time where it is right, and is passed over where it is not',
    cases: 12,
  },
  ...checkpoint('ict-warmup', 'warm', ['build-index'], ['pretrain']),
  ...checkpoint('ict-warmup', 'warm-midway', ['ict-warmup']),
  ...checkpoint('pretrain', 'pretrain-midway', ['pretrain']),
  ...checkpoint('pretrain', 'pretrained', ['finetune-qa'], recall),
  ...checkpoint('finetune-qa', 'qa-midway', ['finetune-qa']),
  ...checkpoint('finetune-qa', 'tuned', ask, exactMatch),
  moments('ict-warmup', 'warm-midway', ['ict-warmup']),
  moments('pretrain', 'pretrain-midway', ['pretrain']),
  moments('finetune-qa', 'qa-midway', ['finetune-qa']),
  {
    name: 'metrics',
    state: 'pretrain-midway',
    files: /^run\/metrics\/pretrain\.jsonl$/,
    commands: [['pretrain']],
    mutations: jsonLines,
    judge: harmless.log,
    mayBeMissing: 'a log that is gone is begun anew',
    cases: 40,
  },
  {
    name: 'demo-results',
    state: 'demo',
    files: /^run\/demo\.json$/,
    commands: [['demo']],
    mutations: json,
    judge: harmless.results,
    mayBeMissing: 'the demo runs its stages again, each of which finds itself done',
    cases: 70,
  },
  {
    name: 'demo-metrics',
    state: 'demo',
    files: /^run\/metrics\/(pretrain|refreshes)\.jsonl$/,
    commands: [['demo']],
    mutations: jsonLines,
    judge: harmless.log,
    naming: /run\/metrics/,
    mayBeMissing: 'a log that is gone counts as empty',
    cases: 25,
  },
  {
    name: 'results',
    state: 'tuned',
    files: /^run\/predictions\.jsonl$/,
    commands: [exactMatch],
    mutations: { 'a bit flipped': ANY['a bit flipped'], empty: ANY.empty },
    judge: harmless.sealed,
    accepted: 'is written anew and not read',
    naming: /run\b/,
    cases: 8,
  },
  {
    name: 'pointer-written',
    state: 'tuned',
    files: /^run\/index\/current$/,
    commands: [['build-index']],
    mutations: POINTER,
    judge: harmless.sealed,
    accepted: 'is written anew and not read',
    naming: /run\b/,
    cases: 8,
  },
];

function gzipped(judge: harmless.Judge): harmless.Judge {
  return (before, after) => {
    const plain = [before, after].map(harmless.unpacked);
    return plain[0] && plain[1] && judge(plain[0], plain[1]);
  };
}

/** Paths of the target's files in a state at `root`. */
export function filesOf({ files, state }: Target, root: string): string[] {
  return (
    readdirSync(join(root, state), { recursive: true, withFileTypes: true }) as {
      name: string;
      parentPath?: string;
      path: string;
      isFile(): boolean;
    }[]
  )
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(join(root, state).length + 1))
    .filter(
      (path) =>
        files.test(path) &&
        (basename(path) !== NOTE || files.test(NOTE)) &&
        isLatest(join(root, state), path),
    )
    .sort();
}

/** The record of files that were compared with their hashes. */
export const NOTE = 'verified.json';

/** False of a checkpoint that is not the latest of its stage: nothing reads it. */
function isLatest(dir: string, path: string): boolean {
  const [, stage, name] = /^(run\/checkpoints\/[^/]+)\/(step-\d+)\//.exec(path) ?? [];
  return stage === undefined || readFileSync(join(dir, stage, 'latest'), 'utf8').trim() === name;
}

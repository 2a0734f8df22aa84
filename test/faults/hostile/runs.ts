import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { main } from '../../../src/cli.ts';
import { loadConfig, saveConfig } from '../../../src/config.ts';
import { startEngine } from '../../../src/engine.ts';
import { disposeModel } from '../../../src/model/model.ts';
import { trainVocabulary } from '../../../src/tokenizer/train-vocabulary.ts';
import { exportBert } from '../../../src/weights/export-bert.ts';
import { generateWorld, writeWorld } from '../../../src/world/world.ts';
import { TINY, tinyConfig, tinyModel } from '../../support/tiny.ts';

/**
 * The states of a run folder between the stages, each together with its data. A case corrupts a file of one state. All paths
 * in them are relative, so that a copy works anywhere.
 */
export const STATES = [
  'fresh', // data, an encoder to start from, settings.yaml; no run yet
  'prepared',
  'warm-midway',
  'warm', // with an index
  'pretrain-midway',
  'pretrained',
  'qa-midway',
  'tuned', // with predictions
  'demo', // the demo, done
  'other', // as tuned, of another corpus
] as const;
export type State = (typeof STATES)[number];

const SETTINGS = [
  ...TINY,
  'data.documents=data/documents.jsonl',
  'data.sentences=data/sentences.jsonl',
  'data.train=data/questions.train.jsonl',
  'data.test=data/questions.test.jsonl',
  'model.initial=encoder',
  'model.projectionLayerNormEps=1e-12',
  'ict={steps: 4, batch: 4, microBatch: 4, optimizer: {warmupSteps: 0}}',
  'pretrain={steps: 6, batch: 2, microBatch: 2, candidates: 2, optimizer: {warmupSteps: 0}}',
  'refresh={every: 2, mode: off}',
  'qa={steps: 4, batch: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104}',
  'closedBook={steps: 2, batch: 4}',
  'train={logEvery: 1, saveEvery: 1}',
  'world.documents=40',
];

/** Makes every state below `root`, each in a folder of its name. */
export async function makeStates(root: string): Promise<void> {
  await startEngine('auto');
  await makeLife(
    join(root, 'life'),
    (state) => cpSync(join(root, 'life'), join(root, state), { recursive: true }),
    1,
  );
  await makeLife(join(root, 'other'), () => {}, 2);
  rmSync(join(root, 'life'), { recursive: true });
  await makeDemo(join(root, 'demo'));
}

async function makeLife(dir: string, keep: (state: State) => void, seed: number): Promise<void> {
  const world = generateWorld({ seed, documents: 40, heldOut: 0.2 });
  writeWorld(world, join(dir, 'data'));
  for (const name of ['documents', 'sentences', 'questions.test']) {
    const file = join(dir, 'data', `${name}.jsonl`);
    writeFileSync(`${file}.gz`, gzipSync(readFileSync(file)));
  }
  await writeEncoder(join(dir, 'encoder'), world.documents);
  process.chdir(dir);
  await realm('prepare', '--config', 'paper', ...SETTINGS.flatMap((setting) => ['--set', setting]));
  // The run's own configuration serves as the user's settings file.
  saveConfig('settings.yaml', loadConfig('run/config.yaml', [])); // its paths are relative to its own folder
  cpSync('run', 'aside', { recursive: true });
  rmSync('run', { recursive: true });
  keep('fresh');
  cpSync('aside', 'run', { recursive: true });
  rmSync('aside', { recursive: true });
  keep('prepared');
  await stoppedAfter(2, 'ict-warmup', 'ict-warmup');
  keep('warm-midway');
  await realm('ict-warmup');
  await realm('build-index');
  keep('warm');
  await stoppedAfter(3, 'pretrain', 'pretrain');
  keep('pretrain-midway');
  await realm('pretrain');
  await realm('build-index');
  keep('pretrained');
  await stoppedAfter(2, 'finetune-qa', 'finetune-qa');
  keep('qa-midway');
  await realm('finetune-qa');
  await realm('eval', 'exact-match');
  keep('tuned');
}

/** An encoder to start from, with random weights. */
async function writeEncoder(dir: string, documents: { title: string; text: string }[]): Promise<void> {
  const config = tinyConfig();
  const texts = documents.map(({ title, text }) => `${title} ${text}`);
  const vocabulary = await trainVocabulary(texts, config.text.vocabularySize, config.text.lowercase ?? true);
  const model = tinyModel(config, vocabulary.length);
  await exportBert(dir, model.params, model.readerTower, model.reader);
  writeFileSync(join(dir, 'vocab.txt'), `${vocabulary.join('\n')}\n`);
  disposeModel(model);
}

async function makeDemo(dir: string): Promise<void> {
  mkdirSync(dir);
  process.chdir(dir);
  cpSync('../fresh/encoder', 'encoder', { recursive: true });
  cpSync('../fresh/settings.yaml', 'settings.yaml');
  // A log of refreshes is read when the demo sums up.
  await realm('demo', '--config', 'settings.yaml', '--set', 'refresh.mode=sync');
}

async function realm(...args: string[]): Promise<void> {
  const code = await main(['node', 'realm', ...args, '--run', 'run']);
  if (code !== 0 && code !== 130) throw new Error(`realm ${args.join(' ')} ended with ${code}`);
}

/** Runs a training command until its log has `steps` lines, and stops it as Ctrl-C does. */
async function stoppedAfter(steps: number, stage: string, command: string): Promise<void> {
  const log = `run/metrics/${stage}.jsonl`;
  const watch = setInterval(() => {
    if (existsSync(log) && readFileSync(log, 'utf8').split('\n').length > steps) process.emit('SIGTERM');
  }, 1);
  try {
    await realm(command);
  } finally {
    clearInterval(watch);
  }
}

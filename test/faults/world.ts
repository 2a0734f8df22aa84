import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { TINY } from '../support/tiny.ts';
import { type Started, startRealm } from './processes.ts';

/** The commands of a run, in their order. */
export const STAGES = ['prepare', 'ict-warmup', 'build-index', 'pretrain', 'finetune-qa'] as const;
export type StageCommand = (typeof STAGES)[number];

const root = mkdtempSync(join(tmpdir(), 'realm-faults-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));

let folders = 0;

/** A new path for a folder that is removed at the end of the campaign. */
export function newFolder(name: string): string {
  return join(root, `${++folders}-${name}`);
}

const ENGINE = process.env.REALM_ENGINE ?? 'auto';
const SEED = 7;

/** Texts and questions of a generated world, written once for each number of documents. */
function worldFolder(documents: number): string {
  const dir = join(root, `world-${documents}`);
  if (!written.has(documents)) writeWorld(generateWorld({ seed: 1, documents, heldOut: 0.2 }), dir);
  written.add(documents);
  return dir;
}
const written = new Set<number>();

/** Settings of a run whose stages last seconds, with a checkpoint every few steps; `more` comes last. */
export function settings({ documents = 200, more = [] as readonly string[] } = {}): string[] {
  const data = worldFolder(documents);
  return [
    ...TINY,
    `seed=${SEED}`,
    `data.documents=${join(data, 'documents.jsonl')}`,
    `data.sentences=${join(data, 'sentences.jsonl')}`,
    `data.train=${join(data, 'questions.train.jsonl')}`,
    `data.test=${join(data, 'questions.test.jsonl')}`,
    'model.dropout=0.1', // random numbers that a run gone on with must draw again
    'ict={steps: 60, batch: 8, microBatch: 4, optimizer: {warmupSteps: 0, learningRate: 1e-3}}',
    'pretrain={steps: 40, batch: 4, microBatch: 2, candidates: 3, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
    'refresh={every: 5, mode: sync}',
    'qa={steps: 60, batch: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104, refreshEvery: 20}',
    'index.tokensPerBatch=512',
    'train={logEvery: 1, saveEvery: 6}',
    ...more,
  ];
}

/** Starts a command of the run in `dir`; the settings are given to `prepare`, later commands read the run's own. */
export function startStage(
  command: StageCommand | 'eval exact-match',
  dir: string,
  set: readonly string[],
  more: readonly string[] = [],
): Started {
  const first = existsSync(join(dir, 'config.yaml')) ? [] : ['--config', 'paper'];
  const settings = command === 'prepare' ? [...first, ...set.flatMap((s) => ['--set', s])] : [];
  return startRealm([...command.split(' '), '--run', dir, '--engine', ENGINE, ...settings, ...more]);
}

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex } from '../../src/retrieval/search.ts';
import { runFolder } from '../../src/run/folder.ts';
import { RETRIEVER_STAGES, type RetrieverStage } from '../../src/run/stages.ts';
import { isAside, sha256File } from '../../src/system/files.ts';
import { type Checkpoint, hasCheckpoint, openCheckpoint, type Which } from '../../src/train/checkpoints.ts';
import { readSafetensors } from '../../src/weights/safetensors.ts';

// The content of a run folder: whether it is complete, checked with the library's own functions, and which parts must be the
// same in an interrupted run and in an undisturbed one.

/** Problems in a run folder after any interruption of the process that worked there; there should be none. */
export function complaints(dir: string): string[] {
  const run = runFolder(dir);
  const found: string[] = [];
  const look = (what: string, check: () => void) => {
    try {
      check();
    } catch (error) {
      found.push(`${what}: ${(error as Error).message}`);
    }
  };
  if (existsSync(run.config)) look('config', () => loadConfig(run.config, []));
  if (existsSync(run.corpus)) look('corpus', () => openCorpus(run.corpus).close());
  if (existsSync(join(run.index, 'current'))) {
    look('index', () => openIndex(currentIndex(run.index)!, { efSearch: 16 }).close());
  }
  for (const stage of RETRIEVER_STAGES) {
    const root = run.checkpoint(stage);
    if (!existsSync(root) || !hasCheckpoint(root)) continue;
    const standing = readdirSync(root).filter((name) => /^step-\d+$/.test(name));
    for (const which of ['latest', 'best', ...standing.map((name) => Number(name.slice(5)))] as Which[]) {
      // A kill right after the first checkpoint leaves no pointers to it.
      if (which === 'best' && !existsSync(join(root, which))) continue;
      look(`checkpoint ${which} of ${stage}`, () => readAll(openCheckpoint(root, which)));
    }
  }
  return found;
}

function readAll({ weights, optimizer }: Checkpoint): void {
  for (const path of [weights, optimizer]) {
    const file = readSafetensors(path);
    try {
      for (const tensor of file.tensors.values()) tensor.read();
    } finally {
      file.close();
    }
  }
}

/** Names of incomplete files and of files being removed in the run folder; a command that ended by itself leaves none. */
export function leftAside(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return (readdirSync(dir, { recursive: true }) as string[]).filter((path) =>
    isAside(path.slice(path.lastIndexOf('/') + 1)),
  );
}

/** JSON lines of a file, without a last line that a kill has cut short. */
export function jsonLines(path: string): Record<string, number>[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  const whole = lines.slice(0, -1);
  return whole.map((line) => JSON.parse(line));
}

/** Metrics of a stage that do not depend on the clock or the machine. */
export function figures(dir: string, stage: RetrieverStage): string {
  return withoutClock(runFolder(dir).metrics(stage));
}

function withoutClock(path: string): string {
  return jsonLines(path)
    .map((line) =>
      JSON.stringify(Object.entries(line).filter(([name]) => !/second|memory|bytes|rss|lag/i.test(name))),
    )
    .join('\n');
}

/** The results of a command, to compare with another run's: name → digest or text. */
export function outcome(dir: string, command: string): Record<string, string> {
  const run = runFolder(dir);
  if (command === 'prepare') return { corpus: sha256File(join(run.corpus, 'manifest.json')) };
  if (command === 'eval exact-match') return { predictions: sha256File(run.predictions) };
  if (command === 'build-index') {
    const { graphs, embeddings, weightsSha256, step, rows } = readManifest(currentIndex(run.index)!);
    return {
      graph: graphs.map(({ sha256 }) => sha256).join(' '),
      embeddings: embeddings.sha256,
      weights: String(weightsSha256),
      of: `${step} ${rows}`,
    };
  }
  const stage = command as RetrieverStage;
  return {
    weights: openCheckpoint(run.checkpoint(stage), 'latest').state.files['model.safetensors'].sha256,
    figures: figures(dir, stage),
    ...(stage === 'pretrain'
      ? { refreshes: withoutClock(run.refreshes('pretrain')), probes: withoutClock(run.probes('pretrain')) }
      : {}),
  };
}

/** The names under which two outcomes differ. */
export function differences(one: Record<string, string>, other: Record<string, string>): string[] {
  return Object.keys(one)
    .filter((name) => one[name] !== other[name])
    .map((name) => (name === 'figures' ? `figures (${firstDifference(one[name], other[name])})` : name));
}

function firstDifference(one: string, other: string): string {
  const [a, b] = [one.split('\n'), other.split('\n')];
  const at = a.findIndex((line, i) => line !== b[i]);
  return at < 0 ? `${a.length} lines and ${b.length}` : `line ${at + 1}: ${a[at]} / ${b[at]}`;
}

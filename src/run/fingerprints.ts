import { readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errorCode } from '../system/errors.ts';
import { type Run, STAGES } from './folder.ts';

// A stamp tells a run folder from the same one later, by inode, length and time of its files: nothing of them is read.

/** Changes with what answers come from: weights, index, corpus and settings. */
export function modelFingerprint(run: Run): string {
  return stamp([
    run.config,
    run.corpusManifest,
    join(run.index, 'current'),
    ...STAGES.flatMap((stage) => ['latest', 'best'].map((name) => join(run.checkpoint(stage), name))),
  ]);
}

/** Changes with what a report is drawn from: the run's records. */
export function recordsFingerprint(run: Run): string {
  const folders = [run.dir, dirname(run.evaluations), dirname(run.ablation)];
  const records = folders.flatMap((folder) => filesOf(folder).map((name) => join(folder, name)));
  return stamp([...records, ...STAGES.map((stage) => join(run.checkpoint(stage), 'latest'))]);
}

function stamp(paths: string[]): string {
  return paths
    .map((path) => {
      const stat = statSync(path, { throwIfNoEntry: false });
      return stat ? `${stat.ino} ${stat.size} ${stat.mtimeMs}` : '-';
    })
    .join();
}

function filesOf(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => name)
      .sort();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

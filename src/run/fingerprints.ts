import { readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errorCode } from '../system/errors.ts';
import type { Run } from './folder.ts';
import { STAGES } from './stages.ts';

// A fingerprint shows whether a run folder has changed. It is made from inode, length and time of files, without reading
// them.

/** Changes if anything that answers depend on changes: weights, index, corpus or settings. */
export function modelFingerprint(run: Run): string {
  return fingerprint([
    run.config,
    run.corpusManifest,
    join(run.index, 'current'),
    ...STAGES.flatMap((stage) => ['latest', 'best'].map((name) => join(run.checkpoint(stage), name))),
  ]);
}

/** Changes if anything that a report shows changes: the run's records. */
export function recordsFingerprint(run: Run): string {
  const folders = [run.dir, dirname(run.evaluations), dirname(run.ablation)];
  const records = folders.flatMap((folder) => filesOf(folder).map((name) => join(folder, name)));
  return fingerprint([...records, ...STAGES.map((stage) => join(run.checkpoint(stage), 'latest'))]);
}

function fingerprint(paths: string[]): string {
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

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { RESUME, writeFileAtomic } from '../system/files.ts';
import { noCounts, type PrepareCounts } from './counts.ts';
import { type CorpusState, corpusState } from './store/layout.ts';

// How far the preparation of a corpus has come, and from what input, so that a killed run can resume. Only a hint: if
// anything in it is not valid, it is ignored and the corpus is made from scratch.

/** A point up to which everything is on the disk. */
export interface Reached {
  /** Number of documents and sentences of the input that are done. */
  documents: number;
  sentences: number;
  counts: PrepareCounts;
  corpus: CorpusState;
}

const whole = z.int().nonnegative();
const schema = z.strictObject({
  format: z.literal(1),
  identity: z.string(),
  documents: whole,
  sentences: whole,
  counts: z.record(z.enum(Object.keys(noCounts()) as (keyof PrepareCounts)[]), whole),
  corpus: corpusState,
});

/** The point that an earlier run of this identity reached in the folder `part`; undefined if there is none. */
export function readReached(part: string, identity: string): Reached | undefined {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(join(part, RESUME), 'utf8'));
  } catch {
    return undefined;
  }
  const { data } = schema.safeParse(json);
  return data?.identity === identity ? data : undefined;
}

/** The caller syncs the files of the corpus to the disk first. */
export function writeReached(part: string, identity: string, reached: Reached): void {
  writeFileAtomic(join(part, RESUME), JSON.stringify({ format: 1, identity, ...reached }));
}

/**
 * Two runs of the same identity make the same corpus, to the byte: a hash of the settings, the files that are read (by
 * path, length and time), and the version of Node, whose Unicode tables decide where sentences end. Undefined for standard
 * input, which cannot be read again.
 */
export function identityOf(paths: readonly string[], settings: object): string | undefined {
  if (paths.includes('-')) return undefined;
  const files = paths.flatMap(filesOf).map((path) => {
    const { size, mtimeMs } = statSync(path);
    return [path, size, mtimeMs];
  });
  return createHash('sha256')
    .update(JSON.stringify([files, settings, process.versions.node]))
    .digest('hex');
}

/** The file itself, or all files in the folder. Empty if the path does not exist: the code that reads it reports that. */
function filesOf(path: string): string[] {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) return [];
  if (!found.isDirectory()) return [resolve(path)];
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => resolve(entry.parentPath, entry.name))
    .filter((file) => statSync(file, { throwIfNoEntry: false }))
    .sort();
}

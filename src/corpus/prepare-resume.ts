import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { RESUME, writeFileAtomic } from '../system/files.ts';
import { noCounts, type PrepareCounts } from './counts.ts';
import { type CorpusState, corpusState } from './store/layout.ts';

// How far a corpus has come that is being prepared, and of what, so that a run that was killed can be gone on with. It is
// a help and no more: what in it is not as it should be is passed over, and the corpus made from its beginning.

/** A point where everything before is on the disk. */
export interface Reached {
  /** Documents and sentences of the input that are done. */
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

/** The point that an earlier run of this identity has reached in the folder `part`; undefined where there is none. */
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

/** The files of the corpus must be on the disk before. */
export function writeReached(part: string, identity: string, reached: Reached): void {
  writeFileAtomic(join(part, RESUME), JSON.stringify({ format: 1, identity, ...reached }));
}

/**
 * What makes two runs the same to the byte: the settings, the files read, by path, length and time, and Node, whose
 * Unicode tables end sentences. Undefined of standard input, which cannot be read again.
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

/** The file itself, or all files below the folder; none where nothing is there, of which whoever reads it tells. */
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

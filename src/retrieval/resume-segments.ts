import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type FileDigest, RESUME, writeFileAtomic } from '../system/files.ts';

// The resume manifest of an index that is being built: which segments of its embeddings file are complete, and which of
// its graphs. Only a hint: anything that fails verification is rebuilt.

/** Rows of a segment, the most that a kill can cost: a few seconds of embedding on a GPU. A multiple of the rows embedded and added at once. */
export const SEGMENT_ROWS = 4096;

/** Two builds with the same identity give the same bytes. */
export interface Identity {
  corpusSha256: string;
  weightsSha256: string;
  encoding: string;
  precision: string;
  /** SHA-256 of the embeddings that vectors are copied from; empty for none. */
  reusedFrom: string;
  rows: number;
  dimensions: number;
  dtype: string;
  m: number;
  efConstruction: number;
  /** Number of graphs that share the rows. */
  graphs: number;
}

export interface Segment {
  rows: number;
  sha256: string;
}

/** The complete parts of an index: its first segments, and its first graphs. */
export interface Progress {
  segments: Segment[];
  graphs: FileDigest[];
}

const schema = z.strictObject({
  format: z.literal(2),
  identity: z.record(z.string(), z.union([z.string(), z.number()])),
  shards: z.array(z.strictObject({ rows: z.int().positive(), sha256: z.string() })),
  graphs: z.array(z.strictObject({ bytes: z.int().nonnegative(), sha256: z.string() })),
});

/** What an earlier build of this identity has completed in the folder `part`, by its own account; nothing if anything is invalid. */
export function readProgress(part: string, identity: Identity): Progress {
  const nothing = { segments: [], graphs: [] };
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(join(part, RESUME), 'utf8'));
  } catch {
    return nothing;
  }
  const { success, data } = schema.safeParse(json);
  if (!success || digest(data.identity) !== digest(identity)) return nothing;
  const invalid = data.shards.findIndex(
    ({ rows }, i) => rows !== Math.min(SEGMENT_ROWS, identity.rows - i * SEGMENT_ROWS),
  );
  return {
    segments: invalid < 0 ? data.shards : data.shards.slice(0, invalid),
    graphs: data.graphs.slice(0, identity.graphs),
  };
}

/** Call it only after the rows and graphs are synced to the disk. */
export function writeProgress(part: string, identity: Identity, { segments, graphs }: Progress): void {
  writeFileAtomic(join(part, RESUME), JSON.stringify({ format: 2, identity, shards: segments, graphs }));
}

/** Does not depend on the order of the keys. */
function digest(identity: object): string {
  return createHash('sha256')
    .update(JSON.stringify(Object.entries(identity).sort(([a], [b]) => (a < b ? -1 : 1))))
    .digest('hex');
}

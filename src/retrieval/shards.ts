import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type FileDigest, RESUME, writeFileAtomic } from '../system/files.ts';

// The resume manifest of an index that is being built: which rows of its embeddings file are whole, shard by shard, and
// which of its graphs.
// It is a help and no more: what in it, or in the file, is not as it should be is made anew.

/** Rows of a shard; what a kill can cost. A few seconds of embedding on a GPU, and a multiple of what is embedded and added at once. */
export const SHARD = 4096;

/** What makes two builds the same, to the byte. */
export interface Identity {
  corpusSha256: string;
  weightsSha256: string;
  encoding: string;
  /** SHA-256 of the embeddings that vectors are copied from; empty for none. */
  reusedFrom: string;
  rows: number;
  dimensions: number;
  dtype: string;
  m: number;
  efConstruction: number;
  /** Graphs that share the rows. */
  graphs: number;
}

export interface Shard {
  rows: number;
  sha256: string;
}

/** What is whole of an index: its first shards, and its first graphs. */
export interface Whole {
  shards: Shard[];
  graphs: FileDigest[];
}

const schema = z.strictObject({
  format: z.literal(2),
  identity: z.record(z.string(), z.union([z.string(), z.number()])),
  shards: z.array(z.strictObject({ rows: z.int().positive(), sha256: z.string() })),
  graphs: z.array(z.strictObject({ bytes: z.int().nonnegative(), sha256: z.string() })),
});

/** What an earlier build of this identity says to have left whole in the folder `part`; nothing where anything is strange. */
export function readWhole(part: string, identity: Identity): Whole {
  const nothing = { shards: [], graphs: [] };
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(join(part, RESUME), 'utf8'));
  } catch {
    return nothing;
  }
  const { success, data } = schema.safeParse(json);
  if (!success || digest(data.identity) !== digest(identity)) return nothing;
  const strange = data.shards.findIndex(({ rows }, i) => rows !== Math.min(SHARD, identity.rows - i * SHARD));
  return {
    shards: strange < 0 ? data.shards : data.shards.slice(0, strange),
    graphs: data.graphs.slice(0, identity.graphs),
  };
}

/** The rows and graphs must be on the disk before. */
export function writeWhole(part: string, identity: Identity, whole: Whole): void {
  writeFileAtomic(join(part, RESUME), JSON.stringify({ format: 2, identity, ...whole }));
}

/** The same for the same settings, in whatever order they stand. */
function digest(identity: object): string {
  return createHash('sha256')
    .update(JSON.stringify(Object.entries(identity).sort(([a], [b]) => (a < b ? -1 : 1))))
    .digest('hex');
}

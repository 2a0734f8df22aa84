import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { VectorSource } from '../retrieval/ensure-index.ts';
import type { Shard } from '../retrieval/shards.ts';

// What trainers and workers exchange: one BullMQ queue for all runs, one job a shard. A job holds names and digests, never
// vectors; the result is a file in the run folder.

export const QUEUE = 'realm-shards';

export const shardJobSchema = z.strictObject({
  /** Absolute path of the run folder, the same on all machines. */
  run: z.string(),
  /** Folder in `snapshots` of the run. */
  snapshot: z.string(),
  number: z.int().positive(),
  of: z.int().positive(),
  /** Version of realm, and `engineIdentity`, that the vectors must be made with. */
  version: z.string(),
  engine: z.string(),
  /** Folder of the shards in `shards` of the run, and the content of its file `MARK`: shows that a worker sees the same folder. */
  folder: z.string(),
  mark: z.string(),
});

export type ShardJob = z.infer<typeof shardJobSchema>;

/** File in a folder of shards that a trainer has handed to the queue. */
export const MARK = 'queue.mark';

/** What a worker says about a job that it leaves to others. */
export const refusalSchema = z.object({ refused: z.string() });

/** The result of a job. */
export const doneSchema = z.object({ sha256: z.string() });

/** The same for the same shard of the same vectors in the same run, so that it is in the queue once. BullMQ allows no colon. */
export function jobId(run: string, source: VectorSource, { number, of }: Shard): string {
  const sha = createHash('sha256')
    .update(JSON.stringify([run, source]))
    .digest('hex');
  return `${sha.slice(0, 32)}-${number}-${of}`;
}

/** Largest priority of BullMQ; small numbers come first. */
const LAST = 2 ** 21 - 1;
/** 2026-01-01, in minutes: priorities last until 2030. */
const EPOCH = Date.UTC(2026, 0, 1) / 60_000;

/** The newest snapshot first, whatever its run. */
export function priorityAt(milliseconds: number): number {
  return Math.min(LAST, Math.max(1, LAST - Math.floor(milliseconds / 60_000 - EPOCH)));
}

/** Milliseconds that a worker holds a job without renewing its lock. */
export const LEASE = 60_000;

/** A job that fails is tried by another worker: three times in all, after 5 and 10 s. */
export const ATTEMPTS = { attempts: 3, backoff: { type: 'exponential', delay: 5000 } } as const;

/** Seconds that results stay in Redis. */
export const KEPT = { age: 3600 };

import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Run } from '../run/folder.ts';

// What the trainer last saw in the queue, for `realm status` and the report: a file in the run folder, so that they need
// neither the address nor the password of the server.

const stateSchema = z.object({
  /** ISO 8601. */
  time: z.string(),
  host: z.string(),
  pid: z.number(),
  /** The address without the password. */
  queue: z.string(),
  snapshot: z.string(),
  /** How many shards there are, and how many of them the index still lacks. */
  shards: z.number(),
  left: z.number(),
  /** Shards that no worker could make. */
  failed: z.number(),
  /** Names of all workers of the queue. */
  workers: z.array(z.string()),
  /** Shards that a worker of the queue holds, and seconds since it last renewed its lease. */
  leases: z.array(z.object({ shard: z.number(), worker: z.string(), seconds: z.number() })),
});

export type QueueState = z.infer<typeof stateSchema>;

/** The state in one phrase. */
export function queueSummary({ queue, snapshot, shards, left, failed, workers, leases }: QueueState): string {
  return [
    `queue ${queue}: ${shards - left} of ${shards} shards of ${snapshot} are used`,
    `${leases.length} at work`,
    `${left - leases.length - failed} waiting or done`,
    ...(failed > 0 ? [`${failed} failed`] : []),
    workers.length === 1 ? '1 worker' : `${workers.length} workers`,
  ].join(', ');
}

const pathOf = ({ dir }: Run) => join(dir, 'queue.json');

/** Errors are ignored: the state is only shown. */
export function writeState(run: Run, state: QueueState): void {
  const aside = `${pathOf(run)}.${process.pid}.tmp`;
  try {
    writeFileSync(aside, `${JSON.stringify(state)}\n`);
    renameSync(aside, pathOf(run));
  } catch {}
}

export function removeState(run: Run): void {
  try {
    rmSync(pathOf(run), { force: true });
  } catch {}
}

/** The last state; undefined if no index is being made by the queue. */
export function readState(run: Run): QueueState | undefined {
  try {
    return stateSchema.safeParse(JSON.parse(readFileSync(pathOf(run), 'utf8'))).data;
  } catch {
    return undefined;
  }
}

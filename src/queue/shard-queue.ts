import { hostname } from 'node:os';
import { basename, resolve } from 'node:path';
import { Queue } from 'bullmq';
import { type Shard, type ShardOrigin, shardFolder } from '../retrieval/shards.ts';
import type { Run } from '../run/folder.ts';
import { shownAddress } from './address.ts';
import { connect, inTime } from './connection.ts';
import {
  ATTEMPTS,
  doneSchema,
  jobId,
  KEPT,
  LEASE,
  priorityAt,
  QUEUE,
  refusalSchema,
  type ShardJob,
} from './jobs.ts';
import { writeState } from './state.ts';

/** What a trainer hands to the workers. */
export interface HandedOut {
  url: URL;
  run: Run;
  /** Folder in `run.snapshots` with the weights. */
  snapshot: string;
  /** What every shard must be made from and by. */
  origin: ShardOrigin;
  /** Into how many shards the blocks are divided. */
  shards: number;
}

/** What the queue knows of a shard. */
export interface Seen {
  shard: Shard;
  /** A job that a worker holds without a lease, because it was killed, is waiting: another one will take it. */
  state: 'waiting' | 'active' | 'failed' | 'done' | 'lost';
  /** The worker that holds it, and seconds since it renewed its lease. */
  worker?: string;
  leaseAge?: number;
  /** Why it failed. */
  reason?: string;
  /** Of its file. */
  sha256?: string;
}

/** The queue as a trainer uses it. */
export interface ShardQueue {
  /** What became of these shards. Fails within seconds if the server does not answer, as does `add`. */
  look(shards: readonly Shard[]): Promise<Seen[]>;
  /** Hands out shards. */
  add(shards: readonly Shard[]): Promise<void>;
  /** Why the last worker that looked at a shard has left it to others. */
  refusal(shard: Shard): Promise<string | undefined>;
  /** Takes a shard out of the queue, so that no worker begins it; one that is at work finishes it for nothing. */
  remove(shard: Shard): Promise<void>;
  close(): void;
}

/**
 * Opens the queue, and takes out what earlier snapshots of the run have left in it.
 * @param mark see `ShardJob`
 */
export async function openShardQueue(handedOut: HandedOut, mark: string): Promise<ShardQueue> {
  const { url, run, snapshot, origin } = handedOut;
  // A Queue that finds no server when it is made can never be used.
  const client = await connect(url, false);
  const queue = new Queue<ShardJob>(QUEUE, { connection: client });
  queue.on('error', () => {});
  const dir = resolve(run.dir);
  const folder = basename(shardFolder(run.shards, origin));
  const id = (shard: Shard) => jobId(dir, origin, shard);

  async function add(wanted: readonly Shard[]): Promise<void> {
    if (wanted.length === 0) return;
    await queue.addBulk(
      wanted.map((shard) => ({
        name: `${snapshot} ${shard.number}/${shard.of}`,
        data: { run: dir, snapshot, ...shard, version: origin.version, engine: origin.engine, folder, mark },
        opts: {
          jobId: id(shard),
          priority: priorityAt(Date.now()),
          removeOnComplete: KEPT,
          removeOnFail: KEPT,
          ...ATTEMPTS,
        },
      })),
    );
  }

  async function dropSuperseded(): Promise<void> {
    const jobs = await queue.getJobs(['waiting', 'prioritized', 'delayed', 'failed', 'completed']);
    for (const job of jobs) {
      if (job?.data.run !== dir) continue;
      // One that has ended would keep the same shard from being handed out again.
      if (job.finishedOn !== undefined || job.data.mark !== mark || job.data.of !== handedOut.shards)
        await queue.remove(job.id!);
    }
  }

  async function seenJob(shard: Shard): Promise<Seen> {
    const state = await queue.getJobState(id(shard));
    if (state === 'unknown') return { shard, state: 'lost' };
    if (!['active', 'failed', 'completed'].includes(state)) return { shard, state: 'waiting' };
    const job = await queue.getJob(id(shard));
    if (!job) return { shard, state: 'lost' };
    if (state === 'failed') return { shard, state, reason: job.failedReason };
    if (state === 'completed')
      return { shard, state: 'done', sha256: doneSchema.safeParse(job.returnvalue).data?.sha256 };
    const left = await client.pttl(`${queue.toKey(job.id!)}:lock`);
    // One that is about to leave it to others does no work: else such workers would keep a trainer waiting for ever.
    const refused = refusalSchema.safeParse(job.progress).success;
    if (left < 0 || refused) return { shard, state: 'waiting' };
    return { shard, state: 'active', worker: job.processedBy, leaseAge: Math.max(0, LEASE - left) / 1000 };
  }

  async function look(wanted: readonly Shard[]): Promise<Seen[]> {
    const seen = await Promise.all(wanted.map(seenJob));
    const workers = await queue.getWorkers();
    const active = seen.filter(({ state }) => state === 'active');
    writeState(run, {
      time: new Date().toISOString(),
      host: hostname(),
      pid: process.pid,
      queue: shownAddress(url),
      snapshot,
      shards: handedOut.shards,
      left: wanted.length,
      failed: seen.filter(({ state }) => state === 'failed').length,
      workers: workers.map(({ rawname }) => rawname?.split(':w:')[1] ?? '?'),
      leases: active.map(({ shard, worker, leaseAge }) => ({
        shard: shard.number,
        worker: worker ?? '?',
        seconds: leaseAge!,
      })),
    });
    return seen;
  }

  const close = () => {
    client.disconnect();
    queue.close().catch(() => {});
  };
  try {
    await inTime(dropSuperseded());
  } catch (error) {
    close();
    throw error;
  }
  return {
    look: (wanted) => inTime(look(wanted)),
    add: (wanted) => inTime(add(wanted)),
    refusal: (shard) =>
      inTime(queue.getJob(id(shard)))
        .then((job) => refusalSchema.safeParse(job?.progress).data?.refused)
        .catch(() => undefined),
    remove: (shard) =>
      inTime(queue.remove(id(shard))).then(
        () => {},
        () => {},
      ),
    close,
  };
}

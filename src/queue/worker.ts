import { once } from 'node:events';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { DelayedError, type Job, UnrecoverableError, WaitingError, Worker } from 'bullmq';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { inside } from '../system/files.ts';
import { VERSION } from '../system/version.ts';
import { queueTrouble, shownAddress } from './address.ts';
import { connect } from './connection.ts';
import { askIdentity, embedInChild, type WorkerEngine } from './embed-child.ts';
import { LEASE, MARK, QUEUE, type ShardJob, shardJobSchema } from './jobs.ts';
import { probeFolder } from './shared-folder.ts';

// A worker: takes one shard after another from the queue and has it embedded. It holds nothing that could be lost; if it
// is killed, its lease runs out and another worker takes the shard.

export interface WorkerOptions extends WorkerEngine {
  url: URL;
  /** Prints one line for the user. */
  say(line: string): void;
}

/** Times, replaced only by tests; in milliseconds. */
export interface WorkerTimes {
  lease: number;
  /** Before a job that was refused is offered again, and before this worker looks for another one. */
  refused: number;
  pause: number;
  /** That the worker may take to end. */
  grace: number;
}

const TIMES: WorkerTimes = { lease: LEASE, refused: 1000, pause: 30_000, grace: 15_000 };

/** Longest pause after failures, as a multiple of the first one. */
const MAX_PAUSE = 16;

/** A lease that ran out this often in a row, by machines that were switched off, does not mean that the shard is at fault. */
const MAX_STALLED = 5;

/**
 * Works until `signal` is aborted; then it gives back the shard it is at. Waits as long as the server is away.
 * A `UserError` if the server cannot be reached at the start, or the engine does not start.
 * @returns whether BullMQ has ended. It may never end where the server was lost: it waits for a connection that ioredis has
 * given up without a word. The process must then exit, since BullMQ's timers would keep it.
 */
export async function work(
  options: WorkerOptions,
  signal: AbortSignal,
  times: WorkerTimes = TIMES,
): Promise<boolean> {
  const { url, say } = options;
  const engine = await askIdentity(options.engine);
  const at = `queue ${shownAddress(url)}`;
  let client: Awaited<ReturnType<typeof connect>>;
  try {
    client = await connect(url, true);
  } catch (error) {
    throw new UserError(
      `${at}: cannot be used (${queueTrouble(error, url)}); start the server, or check address and password`,
    );
  }
  const name = `${hostname()}-${process.pid}`;
  let pause = times.pause;
  let done = 0;

  /** Lets others have the next jobs: a worker that fails or refuses at once would else go through the whole queue. */
  function rest(milliseconds: number): void {
    void worker.pause(true);
    setTimeout(() => {
      if (!signal.aborted) void worker.resume();
    }, milliseconds).unref();
  }

  async function embed(job: Job<ShardJob>, token?: string): Promise<{ sha256: string }> {
    const parsed = shardJobSchema.safeParse(job.data);
    const shard = `${job.name} of ${job.data?.run}`;
    if (parsed.success && isSuperseded(parsed.data))
      throw new UnrecoverableError('its snapshot is gone: a newer one has replaced it');
    const refused = parsed.success
      ? reasonToRefuse(parsed.data, engine)
      : 'another version of realm made this job';
    if (refused !== undefined) {
      say(`${at}: left ${shard} to other workers: ${refused}`);
      await job.updateProgress({ refused: `${name}: ${refused}` });
      await job.moveToDelayed(Date.now() + times.refused, token);
      rest(times.pause);
      throw new DelayedError();
    }
    const data = parsed.data!;
    try {
      await job.updateProgress({}); // the refusal of another worker
      say(`${at}: embedding ${shard}`);
      const sha256 = await embedInChild(data, options, signal);
      // The trainer did not wait for it and has removed the folder.
      const folder = folderOf(data);
      if (markIn(folder) === undefined) rmSync(folder, { recursive: true, force: true });
      pause = times.pause;
      done++;
      say(`${at}: ${shard} is done, ${done} in all`);
      return { sha256 };
    } catch (error) {
      if (signal.aborted) {
        await job.moveToWait(token);
        throw new WaitingError();
      }
      say(`${at}: ${shard} failed (${(error as Error).message}); trying another one in ${pause / 1000} s`);
      rest(pause);
      pause = Math.min(2 * pause, MAX_PAUSE * times.pause);
      throw error;
    }
  }

  const worker = new Worker<ShardJob, { sha256: string }>(QUEUE, embed, {
    connection: client,
    name,
    lockDuration: times.lease,
    stalledInterval: times.lease / 2,
    maxStalledCount: MAX_STALLED,
  });
  // The same trouble is reported once, until a job comes again.
  let reported = '';
  worker.on('error', (error) => {
    const what = queueTrouble(error, url);
    if (what !== reported) say(`${at}: ${what}; waiting`);
    reported = what;
  });
  worker.on('active', () => {
    reported = '';
  });
  say(`${at}: waiting for shards, as ${name} with realm ${VERSION}, ${engine}`);
  if (!signal.aborted) await once(signal, 'abort');
  // Without the server its shard cannot be given back: the lease will run out.
  const closed = worker.close().then(
    () => true,
    () => false,
  );
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, times.grace, false);
  });
  const ended = await Promise.race([closed, late]);
  clearTimeout(timer);
  client.disconnect();
  return ended;
}

function isSuperseded({ run, snapshot }: ShardJob): boolean {
  const { config, snapshots } = runFolder(run);
  return existsSync(config) && !existsSync(join(snapshots, snapshot)); // without the settings this is no run at all
}

/** Why this worker must leave a job to others; undefined if it can do it. */
function reasonToRefuse(job: ShardJob, engine: string): string | undefined {
  if (job.version !== VERSION) return `it has realm ${VERSION}, and the trainer ${job.version}`;
  if (job.engine !== engine) return `it computes with ${engine}, and the trainer with ${job.engine}`;
  const folder = folderOf(job);
  if (markIn(folder) !== job.mark)
    return `it does not see the trainer's files in ${folder}; mount the shared folder at the same path`;
  try {
    probeFolder(folder);
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  return undefined;
}

const folderOf = ({ run, folder }: ShardJob) => inside(runFolder(run).shards, folder);

function markIn(folder: string): string | undefined {
  try {
    return readFileSync(join(folder, MARK), 'utf8');
  } catch {
    return undefined;
  }
}

import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  difference,
  findShard,
  listShards,
  type Shard,
  type ShardFile,
  shardFolder,
  shardName,
  shardRange,
  shardRows,
} from '../retrieval/shards.ts';
import { type TaskControl, yieldToEventLoop } from '../retrieval/task-control.ts';
import type { Run } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { writeFileAtomic } from '../system/files.ts';
import { queueTrouble, shownAddress } from './address.ts';
import { MARK } from './jobs.ts';
import { type HandedOut, openShardQueue, type Seen, type ShardQueue } from './shard-queue.ts';
import { probeFolder } from './shared-folder.ts';
import { removeState } from './state.ts';

// The trainer's side of the queue. It hands the shards of one snapshot to the workers, takes their files in order, and embeds
// here what no worker makes. The files are the truth: a job that is lost, done twice or reported wrongly costs time, and
// never a vector. The queue holds nothing that cannot be handed out again.

export interface HandOut extends HandedOut {
  /** Embeds the blocks from `first` to `end` here. */
  embed(first: number, end: number): AsyncIterable<Float32Array>;
  /** Prints one sentence for the user. */
  say(sentence: string): void;
}

/** Times, replaced only by tests; in milliseconds. */
export interface QueueTimes {
  /** Between two looks at the queue. */
  poll: number;
  /** Without a worker, or without the Redis server, for so long, the next shard is embedded here. */
  patience: number;
}

const TIMES: QueueTimes = { poll: 1000, patience: 60_000 };

/** How many shards `refresh.shards: null` makes: about 8,192 blocks each. */
export function shardCount(blocks: number, setting: number | null): number {
  return setting ?? Math.max(1, Math.ceil(blocks / 8192));
}

/**
 * The vectors of all blocks from `first` on, in order, by the workers of the queue. It never fails because of them: without
 * the server or a worker, it embeds here.
 */
export async function* queuedEmbeddings(
  handOut: HandOut,
  first: number,
  control: TaskControl = {},
  times: QueueTimes = TIMES,
): AsyncGenerator<Float32Array> {
  const { origin, shards, say, url } = handOut;
  const all = Array.from({ length: shards }, (_, i) => ({ number: i + 1, of: shards }));
  const wanted = all.filter((shard) => {
    const range = shardRange(shard, origin.rows);
    return range.end > first && range.end > range.first;
  });
  const folder = shardFolder(handOut.run.shards, origin);
  const said = new Set<string>();
  const once = (key: string, sentence: string) => {
    if (!said.has(key)) say(`queue ${shownAddress(url)}: ${sentence}`);
    said.add(key);
  };
  let mark: string;
  try {
    mark = prepareFolder(handOut.run, folder);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    once('folder', `${error.message}; this machine embeds all blocks itself`);
    const range = shardRange(wanted[0], origin.rows);
    yield* handOut.embed(Math.max(first, range.first), origin.rows);
    return;
  }
  let queue: ShardQueue | undefined;
  /** When a worker last held a shard or finished one. */
  let alive = performance.now();
  /** Since when the server does not answer. */
  let silentSince: number | undefined;
  const left = new Set(wanted);

  /** Those of which no file is there. An old server may have lost a job, and a new one never had it, and its work may be done. */
  function withoutFile(lost: readonly Seen[]): Shard[] {
    if (lost.length === 0) return [];
    const there = listShards(folder).filter((file) => difference(file.origin, origin) === undefined);
    const done = new Set(there.map(({ shard }) => shardName(shard)));
    return lost.map(({ shard }) => shard).filter((shard) => !done.has(shardName(shard)));
  }

  /** The file of a shard, as soon as it is there; undefined if it is to be embedded here. */
  async function arrival(shard: Shard): Promise<ShardFile | undefined> {
    for (let sha256: string | undefined; ; ) {
      const file = await findShard(folder, shard, origin, control, sha256);
      if (file) {
        alive = performance.now();
        return file;
      }
      let seen: Seen[] = [];
      try {
        queue ??= await openShardQueue(handOut, mark);
        seen = await queue.look([...left]);
        await queue.add(withoutFile(seen.filter(({ state }) => state === 'lost')));
        silentSince = undefined;
      } catch (error) {
        queue?.close();
        queue = undefined;
        silentSince ??= performance.now();
        if (performance.now() - silentSince > times.patience) {
          once(
            'silent',
            `cannot be reached (${queueTrouble(error, url)}); this machine embeds the shards itself`,
          );
          return undefined;
        }
      }
      if (seen.some(({ state }) => state === 'active')) alive = performance.now();
      const mine = seen.find((one) => one.shard === shard);
      if (mine?.state === 'failed') {
        say(
          `queue ${shownAddress(url)}: shard ${shardName(shard)} failed (${mine.reason}); this machine embeds it itself`,
        );
        return undefined;
      }
      if (queue && performance.now() - alive > times.patience) {
        const refused = await queue.refusal(shard);
        once(
          'workers',
          `no worker has taken a shard for ${times.patience / 1000} s${refused ? ` (one refused: ${refused})` : ''}; this machine embeds shards itself until one does`,
        );
        return undefined;
      }
      sha256 = mine?.sha256;
      await new Promise((resolve) => setTimeout(resolve, times.poll));
      await yieldToEventLoop(control);
    }
  }

  try {
    for (const shard of wanted) {
      const file = await arrival(shard);
      left.delete(shard);
      if (file) {
        yield* shardRows(file, first, control);
        continue;
      }
      await queue?.remove(shard);
      const range = shardRange(shard, origin.rows);
      yield* handOut.embed(Math.max(first, range.first), range.end);
    }
  } finally {
    queue?.close();
    removeState(handOut.run);
  }
}

/**
 * Makes the folder for the shards, checks it, and marks it for the workers. Folders that an earlier hand-out of the run has marked are of
 * weights that nobody needs any more.
 * @returns the mark
 */
function prepareFolder({ shards }: Run, folder: string): string {
  probeFolder(folder);
  const path = join(folder, MARK);
  // A trainer that was stopped has left its mark, and perhaps jobs that have it.
  if (!existsSync(path)) writeFileAtomic(path, randomUUID());
  for (const name of readdirSync(shards)) {
    const other = join(shards, name);
    if (other !== folder && existsSync(join(other, MARK))) rmSync(other, { recursive: true, force: true });
  }
  return readFileSync(path, 'utf8');
}

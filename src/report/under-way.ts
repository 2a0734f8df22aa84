import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type QueueState, readState } from '../queue/state.ts';
import type { Run } from '../run/folder.ts';
import { type LogLine, logFile, progressFile } from '../system/journal.ts';
import { lookAtLock } from '../system/lock.ts';
import { readLog } from './log.ts';

// The command that is running in a run folder, from its lock and its journal. Only reads, and does not fail on a missing or
// damaged file.

const published = z.object({
  pid: z.number(),
  started: z.string(),
  time: z.string(),
  name: z.string(),
  done: z.number(),
  total: z.number(),
  unit: z.string().optional(),
  remark: z.string().catch(''),
  rate: z.number().optional(),
  left: z.number().optional(),
  memory: z.number(),
});

export interface UnderWay {
  /** The command, such as `pretrain`. */
  command: string;
  pid: number;
  host: string;
  /** ISO 8601: when it locked the run folder. */
  since: string;
  /** False if its process has ended without releasing the lock; null if it runs on another host. */
  alive: boolean | null;
  /** Its progress; null before it has started to count. */
  progress: {
    name: string;
    done: number;
    total: number;
    /** What `rate` counts a second; null if only `done` is counted. */
    unit: string | null;
    rate: number | null;
    /** Seconds left. */
    left: number | null;
    remark: string;
    /** Bytes that the process held. */
    memory: number;
    /** ISO 8601: time of these values. */
    time: string;
  } | null;
  /** Process that builds an index at the same time; null if there is none. */
  refresher: number | null;
  /** The shards that workers embed for it; null if there is no queue. */
  queue: QueueState | null;
}

export function underWay(run: Run): UnderWay | undefined {
  const path = join(run.dir, 'lock');
  const holder = lookAtLock(path);
  if (!holder) return undefined;
  const { work, pid, host, started, lives } = holder;
  const builder = lookAtLock(join(run.index, 'lock'));
  const progress = readPublished(progressFile(run.dir));
  const queue = readState(run); // perhaps of a process that was killed
  return {
    command: String(work),
    pid,
    host,
    since: new Date(statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()).toISOString(),
    alive: lives ?? null,
    progress:
      progress && progress.pid === pid && progress.started === started
        ? {
            name: progress.name,
            done: progress.done,
            total: progress.total,
            unit: progress.unit ?? null,
            rate: progress.rate ?? null,
            left: progress.left ?? null,
            remark: progress.remark,
            memory: progress.memory,
            time: progress.time,
          }
        : null,
    refresher: builder?.lives && builder.pid !== pid ? builder.pid : null,
    queue: queue && [pid, builder?.pid].includes(queue.pid) ? queue : null,
  };
}

function readPublished(path: string): z.infer<typeof published> | undefined {
  try {
    return published.safeParse(JSON.parse(readFileSync(path, 'utf8'))).data;
  } catch {
    return undefined;
  }
}

const logLine: z.ZodType<LogLine> = z.object({
  time: z.string(),
  work: z.string(),
  kind: z.enum(['note', 'trouble']),
  line: z.string(),
});

/** The last warning or error that a command printed while it worked in the run. */
export function lastTrouble(run: Run): LogLine | undefined {
  return readLog(logFile(run.dir), () => {
    const result: { last?: LogLine } = {};
    return {
      result,
      take(line) {
        const read = logLine.safeParse(line).data;
        if (read?.kind === 'trouble') result.last = read;
      },
    };
  })?.last;
}

import { hostname } from 'node:os';
import type { QueueState } from '../../src/queue/state.ts';

/** What this process has last seen in a queue: eight shards, one of them at `worker`. */
export function queueState(worker: string): QueueState {
  return {
    time: new Date().toISOString(),
    host: hostname(),
    pid: process.pid,
    queue: 'redis://host:6379',
    snapshot: 'step-0000500',
    shards: 8,
    left: 5,
    failed: 1,
    workers: [worker, 'b-2'],
    leases: [{ shard: 4, worker, seconds: 12.4 }],
  };
}

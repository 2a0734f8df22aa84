import { installOnFirstUse } from '../engine/install.ts';
import type { EngineName } from '../engine.ts';
import { queueAddress } from '../queue/address.ts';
import { work } from '../queue/worker.ts';
import { say } from '../system/progress.ts';
import { leave, onStop, stopMeans } from '../system/stop.ts';

/** Options of `realm worker`. */
export interface WorkerCommand {
  queue: string;
  engine: 'auto' | EngineName;
  threads?: number;
}

/** Embeds shards of all runs that are handed to a queue, until a signal comes; then the shard in progress goes back to the queue. */
export async function runWorker({ queue, engine, threads }: WorkerCommand): Promise<void> {
  const url = queueAddress(queue);
  stopMeans('its shard goes to another worker');
  if (engine === 'auto' || engine === 'tensorflow') await installOnFirstUse();
  const stop = new AbortController();
  const forget = onStop(() => {
    if (stop.signal.aborted) leave();
    stop.abort();
  });
  try {
    await work({ url, engine, threads, say }, stop.signal);
    say('the worker has stopped; its shard went back to the queue');
  } finally {
    forget();
  }
}

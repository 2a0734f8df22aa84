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
    const ended = await work({ url, engine, threads, say }, stop.signal);
    const shard = ended ? 'went back to the queue' : 'goes to another worker when its lease runs out';
    say(`the worker has stopped; its shard ${shard}`);
    if (!ended) process.exit(); // see `work`
  } finally {
    forget();
  }
}

import { setImmediate, setTimeout } from 'node:timers/promises';

/** Thrown when the queue is full. */
export class Busy extends Error {
  override name = 'Busy';
}

export interface Batches<Item, Result> {
  /** The result of one item. Throws `Busy` if the queue is full, and the reason of `signal` if it is aborted while the item waits. */
  run(item: Item, signal?: AbortSignal): Promise<Result>;
}

interface Waiting<Item, Result> {
  item: Item;
  signal: AbortSignal | undefined;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** Milliseconds that work which could start waits for more items, if it takes longer than that. */
const PATIENCE = 2;

export interface BatchLimits<Item> {
  /** Most batches that are worked on at the same time. */
  atOnce: number;
  /** Most items of a batch. */
  most: number;
  /** Most items that wait. */
  waiting: number;
  /** Which items need a batch of their own. */
  alone(item: Item): boolean;
}

/**
 * Does work in batches, in order of arrival: the items that wait when `work` is free make the next batches, which share
 * them equally. If a batch fails, its items are tried one by one, so that one bad item does not fail the others.
 * @param work returns a result for each item, in the same order
 */
export function inBatches<Item, Result>(
  work: (items: Item[]) => Promise<Result[]>,
  { atOnce, most, waiting, alone }: BatchLimits<Item>,
): Batches<Item, Result> {
  const queue: Waiting<Item, Result>[] = [];
  /** Of the `atOnce` that may take batches: those that are looking for one or at work, and those at work. */
  let taking = 0;
  let working = 0;

  const serve = async (batch: Waiting<Item, Result>[]): Promise<void> => {
    try {
      const results = await work(batch.map(({ item }) => item));
      batch.forEach(({ resolve }, i) => {
        resolve(results[i]);
      });
    } catch (error) {
      if (batch.length === 1) batch[0].reject(error);
      else for (const one of batch) await serve([one]);
    }
  };

  const nextBatch = (): Waiting<Item, Result>[] => {
    const batch: Waiting<Item, Result>[] = [];
    const share = Math.min(most, Math.ceil(queue.length / (atOnce - working)));
    while (queue.length > 0 && batch.length < share) {
      const [{ item, signal, reject }] = queue;
      if (!signal?.aborted && batch.length > 0 && (alone(item) || alone(batch[0].item))) break;
      const one = queue.shift()!;
      if (signal?.aborted) reject(signal.reason);
      else batch.push(one);
    }
    return batch;
  };

  /** Whoever got a result may send the next item at once: waits until as many as got one have done so, but not for long. */
  const gather = async (items: number): Promise<void> => {
    for (let left = PATIENCE; left > 0 && items > 1 && queue.length < items; left--) await setTimeout(1);
  };

  const workThroughQueue = async (): Promise<void> => {
    taking++;
    while (queue.length > 0) {
      await setImmediate(); // items that arrived in the meantime join the batch
      const batch = nextBatch();
      if (batch.length === 0) continue;
      working++;
      const start = performance.now();
      await serve(batch);
      working--;
      if (performance.now() - start > PATIENCE) await gather(batch.length);
    }
    taking--;
  };

  return {
    run: (item, signal) =>
      new Promise((resolve, reject) => {
        if (queue.length >= waiting) {
          reject(new Busy(`${waiting} questions are already waiting`));
          return;
        }
        queue.push({ item, signal, resolve, reject });
        if (taking < atOnce) void workThroughQueue();
      }),
  };
}

import { setImmediate } from 'node:timers/promises';

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

/**
 * Does work in batches, in order of arrival: the items that wait when `work` is free make the next batch. If a batch fails,
 * its items are tried one by one, so that one bad item does not fail the others.
 * @param work returns a result for each item, in the same order
 * @param limits most items of a batch, most items that wait, and which items need a batch of their own
 */
export function inBatches<Item, Result>(
  work: (items: Item[]) => Promise<Result[]>,
  { most, waiting, alone }: { most: number; waiting: number; alone(item: Item): boolean },
): Batches<Item, Result> {
  const queue: Waiting<Item, Result>[] = [];
  let working = false;

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
    while (queue.length > 0 && batch.length < most) {
      const [{ item, signal, reject }] = queue;
      if (!signal?.aborted && batch.length > 0 && (alone(item) || alone(batch[0].item))) break;
      const one = queue.shift()!;
      if (signal?.aborted) reject(signal.reason);
      else batch.push(one);
    }
    return batch;
  };

  const workThroughQueue = async (): Promise<void> => {
    working = true;
    while (queue.length > 0) {
      await setImmediate(); // items that arrived in the meantime join the batch
      const batch = nextBatch();
      if (batch.length > 0) await serve(batch);
    }
    working = false;
  };

  return {
    run: (item, signal) =>
      new Promise((resolve, reject) => {
        if (queue.length >= waiting) {
          reject(new Busy(`${waiting} questions are already waiting`));
          return;
        }
        queue.push({ item, signal, resolve, reject });
        if (!working) void workThroughQueue();
      }),
  };
}

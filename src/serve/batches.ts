import { setImmediate } from 'node:timers/promises';

/** What is thrown where as many wait as may. */
export class Busy extends Error {
  override name = 'Busy';
}

export interface Batches<Item, Result> {
  /** The result of one item; `Busy` where too many wait, the reason of `signal` where that is aborted while it waits. */
  run(item: Item, signal?: AbortSignal): Promise<Result>;
}

interface Waiting<Item, Result> {
  item: Item;
  signal: AbortSignal | undefined;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/**
 * Work that is done a batch at a time, first come, first served: whatever waits when `work` gets free makes the next
 * batch. Where a batch fails its items are tried one by one, so that none suffers from another.
 * @param work gives a result for each item, in their order
 * @param limits items of a batch, items that may wait, and those that must have a batch to themselves
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

  const workOff = async (): Promise<void> => {
    working = true;
    while (queue.length > 0) {
      await setImmediate(); // what has come over the network meanwhile joins the batch
      const batch = nextBatch();
      if (batch.length > 0) await serve(batch);
    }
    working = false;
  };

  return {
    run: (item, signal) =>
      new Promise((resolve, reject) => {
        if (queue.length >= waiting) {
          reject(new Busy(`${waiting} questions wait already`));
          return;
        }
        queue.push({ item, signal, resolve, reject });
        if (!working) void workOff();
      }),
  };
}

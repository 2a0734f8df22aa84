import { Worker } from 'node:worker_threads';
import { errorCode, UserError } from '../system/errors.ts';
import type { TokenizerSettings, WordPiece } from '../tokenizer/wordpiece.ts';
import type { EncodedBatch } from './encoded-batch.ts';
import type { Batch, SplitSettings } from './split.ts';
import { openSplitter } from './split-tagged.ts';

/** What a split worker starts from. */
export interface SplitWorkerData {
  vocabulary: readonly string[];
  tokenizer: TokenizerSettings;
  settings: SplitSettings;
  /** Folder of the NER model that finds the salient spans; undefined for the built-in rules. */
  ner: string | undefined;
}

/** Batches that this thread splits before it starts workers: a worker takes about as long to load what it needs. */
const BATCHES_BEFORE_WORKERS = 8;

/** Batches that wait for a worker while it splits another, so that it is never idle. */
const BATCHES_AHEAD = 2;

/**
 * Splits batches on `threads` threads and yields them in the order they came, with a bounded number in progress. Threads
 * and not processes: they end with this process however it ends, and the numbers of a batch move without a copy. For one
 * thread, and for the first batches, this thread splits itself. A model `ner` runs in workers from the first batch on, since
 * a batch takes it seconds; each worker opens its own. The first error of a worker is thrown and ends all workers.
 */
export async function* splitAll(
  batches: AsyncIterable<Batch>,
  vocab: WordPiece,
  settings: SplitSettings,
  threads: number,
  ner?: string,
): AsyncGenerator<{ batch: Batch; encoded: EncodedBatch }> {
  const workers: SplitWorker[] = [];
  const inProgress: { batch: Batch; encoded: Promise<EncodedBatch> }[] = [];
  let here = threads === 1 ? Number.POSITIVE_INFINITY : ner === undefined ? BATCHES_BEFORE_WORKERS : 0;
  const splitHere = here > 0 ? await openSplitter(vocab, settings, ner) : undefined;
  try {
    for await (const batch of batches) {
      if (splitHere && here-- > 0) {
        yield { batch, encoded: await splitHere(batch) };
        continue;
      }
      // Workers are started only when needed: a model takes a gigabyte in each.
      if (workers.length < threads && workers.every((worker) => worker.pending() > 0))
        workers.push(startWorker(vocab, settings, ner));
      const leastBusy = workers.reduce((a, b) => (b.pending() < a.pending() ? b : a));
      inProgress.push({ batch, encoded: leastBusy.split(batch) });
      if (inProgress.length < threads * (1 + BATCHES_AHEAD)) continue;
      const first = inProgress.shift()!;
      yield { batch: first.batch, encoded: await first.encoded };
    }
    for (const { batch, encoded } of inProgress) yield { batch, encoded: await encoded };
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()));
  }
}

interface SplitWorker {
  /** Batches sent and not yet back. */
  pending(): number;
  split(batch: Batch): Promise<EncodedBatch>;
  stop(): Promise<unknown>;
}

function startWorker(
  { vocabulary, settings: tokenizer }: WordPiece,
  settings: SplitSettings,
  ner: string | undefined,
): SplitWorker {
  const data: SplitWorkerData = { vocabulary, tokenizer, settings, ner };
  const worker = new Worker(new URL('./split-worker.mjs', import.meta.url), { workerData: data });
  const waiting: { resolve(encoded: EncodedBatch): void; reject(error: unknown): void }[] = []; // in the order sent
  let failure: unknown;

  function fail(error: unknown): void {
    failure ??= error;
    for (const { reject } of waiting.splice(0)) reject(failure);
  }
  worker.on('message', (encoded: EncodedBatch) => waiting.shift()?.resolve(encoded));
  worker.on('error', (error) => fail(explain(error)));
  worker.on('exit', (code) => fail(new Error(`a split worker ended with exit code ${code}`)));

  return {
    pending: () => waiting.length,
    split(batch) {
      const encoded = new Promise<EncodedBatch>((resolve, reject) => {
        if (failure !== undefined) reject(failure);
        else waiting.push({ resolve, reject });
      });
      encoded.catch(() => {}); // thrown when its turn comes
      worker.postMessage(batch);
      return encoded;
    },
    stop: () => worker.terminate(),
  };
}

/** A `UserError` for what is not a fault of the program. Each thread has a heap of its own, with Node's limit for it. */
function explain(error: Error): Error {
  if (error.name === 'UserError') return new UserError(error.message); // the class is lost between threads
  if (errorCode(error) !== 'ERR_WORKER_OUT_OF_MEMORY') return error;
  return new UserError(
    'prepare: a thread ran out of memory; give Node more (NODE_OPTIONS=--max-old-space-size=8192) or split the longest documents, then run the same command again',
  );
}

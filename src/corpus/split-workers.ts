import { Worker } from 'node:worker_threads';
import { errorCode, UserError } from '../system/errors.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import type { Batch, SplitBatch, SplitSettings } from './split.ts';
import { openSplitter } from './split-tagged.ts';

/** What a cutting thread starts from. */
export interface SplitWorkerData {
  vocabulary: readonly string[];
  lowercase: boolean;
  settings: SplitSettings;
  /** Folder of the model that finds the salient spans; undefined: the default's rules do. */
  ner: string | undefined;
}

/** Batches that are cut before threads are started: a thread takes about as long to load what it needs. */
const CUT_HERE = 8;

/** Batches that wait for a thread beside the one it cuts, so that it need not wait for the next. */
const AHEAD = 2;

/**
 * Cuts batches on `threads` threads and hands them out in the order they came, with a bounded number of them under way.
 * Threads rather than processes: they die with this one however it ends, and the numbers of a batch move over without
 * being copied. One thread, or few batches, are cut right here. A model `ner` works in threads from the first batch on, which
 * takes it seconds, and each thread opens its own. The first error of a thread is thrown, and ends all.
 */
export async function* splitAll(
  batches: AsyncIterable<Batch>,
  vocab: WordPiece,
  settings: SplitSettings,
  threads: number,
  ner?: string,
): AsyncGenerator<{ batch: Batch; cut: SplitBatch }> {
  const cutters: Cutter[] = [];
  const underWay: { batch: Batch; cut: Promise<SplitBatch> }[] = [];
  let here = threads === 1 ? Number.POSITIVE_INFINITY : ner === undefined ? CUT_HERE : 0;
  const cutHere = here > 0 ? await openSplitter(vocab, settings, ner) : undefined;
  try {
    for await (const batch of batches) {
      if (cutHere && here-- > 0) {
        yield { batch, cut: await cutHere(batch) };
        continue;
      }
      // Threads are started as they are needed: a model takes a gigabyte in each.
      if (cutters.length < threads && cutters.every((cutter) => cutter.pending() > 0))
        cutters.push(startCutter(vocab, settings, ner));
      const idlest = cutters.reduce((a, b) => (b.pending() < a.pending() ? b : a));
      underWay.push({ batch, cut: idlest.cut(batch) });
      if (underWay.length < threads * (1 + AHEAD)) continue;
      const first = underWay.shift()!;
      yield { batch: first.batch, cut: await first.cut };
    }
    for (const { batch, cut } of underWay) yield { batch, cut: await cut };
  } finally {
    await Promise.all(cutters.map((cutter) => cutter.stop()));
  }
}

interface Cutter {
  /** Batches sent and not yet back. */
  pending(): number;
  cut(batch: Batch): Promise<SplitBatch>;
  stop(): Promise<unknown>;
}

function startCutter(
  { vocabulary, lowercase }: WordPiece,
  settings: SplitSettings,
  ner: string | undefined,
): Cutter {
  const data: SplitWorkerData = { vocabulary, lowercase, settings, ner };
  const worker = new Worker(new URL('./split-worker.mjs', import.meta.url), { workerData: data });
  const waiting: { resolve(cut: SplitBatch): void; reject(error: unknown): void }[] = []; // in the order sent
  let failure: unknown;

  function fail(error: unknown): void {
    failure ??= error;
    for (const { reject } of waiting.splice(0)) reject(failure);
  }
  worker.on('message', (cut: SplitBatch) => waiting.shift()?.resolve(cut));
  worker.on('error', (error) => fail(explain(error)));
  worker.on('exit', (code) => fail(new Error(`a cutting thread ended with exit code ${code}`)));

  return {
    pending: () => waiting.length,
    cut(batch) {
      const cut = new Promise<SplitBatch>((resolve, reject) => {
        if (failure !== undefined) reject(failure);
        else waiting.push({ resolve, reject });
      });
      cut.catch(() => {}); // thrown when its turn comes
      worker.postMessage(batch);
      return cut;
    },
    stop: () => worker.terminate(),
  };
}

/** What is no fault of the program. Each thread has a heap of its own, with Node's limit for it. */
function explain(error: Error): Error {
  if (error.name === 'UserError') return new UserError(error.message); // the class is lost between threads
  if (errorCode(error) !== 'ERR_WORKER_OUT_OF_MEMORY') return error;
  return new UserError(
    'prepare: a thread ran out of memory; give Node more (NODE_OPTIONS=--max-old-space-size=8192) or split the longest documents, then run the same command again',
  );
}

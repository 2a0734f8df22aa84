import { parentPort, workerData } from 'node:worker_threads';
import { wordPiece } from '../tokenizer/wordpiece.ts';
import type { Batch } from './split.ts';
import { openSplitter } from './split-tagged.ts';
import type { SplitWorkerData } from './split-workers.ts';

// A thread that cuts the batches it is sent, in order. What is thrown here ends the thread, and reaches `cutAll` that way.

const { vocabulary, lowercase, settings, ner } = workerData as SplitWorkerData;
const cut = await openSplitter(wordPiece(vocabulary, lowercase), settings, ner);

let last = Promise.resolve(); // batches come while one is tagged
parentPort?.on('message', (batch: Batch) => {
  last = last.then(async () => {
    const made = await cut(batch);
    parentPort?.postMessage(made, [made.numbers.buffer]);
  });
});

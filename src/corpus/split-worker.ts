import { parentPort, workerData } from 'node:worker_threads';
import { wordPiece } from '../tokenizer/wordpiece.ts';
import type { Batch } from './split.ts';
import { openSplitter } from './split-tagged.ts';
import type { SplitWorkerData } from './split-workers.ts';

// A thread that splits the batches it receives, in order. An error here ends the thread, and so reaches `splitAll`.

const { vocabulary, tokenizer, settings, ner } = workerData as SplitWorkerData;
const split = await openSplitter(wordPiece(vocabulary, tokenizer), settings, ner);

let last = Promise.resolve(); // more batches arrive while one is tagged
parentPort?.on('message', (batch: Batch) => {
  last = last.then(async () => {
    const encoded = await split(batch);
    parentPort?.postMessage(encoded, [encoded.numbers.buffer]);
  });
});

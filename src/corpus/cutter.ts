import { parentPort, workerData } from 'node:worker_threads';
import { wordPiece } from '../tokenizer/wordpiece.ts';
import { type Batch, cutBatch } from './cut.ts';
import type { CutterData } from './cutters.ts';

// A thread that cuts the batches it is sent, in order. What is thrown here ends the thread, and reaches `cutAll` that way.

const { vocabulary, lowercase, settings } = workerData as CutterData;
const vocab = wordPiece(vocabulary, lowercase);

parentPort?.on('message', (batch: Batch) => {
  const cut = cutBatch(batch, vocab, settings);
  parentPort?.postMessage(cut, [cut.numbers.buffer]);
});

import { parentPort, workerData } from 'node:worker_threads';
import { wordPiece } from '../tokenizer/wordpiece.ts';
import { type Batch, type Cut, cutBatch } from './cut.ts';
import { cutTagged } from './cut-tagged.ts';
import type { CutterData } from './cutters.ts';

// A thread that cuts the batches it is sent, in order. What is thrown here ends the thread, and reaches `cutAll` that way.

const { vocabulary, lowercase, settings, ner } = workerData as CutterData;
const vocab = wordPiece(vocabulary, lowercase);

const send = (cut: Cut) => parentPort?.postMessage(cut, [cut.numbers.buffer]);

if (ner === undefined) parentPort?.on('message', (batch: Batch) => send(cutBatch(batch, vocab, settings)));
else {
  const { openTagger } = await import('./named-entities.ts');
  const tagger = await openTagger(ner);
  let last = Promise.resolve(); // batches come while one is tagged
  parentPort?.on('message', (batch: Batch) => {
    last = last.then(async () => send(await cutTagged(batch, vocab, settings, tagger)));
  });
}

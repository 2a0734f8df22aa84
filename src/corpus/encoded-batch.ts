import type { PrepareCounts } from './counts.ts';

// What splitting makes of a batch, on its way from a split worker to the thread that writes the corpus. The numbers lie in
// one Int32Array, which moves between threads without a copy; an object for each block or sentence would cost far more.

/** A batch that has been split. */
export interface EncodedBatch {
  /** The texts of the blocks, in order. */
  texts: string[];
  /** The records that `batchEncoder` writes and `decodeBatch` reads. */
  numbers: Int32Array<ArrayBuffer>;
  counts: PrepareCounts;
}

/** The parts of a batch, in order: `batchEncoder` takes them, `decodeBatch` gives them back. */
export interface BatchParts {
  /** A document that has blocks, by its number in the batch; its blocks follow. */
  document(index: number, titleIds: Int32Array): void;
  /** A block of the last document; its sentences of X follow. `sentenceStarts` are token offsets in `ids`. */
  block(text: string, ids: Int32Array, sentenceStarts: ArrayLike<number>): void;
  /** A sentence of X: tokens [start, start + length) of the last block. `spans` are pairs [start, end) of its tokens. */
  sentence(start: number, length: number, spans: ArrayLike<number>): void;
  /** A sentence of X that comes from no block. */
  externalSentence(ids: Int32Array, spans: ArrayLike<number>): void;
}

// A record is its kind and then its fields, in the order of the parameters above. A list is its length and then its
// items. The text of a block is in `texts`.
const DOCUMENT = 0; // index, titleIds
const BLOCK = 1; // ids, sentenceStarts
const SENTENCE = 2; // start, length, spans
const EXTERNAL_SENTENCE = 3; // ids, spans

/** Encodes the parts that it is called with; `encoded` gives all of them. */
export function batchEncoder(): BatchParts & { encoded(counts: PrepareCounts): EncodedBatch } {
  const texts: string[] = [];
  let numbers = new Int32Array(1 << 16);
  let used = 0;
  const reserve = (more: number) => {
    if (used + more <= numbers.length) return;
    const larger = new Int32Array(Math.max(used + more, numbers.length * 2));
    larger.set(numbers);
    numbers = larger;
  };
  const push = (number: number) => {
    reserve(1);
    numbers[used++] = number;
  };
  const pushList = (list: ArrayLike<number>) => {
    reserve(list.length + 1);
    numbers[used] = list.length;
    numbers.set(list, used + 1);
    used += list.length + 1;
  };
  return {
    document(index, titleIds) {
      push(DOCUMENT);
      push(index);
      pushList(titleIds);
    },
    block(text, ids, sentenceStarts) {
      push(BLOCK);
      texts.push(text);
      pushList(ids);
      pushList(sentenceStarts);
    },
    sentence(start, length, spans) {
      push(SENTENCE);
      push(start);
      push(length);
      pushList(spans);
    },
    externalSentence(ids, spans) {
      push(EXTERNAL_SENTENCE);
      pushList(ids);
      pushList(spans);
    },
    encoded: (counts) => ({ texts, numbers: numbers.slice(0, used), counts }),
  };
}

/** Calls `parts` with everything in the batch, in order. The lists are views into `numbers`. */
export function decodeBatch({ texts, numbers }: EncodedBatch, parts: BatchParts): void {
  let at = 0;
  let block = 0;
  const list = () => {
    const length = numbers[at++];
    at += length;
    return numbers.subarray(at - length, at);
  };
  while (at < numbers.length) {
    const kind = numbers[at++];
    if (kind === DOCUMENT) parts.document(numbers[at++], list());
    else if (kind === BLOCK) parts.block(texts[block++], list(), list());
    else if (kind === SENTENCE) parts.sentence(numbers[at++], numbers[at++], list());
    else if (kind === EXTERNAL_SENTENCE) parts.externalSentence(list(), list());
    else throw new Error(`an encoded batch has no record of kind ${kind}`);
  }
}

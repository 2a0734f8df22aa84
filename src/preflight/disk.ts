import type { Config } from '../config.ts';
import type { Counts } from './types.ts';

/** Bytes of a prepared corpus (src/corpus/store/layout.ts). */
export function corpusBytes(counts: Counts): number {
  const { documents, blocks, sentences, title, body, sentence } = counts;
  const id = counts.vocabulary <= 0x10000 ? 2 : 4;
  return (
    documents * (8 + 8 + counts.documentBytes + id * title.mean) +
    blocks * (40 + counts.blockBytes + id * body.mean + 2 * counts.blockSentences) +
    sentences * (24 + 4 * counts.spans + (counts.foreignSentences ? id * sentence.mean : 0))
  );
}

/** A weight and its two moments, as floats. */
const CHECKPOINT_BYTES_PER_PARAMETER = 12;

/** Bytes of one checkpoint, and of all that a stage keeps: the last ones and the best. */
export function checkpointBytes(
  { train }: Config,
  steps: number,
  trained: number,
): { one: number; kept: number } {
  const one = CHECKPOINT_BYTES_PER_PARAMETER * trained;
  return { one, kept: Math.min(train.keep + 1, Math.ceil(steps / train.saveEvery)) * one };
}

/** One line of predictions without its passage. */
const PREDICTION_BYTES = 280;

export function predictionBytes({ testQuestions, blockBytes }: Counts): number {
  return testQuestions * (PREDICTION_BYTES + blockBytes);
}

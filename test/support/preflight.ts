import type { Counts, Machine } from '../../src/preflight/types.ts';

/** English Wikipedia as in the paper: blocks of 288 word pieces at most. */
export const WIKIPEDIA: Counts = {
  documents: 5_500_000,
  blocks: 13_353_718,
  sentences: 80_000_000,
  foreignSentences: false,
  trainQuestions: 79_168,
  devQuestions: 0,
  testQuestions: 3610,
  vocabulary: 30_522,
  title: { mean: 4, max: 20 },
  body: { mean: 220, max: 281 },
  sentence: { mean: 28, max: 94 },
  question: { mean: 11, max: 30 },
  blockBytes: 1000,
  documentBytes: 28,
  blockSentences: 8,
  spans: 3,
};

export const MACHINE: Machine = {
  memory: 64 * 2 ** 30,
  diskFree: 1e12,
  dense: 100e9,
  attention: 25e9,
  elementwise: 25e9,
  kernel: 15e-6,
  fused: true,
};

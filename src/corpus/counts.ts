import type { CorpusCounts } from './store-layout.ts';

/** What `prepare` made, and what it left out. */
export interface PrepareCounts extends CorpusCounts {
  /** Pages that are no articles, left out as was asked. */
  skippedPages: number;
  /** Documents without a single token of text; they are no part of the corpus. */
  emptyDocuments: number;
  /** Blocks of fewer than `NEAR_EMPTY` body tokens. */
  nearEmptyBlocks: number;
  /** Blocks with title and text of an earlier one. */
  duplicateBlocks: number;
  /** Documents with the id of an earlier one: they are kept, and an answer from any of them names the same id. */
  duplicateIds: number;
  /** Sentences that were cut off, or left out, where a block was full. */
  cutSentences: number;
  /** Sentences left out of X because they hold no salient span. */
  withoutSpan: number;
  /** Sentences left out of X because their spans lie beyond the tokens of a query. */
  spanTooFar: number;
}

export function noCounts(): PrepareCounts {
  return {
    documents: 0,
    blocks: 0,
    tokens: 0,
    sentences: 0,
    spans: 0,
    skippedPages: 0,
    emptyDocuments: 0,
    nearEmptyBlocks: 0,
    duplicateBlocks: 0,
    duplicateIds: 0,
    cutSentences: 0,
    withoutSpan: 0,
    spanTooFar: 0,
  };
}

export function addCounts(sum: PrepareCounts, more: PrepareCounts): void {
  for (const name of Object.keys(sum) as (keyof PrepareCounts)[]) sum[name] += more[name];
}

import type { CorpusCounts } from './store/layout.ts';

/** What `prepare` made, and what it left out. `cut` in a name means truncated. */
export interface PrepareCounts extends CorpusCounts {
  /** Documents that are not articles, left out because of `articlesOnly`. */
  skippedPages: number;
  /** Documents without a single token of text; they are left out. */
  emptyDocuments: number;
  /** What was left out of a folder of text files: hidden folders, and files that are neither text nor Markdown. */
  leftOutFiles: number;
  /** Pages of a wiki that lead to another page; they are left out. */
  redirects: number;
  /** Pages of a wiki that are not articles, such as talk pages and templates; they are left out. */
  otherPages: number;
  /** Blocks of fewer than `NEAR_EMPTY_TOKENS` body tokens. */
  nearEmptyBlocks: number;
  /** Blocks with the title and text of an earlier one. */
  duplicateBlocks: number;
  /** Documents with the id of an earlier one: they are kept, and an answer from any of them names the same id. */
  duplicateIds: number;
  /** Bytes of UTF-8 of all texts that were read, including documents that were left out. */
  readBytes: number;
  /** The part of `readBytes` that belongs to `skippedPages`. */
  skippedBytes: number;
  /** Sentences longer than a block, which continue in the next one. */
  splitSentences: number;
  /** Sentences that were truncated or left out because a document that must make one block was too long (`as-is`). */
  cutSentences: number;
  /** Tokens and bytes that `cutSentences` lost. */
  cutTokens: number;
  cutBytes: number;
  /** Titles that were truncated: a title takes half a block at most. */
  cutTitles: number;
  /** Sentences for X that are longer than a query: only their beginning is used in X; blocks keep them whole. */
  cutQueries: number;
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
    leftOutFiles: 0,
    redirects: 0,
    otherPages: 0,
    nearEmptyBlocks: 0,
    duplicateBlocks: 0,
    duplicateIds: 0,
    readBytes: 0,
    skippedBytes: 0,
    splitSentences: 0,
    cutSentences: 0,
    cutTokens: 0,
    cutBytes: 0,
    cutTitles: 0,
    cutQueries: 0,
    withoutSpan: 0,
    spanTooFar: 0,
  };
}

export function addCounts(sum: PrepareCounts, more: PrepareCounts): void {
  for (const name of Object.keys(sum) as (keyof PrepareCounts)[]) sum[name] += more[name];
}

/** What is said where a corpus has nothing to mask. */
export const NO_SPANS =
  'no sentence has a name or a date to mask, which pretrain and reader-warmup need and the other stages do not; for these two give sentences with ready-made spans in data.sentences, or a model that names entities in text.ner';

/** `prepare` warns if the corpus keeps a smaller share of the text than this. */
const MIN_KEPT_SHARE = 0.99;

/**
 * Lines that report what `prepare` read, kept and left out, and why. The last one warns if text was lost.
 * @param blockTokens the setting that limits a block
 */
export function summaryOf(counts: PrepareCounts, blockTokens: number): string[] {
  const { documents, emptyDocuments, skippedPages, readBytes, skippedBytes, cutBytes, cutTokens } = counts;
  const read = documents + emptyDocuments + skippedPages;
  const wanted = readBytes - skippedBytes;
  const share = wanted === 0 ? 1 : 1 - cutBytes / wanted;
  const left = [
    [emptyDocuments, 'without text'],
    [skippedPages, 'that are lists or disambiguation pages (data.articlesOnly)'],
  ] as const;
  const notes = [
    ...left.map(([n, why]) => [n, `left out ${number(n, 'document')} ${why}`] as const),
    [counts.redirects, `left out ${number(counts.redirects, 'page')} that only lead to another page`],
    [
      counts.otherPages,
      `left out ${number(counts.otherPages, 'page')} of other namespaces (talk, templates, files, …)`,
    ],
    [counts.duplicateIds, `${number(counts.duplicateIds, 'document')} with the id of an earlier one`],
    [counts.duplicateBlocks, `${number(counts.duplicateBlocks, 'block')} with the text of an earlier one`],
    [counts.cutTitles, `shortened ${number(counts.cutTitles, 'title')} to half a block`],
    [
      counts.splitSentences,
      `${number(counts.splitSentences, 'sentence')} longer than a block, continued in the next one`,
    ],
    [
      counts.cutQueries,
      `${number(counts.cutQueries, 'sentence')} longer than text.sentenceTokens, masked in their first part only`,
    ],
  ] as const;
  const lines = [
    `prepare: read ${number(read, 'document')} (${number(readBytes, 'byte')} of text), kept ${number(documents, 'document')} as ${number(counts.blocks, 'block')} of ${number(counts.tokens, 'token')}`,
    ...notes.filter(([n]) => n > 0).map(([, note]) => `prepare: ${note}`),
  ];
  if (cutBytes === 0) return lines;
  const lost = `${number(cutBytes, 'byte')} (${number(cutTokens, 'token')}) of documents longer than a block were cut off; ${percent(share)} of the text is kept`;
  return [
    ...lines,
    share < MIN_KEPT_SHARE
      ? `prepare: warning: ${lost}. Raise text.blockTokens (${blockTokens}), or set text.splitting to sentences, which loses nothing`
      : `prepare: ${lost}`,
  ];
}

function number(n: number, what: string): string {
  return `${n.toLocaleString('en-US')} ${what}${n === 1 ? '' : 's'}`;
}

const percent = (share: number) => `${(Math.floor(share * 1000) / 10).toFixed(1)} %`;

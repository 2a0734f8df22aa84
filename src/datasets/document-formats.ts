// In a file of its own, so that reading settings does not load the readers.

/** Formats of documents that realm reads, as `data.format` names them. */
export const DOCUMENT_FORMATS = [
  'jsonl',
  'wikiextractor',
  'mediawiki',
  'table',
  'parquet',
  'arrow',
  'beir',
  'dpr',
  'text',
  'json',
  'squad',
  'orqa',
  'realm',
  'npy',
] as const;
export type DocumentFormat = (typeof DOCUMENT_FORMATS)[number];

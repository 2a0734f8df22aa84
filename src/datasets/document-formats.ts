// Apart from the readers, so that reading settings loads none of them.

/** Formats of documents that are read, as `data.format` names them. */
export const DOCUMENT_FORMATS = [
  'jsonl',
  'wikiextractor',
  'table',
  'dpr',
  'text',
  'json',
  'squad',
  'orqa',
  'realm',
  'npy',
] as const;
export type DocumentFormat = (typeof DOCUMENT_FORMATS)[number];

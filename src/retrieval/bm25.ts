import MiniSearch from 'minisearch';
import { stemmer } from 'stemmer';
import type { Corpus } from '../corpus/store/reader.ts';
import { progress } from '../system/progress.ts';
import { obey } from '../system/stop.ts';

/** Most blocks for BM25: its whole index is in memory. With more blocks the baseline is left out. */
export const BM25_LIMIT = 500_000;

/** Frequent words that say nothing about the block (Lucene's English list). */
const STOP_WORDS = new Set(
  'a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with'.split(
    ' ',
  ),
);

/** Lower-case words of letters and digits, without diacritics and stop words, stemmed by Porter's rules. */
function terms(text: string): string[] {
  const words =
    text
      .normalize('NFKD')
      .replace(/\p{M}/gu, '')
      .match(/[\p{L}\p{N}]+/gu) ?? [];
  return words
    .map((word) => word.toLowerCase())
    .filter((word) => !STOP_WORDS.has(word))
    .map(stemmer);
}

/**
 * Blocks by BM25 over title and text, best first, at most k: the sparse retriever that REALM is compared with.
 * k1 = 0.9 and b = 0.4 are Anserini's values, used for published BM25 results on open-domain questions.
 */
export function bm25(corpus: Corpus): (question: string, k: number) => number[] {
  const index = new MiniSearch<{ id: number; text: string }>({
    fields: ['text'],
    // MiniSearch uses the number of distinct tokens as a field's length: the number in front makes all tokens distinct.
    tokenize: (text) => terms(text).map((term, i) => `${i} ${term}`),
    processTerm: (token) => token.slice(token.indexOf(' ') + 1),
    searchOptions: { bm25: { k: 0.9, b: 0.4, d: 0 }, combineWith: 'OR' },
  });
  const bar = progress('bm25', corpus.blocks, { unit: 'blocks' });
  for (let id = 0; id < corpus.blocks; id++) {
    obey();
    index.add({ id, text: `${corpus.title(id)} ${corpus.text(id)}` });
    if (id % 100 === 0) bar.at(id);
  }
  bar.end();
  return (question, k) => {
    obey();
    return (
      index
        .search(question)
        // MiniSearch multiplies a score by the number of query terms found, BM25 does not.
        .map(({ id, score, queryTerms }) => ({ id: id as number, score: score / queryTerms.length }))
        .sort((a, b) => b.score - a.score || a.id - b.id)
        .slice(0, k)
        .map(({ id }) => id)
    );
  };
}

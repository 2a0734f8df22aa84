import MiniSearch from 'minisearch';
import { stemmer } from 'stemmer';
import type { Corpus } from '../corpus/store.ts';
import { progress } from '../progress.ts';

/** The index lives in memory whole: more blocks than this and the baseline is left out. */
export const BM25_LIMIT = 500_000;

/** Words that questions are full of and that say nothing about the block (Lucene's English list). */
const STOP_WORDS = new Set(
  'a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with'.split(
    ' ',
  ),
);

/** Lower-case words of letters and digits without marks, stemmed by Porter's rules; undefined for a stop word. */
function term(word: string): string | null {
  const lower = word.toLowerCase();
  return STOP_WORDS.has(lower) ? null : stemmer(lower);
}

function words(text: string): string[] {
  return (
    text
      .normalize('NFKD')
      .replace(/\p{M}/gu, '')
      .match(/[\p{L}\p{N}]+/gu) ?? []
  );
}

/**
 * Blocks by BM25 over title and text, best first, at most k: the sparse retriever that REALM is measured against.
 * k1 = 0.9 and b = 0.4 are Anserini's, of the published BM25 figures for open-domain questions.
 */
export function bm25(corpus: Corpus): (question: string, k: number) => number[] {
  const index = new MiniSearch<{ id: number; text: string }>({
    fields: ['text'],
    tokenize: words,
    processTerm: term,
    searchOptions: { bm25: { k: 0.9, b: 0.4, d: 0 }, combineWith: 'OR' },
  });
  const bar = progress('bm25', corpus.blocks);
  for (let id = 0; id < corpus.blocks; id++) {
    index.add({ id, text: `${corpus.title(id)} ${corpus.text(id)}` });
    if (id % 100 === 0) bar.at(id);
  }
  bar.end();
  return (question, k) =>
    index
      .search(question)
      .slice(0, k)
      .map(({ id }) => id as number);
}

import { stemmer } from 'stemmer';
import { hasUnspaced, UNSPACED } from '../tokenizer/unspaced.ts';

/** Frequent words that say nothing about the block (Lucene's English list). */
const STOP_WORDS = new Set(
  'a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with'.split(
    ' ',
  ),
);

const PARTS = new RegExp(`${UNSPACED}+|(?:(?!${UNSPACED}).)+`, 'gsu');

/** Diacritics of no particular script. The marks of Kana stay: without them か and が would be the same. */
const DIACRITICS = /(?![\u3099\u309a])\p{Script=Inherited}/gu;

/**
 * The terms that BM25 counts: lower-case words of letters and digits, without diacritics and stop words, stemmed by
 * Porter's rules. Text of a script without spaces between words becomes overlapping pairs of characters, as in Lucene's
 * CJKBigramFilter: a dictionary of words, such as the one of `Intl.Segmenter`, differs from one Node to the next, and an
 * index must not.
 */
export function terms(text: string): string[] {
  const words =
    text
      .normalize('NFKD')
      .replace(DIACRITICS, '')
      .normalize('NFKC')
      .toLowerCase()
      .match(/[\p{L}\p{M}\p{N}]+/gu) ?? [];
  const found: string[] = [];
  for (const word of words) {
    if (STOP_WORDS.has(word)) continue;
    if (hasUnspaced(word)) for (const part of word.match(PARTS)!) found.push(...pairsOrStem(part));
    else found.push(stemmer(word));
  }
  return found;
}

/** @param part all of scripts without spaces, or all of others */
function pairsOrStem(part: string): string[] {
  if (!hasUnspaced(part)) return [stemmer(part)];
  const characters = Array.from(part);
  if (characters.length === 1) return characters;
  return characters.slice(1).map((next, i) => characters[i] + next);
}

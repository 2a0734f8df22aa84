import { createHash } from 'node:crypto';
import { shown, UserError } from '../system/errors.ts';
import { readText } from '../system/files.ts';
import { basicTokenizer } from './basic.ts';
import { pieceTrie } from './piece-trie.ts';
import { isTokenizerJson, readTokenizerJson } from './tokenizer-json.ts';

/** Token ids of a text, and the position of each token: UTF-16 code units [starts[i], ends[i]) of the original text. */
export interface Encoding {
  ids: Int32Array;
  starts: Int32Array;
  ends: Int32Array;
}

/** BERT's tokenizer, with the same ids as `BertTokenizerFast` of Hugging Face. */
export interface WordPiece {
  vocabulary: readonly string[];
  size: number;
  /** For each token id, 1 where the piece continues a word (`##`). */
  continues: Uint8Array;
  lowercase: boolean;
  /** SHA-256 of the vocabulary written one piece a line, in hexadecimal. */
  sha256: string;
  pad: number;
  unk: number;
  cls: number;
  sep: number;
  mask: number;
  /** Adds no special tokens; special tokens that are written in the text ("[MASK]") are encoded as such. */
  encode(text: string): Encoding;
  /** Joins pieces: a space between words, none before `##` continuations. Special tokens are kept. */
  decode(ids: ArrayLike<number>): string;
}

/** Every vocabulary must have these. */
export const SPECIAL_TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] as const;

/** Words with more characters become one [UNK], as in Hugging Face; google-research/bert reads up to 200. */
export const MAX_WORD_LENGTH = 100;

/** Maximum UTF-16 units of a line of a vocabulary; a trie of longer lines could fill the memory. */
const MAX_PIECE_LENGTH = 1000;

/**
 * Reads a BERT `vocab.txt`: one piece a line, the line number less one is the id; or the `tokenizer.json` of such a model,
 * which must agree about lower-casing.
 */
export function loadWordPiece(vocabPath: string, lowercase: boolean): WordPiece {
  if (isTokenizerJson(vocabPath)) {
    const found = readTokenizerJson(vocabPath);
    if (found.lowercase !== lowercase)
      throw new UserError(
        `${vocabPath}: lowercase is ${found.lowercase}, text.lowercase is ${lowercase}; set text.lowercase to ${found.lowercase}`,
      );
    checkVocabulary(found.vocabulary, vocabPath);
    return wordPiece(found.vocabulary, lowercase);
  }
  const text = readText(vocabPath, 'vocabulary', 'give the path of a BERT vocab.txt');
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === '') lines.pop();
  checkVocabulary(lines, vocabPath);
  return wordPiece(lines, lowercase);
}

function checkVocabulary(vocabulary: readonly string[], path: string): void {
  const lineOf = new Map<string, number>();
  for (let i = 0; i < vocabulary.length; i++) {
    const piece = vocabulary[i];
    if (piece === '')
      throw new UserError(`${path}: line ${i + 1} is empty; every line must hold a word piece`);
    if (piece.length > MAX_PIECE_LENGTH) {
      throw new UserError(
        `${path}: line ${i + 1} is ${piece.length} characters long, but a word piece has at most ${MAX_PIECE_LENGTH}; give a vocab.txt of BERT's form`,
      );
    }
    const earlier = lineOf.get(piece);
    if (earlier !== undefined) {
      throw new UserError(
        `${path}: line ${i + 1} repeats ${shown(piece)} of line ${earlier}; every piece must occur once`,
      );
    }
    lineOf.set(piece, i + 1);
  }
  for (const token of SPECIAL_TOKENS) {
    if (!lineOf.has(token)) {
      throw new UserError(
        `${path}: has no line ${token}; this is not a BERT vocabulary, give a vocab.txt of BERT's form`,
      );
    }
  }
}

/** A tokenizer for a vocabulary, which must have the five special tokens and no piece twice. */
export function wordPiece(vocabulary: readonly string[], lowercase: boolean): WordPiece {
  const [pad, unk, cls, sep, mask] = SPECIAL_TOKENS.map((token) => {
    const id = vocabulary.indexOf(token);
    if (id < 0) throw new Error(`the vocabulary lacks ${token}`);
    return id;
  });
  const trie = pieceTrie(vocabulary);
  const split = basicTokenizer(lowercase);
  const special = new RegExp(SPECIAL_TOKENS.map((token) => token.replace(/[[\]]/g, '\\$&')).join('|'), 'g');

  let ids = new Int32Array(512);
  let starts = new Int32Array(512);
  let ends = new Int32Array(512);
  let n = 0;

  function push(id: number, start: number, end: number): void {
    if (n === ids.length) {
      ids = twice(ids);
      starts = twice(starts);
      ends = twice(ends);
    }
    ids[n] = id;
    starts[n] = start;
    ends[n++] = end;
  }

  /** Encodes characters [from, to), which contain no special token. */
  function encodePlain(text: string, from: number, to: number): void {
    const words = split(text, from, to);
    let first = 0;
    for (let w = 0; w < words.count; w++) {
      const end = words.ends[w];
      const before = n;
      let at = first;
      if (end - first <= MAX_WORD_LENGTH || characters(words.units, first, end) <= MAX_WORD_LENGTH) {
        while (at < end) {
          const id = trie.longest(words.units, at, end, at > first);
          if (id < 0) break;
          push(id, words.starts[at], words.stops[trie.end() - 1]);
          at = trie.end();
        }
      }
      if (at < end) {
        n = before;
        push(unk, words.starts[first], words.stops[end - 1]);
      }
      first = end;
    }
  }

  return {
    vocabulary,
    size: vocabulary.length,
    continues: Uint8Array.from(vocabulary, (piece) => (piece.startsWith('##') ? 1 : 0)),
    lowercase,
    sha256: createHash('sha256')
      .update(vocabulary.map((piece) => `${piece}\n`).join(''))
      .digest('hex'),
    pad,
    unk,
    cls,
    sep,
    mask,
    encode(text) {
      n = 0;
      let from = 0;
      if (text.includes('[')) {
        for (const match of text.matchAll(special)) {
          encodePlain(text, from, match.index);
          from = match.index + match[0].length;
          push(vocabulary.indexOf(match[0]), match.index, from);
        }
      }
      encodePlain(text, from, text.length);
      return { ids: ids.slice(0, n), starts: starts.slice(0, n), ends: ends.slice(0, n) };
    },
    decode(pieces) {
      let text = '';
      for (let i = 0; i < pieces.length; i++) {
        const piece = vocabulary[pieces[i]];
        if (piece === undefined)
          throw new RangeError(`token id ${pieces[i]} is outside the vocabulary of ${vocabulary.length}`);
        if (i > 0 && piece.startsWith('##')) text += piece.slice(2);
        else text += i > 0 ? ` ${piece}` : piece;
      }
      return text;
    },
  };
}

/** How many characters UTF-16 units [from, to) hold: a surrogate pair is one. */
function characters(units: Uint16Array, from: number, to: number): number {
  let count = to - from;
  for (let u = from; u < to; u++) if (units[u] >= 0xdc00 && units[u] <= 0xdfff) count--;
  return count;
}

function twice(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(array.length * 2);
  larger.set(array);
  return larger;
}

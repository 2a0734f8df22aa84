import { createHash } from 'node:crypto';
import { dirname } from 'node:path';
import { shown, UserError } from '../system/errors.ts';
import { readText } from '../system/files.ts';
import { type AddedToken, addedTokenFinder } from './added-tokens.ts';
import { basicTokenizer } from './basic.ts';
import { bertNormalizer, type Normalizer } from './normalizer.ts';
import { pieceTrie } from './piece-trie.ts';
import { SPECIAL_TOKENS } from './special-tokens.ts';
import { describedTokenizer, isTokenizerJson, readTokenizerJson } from './tokenizer-json.ts';

/** Token ids of a text, and the position of each token: UTF-16 code units [starts[i], ends[i]) of the original text. */
export interface Encoding {
  ids: Int32Array;
  starts: Int32Array;
  ends: Int32Array;
}

/** What a tokenizer has beside its vocabulary. */
export interface TokenizerSettings extends Normalizer {
  /** Tokens that are found whole in a text, apart from the five special ones. */
  added: readonly AddedToken[];
}

/** BERT's tokenizer, with the same ids as `BertTokenizerFast` of Hugging Face. */
export interface WordPiece {
  vocabulary: readonly string[];
  size: number;
  /** For each token id, 1 where the piece continues a word (`##`). */
  continues: Uint8Array;
  lowercase: boolean;
  settings: TokenizerSettings;
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

export { SPECIAL_TOKENS };

/** Words with more characters become one [UNK], as in Hugging Face; google-research/bert reads up to 200. */
export const MAX_WORD_LENGTH = 100;

/** Maximum UTF-16 units of a line of a vocabulary; a trie of longer lines could fill the memory. */
const MAX_PIECE_LENGTH = 1000;

/**
 * Reads a BERT `vocab.txt`: one piece a line, the line number less one is the id; or the `tokenizer.json` of such a model.
 * Files of the tokenizer in the same folder say how text is normalised.
 * @param lowercase must agree with those files; null: as they say, else by whether the vocabulary has capital letters
 */
export function loadWordPiece(vocabPath: string, lowercase: boolean | null): WordPiece {
  const { vocabulary, added } = readVocabulary(vocabPath);
  checkVocabulary(vocabulary, vocabPath);
  const described = describedTokenizer(
    dirname(vocabPath),
    isTokenizerJson(vocabPath) ? vocabPath : undefined,
  );
  if (lowercase !== null && described.lowercase !== undefined && described.lowercase !== lowercase)
    throw new UserError(
      `${described.path}: do_lower_case is ${described.lowercase}, text.lowercase is ${lowercase}; set text.lowercase to null, which takes what the file says`,
    );
  const lower = lowercase ?? described.lowercase ?? !hasCapitals(vocabulary);
  return wordPiece(vocabulary, {
    lowercase: lower,
    stripAccents: described.stripAccents ?? lower,
    splitIdeographs: described.splitIdeographs ?? true,
    added,
  });
}

/** Whether a vocabulary has word pieces that lower-cased text never gives. */
export function hasCapitals(vocabulary: readonly string[]): boolean {
  return vocabulary.some((piece) => /^(?:##)?[A-Z]/.test(piece));
}

function readVocabulary(path: string): { vocabulary: string[]; added: readonly AddedToken[] } {
  if (isTokenizerJson(path)) return readTokenizerJson(path);
  const text = readText(path, 'vocabulary', 'give the path of a BERT vocab.txt');
  const vocabulary = text.split(/\r?\n/);
  if (vocabulary.at(-1) === '') vocabulary.pop();
  return { vocabulary, added: [] };
}

/** A vocabulary that realm has written itself, with the settings that were saved beside it. */
export function loadOwnWordPiece(path: string, settings: boolean | TokenizerSettings): WordPiece {
  const { vocabulary } = readVocabulary(path);
  checkVocabulary(vocabulary, path);
  return wordPiece(vocabulary, settings);
}

/** The settings of a tokenizer that are not BERT's own for its casing; undefined if all are. */
export function unusualSettings({ settings }: WordPiece): TokenizerSettings | undefined {
  const { lowercase, stripAccents, splitIdeographs, added } = settings;
  return stripAccents === lowercase && splitIdeographs && added.length === 0 ? undefined : settings;
}

/**
 * Blank and repeated lines, which real vocabularies have, count for the numbers of those after them. As in transformers, a
 * repeated piece has the number of its last line.
 */
function checkVocabulary(vocabulary: readonly string[], path: string): void {
  const lineOf = new Map<string, number>();
  for (let i = 0; i < vocabulary.length; i++) {
    const piece = vocabulary[i];
    if (piece.length > MAX_PIECE_LENGTH) {
      throw new UserError(
        `${path}: line ${i + 1} is ${piece.length} characters long, but a word piece has at most ${MAX_PIECE_LENGTH}; give a vocab.txt of BERT's form`,
      );
    }
    const earlier = lineOf.get(piece);
    if (earlier !== undefined && (SPECIAL_TOKENS as readonly string[]).includes(piece)) {
      throw new UserError(
        `${path}: line ${i + 1} repeats ${shown(piece)} of line ${earlier}; a special token must occur once`,
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

/**
 * A tokenizer for a vocabulary, which must have the five special tokens.
 * @param given true or false: BERT's own rules, with or without lower-casing
 */
export function wordPiece(vocabulary: readonly string[], given: boolean | TokenizerSettings): WordPiece {
  const settings = typeof given === 'boolean' ? { ...bertNormalizer(given), added: [] } : given;
  const [pad, unk, cls, sep, mask] = SPECIAL_TOKENS.map((token) => {
    const id = vocabulary.indexOf(token);
    if (id < 0) throw new Error(`the vocabulary lacks ${token}`);
    return id;
  });
  // Words never give a token that the tokenizer's model does not have.
  const beyond = new Set(settings.added.filter(({ inModel }) => !inModel).map(({ content }) => content));
  const trie = pieceTrie(
    beyond.size === 0 ? vocabulary : vocabulary.map((piece) => (beyond.has(piece) ? '' : piece)),
  );
  const split = basicTokenizer(settings);
  const added = addedTokenFinder(vocabulary, settings.added, settings);

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
    lowercase: settings.lowercase,
    settings,
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
      for (const { id, start, end } of added(text)) {
        encodePlain(text, from, start);
        push(id, start, end);
        from = end;
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

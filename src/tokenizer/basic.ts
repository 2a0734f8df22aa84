import { isDropped, isIdeograph, isSpace, type Normalizer, normalizeCharacter } from './normalizer.ts';

/**
 * BERT's BasicTokenizer: cleans and normalises a text, and splits it into words at white space, around punctuation and around
 * CJK ideographs (unless the normalizer leaves them). Follows google-research/bert `tokenization.py`; where Hugging Face's `BertNormalizer` differs, it follows that, because published
 * checkpoints are used through it (private-use characters are dropped; no context rule for the final sigma).
 */

/**
 * The words of a text as runs of normalised UTF-16 units. Word w is units [ends of w-1, ends of w); unit u came
 * from characters [starts[u], stops[u]) of the text. The arrays are longer than their content and are reused by
 * the next call.
 */
export interface Words {
  count: number;
  ends: Int32Array;
  units: Uint16Array;
  starts: Int32Array;
  stops: Int32Array;
}

/** Splits characters [from, to) of a text into words. */
export type BasicTokenizer = (text: string, from: number, to: number) => Words;

// What happens to a character. UNKNOWN is 0, so that the table is filled as characters occur.
const UNKNOWN = 0;
const KEPT = 1;
const SPACE = 2;
const DROPPED = 3;
/** A word by itself: punctuation or an ideograph. */
const ALONE = 4;
/** Replaced by one UTF-16 unit. */
const MAPPED = 5;
/** Replaced by several units, or by one that is a word by itself. */
const EXPANDED = 6;

export function basicTokenizer(normalizer: Normalizer): BasicTokenizer {
  const kinds = new Uint8Array(0x110000);
  const mapped = new Uint16Array(0x10000);
  const expansions = new Map<number, Expansion>();

  let room = 1024;
  let units = new Uint16Array(room);
  let starts = new Int32Array(room);
  let stops = new Int32Array(room);
  let ends = new Int32Array(room);

  function makeRoom(needed: number): void {
    room = Math.max(needed, room * 2);
    units = new Uint16Array(room);
    starts = new Int32Array(room);
    stops = new Int32Array(room);
    ends = new Int32Array(room);
  }

  function classify(code: number): number {
    const character = String.fromCodePoint(code);
    if (isDropped(code, character)) return DROPPED;
    if (isSpace(character)) return SPACE;
    const ideograph = normalizer.splitIdeographs && isIdeograph(code);
    const normalised = normalizeCharacter(character, normalizer);
    if (normalised === '') return DROPPED;
    const alone = [...normalised].map((c) => ideograph || isPunctuation(c));
    if (normalised === character) return alone[0] ? ALONE : KEPT;
    if (normalised.length === 1 && code < 0x10000 && !alone[0]) {
      mapped[code] = normalised.charCodeAt(0);
      return MAPPED;
    }
    expansions.set(code, { characters: [...normalised], alone });
    return EXPANDED;
  }

  return (text, from, to) => {
    // No character grows to more than 4 units (the longest canonical decomposition without its marks is 3).
    const most = (to - from) * 4 + 1;
    if (most > room) makeRoom(most);
    let n = 0; // units so far
    let count = 0; // words closed so far
    let open = 0; // first unit of the word being read; n when none is
    for (let i = from; i < to; ) {
      let code = text.charCodeAt(i);
      let next = i + 1;
      if (code >= 0xd800 && code <= 0xdbff && next < to) {
        const low = text.charCodeAt(next);
        if (low >= 0xdc00 && low <= 0xdfff) {
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          next++;
        }
      }
      let kind = kinds[code];
      if (kind === UNKNOWN) kind = kinds[code] = classify(code);
      if (kind === KEPT || kind === MAPPED || kind === ALONE) {
        if (kind === ALONE && n > open) ends[count++] = open = n;
        units[n] = kind === MAPPED ? mapped[code] : text.charCodeAt(i);
        starts[n] = i;
        stops[n++] = next;
        if (code > 0xffff) {
          units[n] = text.charCodeAt(i + 1);
          starts[n] = i;
          stops[n++] = next;
        }
        if (kind === ALONE) ends[count++] = open = n;
      } else if (kind === SPACE) {
        if (n > open) ends[count++] = open = n;
      } else if (kind === EXPANDED) {
        const { characters, alone } = expansions.get(code)!;
        for (let c = 0; c < characters.length; c++) {
          if (alone[c] && n > open) ends[count++] = open = n;
          for (let u = 0; u < characters[c].length; u++) {
            units[n] = characters[c].charCodeAt(u);
            starts[n] = i;
            stops[n++] = next;
          }
          if (alone[c]) ends[count++] = open = n;
        }
      }
      i = next;
    }
    if (n > open) ends[count++] = n;
    return { count, ends, units, starts, stops };
  };
}

interface Expansion {
  characters: string[];
  /** For each character, whether it is a word by itself. */
  alone: boolean[];
}

/** ASCII that is neither letter nor digit counts as punctuation, also `$`, `+`, `^` and the like. */
function isPunctuation(character: string): boolean {
  return /[!-/:-@[-`{-~\p{P}]/u.test(character);
}

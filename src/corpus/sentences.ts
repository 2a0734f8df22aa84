import type { Range } from '../datasets/types.ts';
import { UNSPACED } from '../tokenizer/unspaced.ts';

const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' });

/**
 * The sentences of a text in order, without the white space around them; every other character lies in
 * one. Unicode's rules (`Intl.Segmenter`) propose the ends. An end after an abbreviation, an initial or a list number of
 * English, or before lower case, is rejected. A line feed always ends a sentence. Thai and Tibetan have no marks that end a
 * sentence only; there a paragraph is one.
 */
export function splitSentences(text: string): Range[] {
  const sentences: Range[] = [];
  let start = 0;
  for (const index of proposedEnds(text)) {
    if (endsSentence(text, start, index)) {
      const end = beforeOpening(text, start, index);
      pushTrimmed(sentences, text, start, end);
      start = end;
    }
  }
  pushTrimmed(sentences, text, start, text.length);
  return sentences;
}

/** UTF-16 units that the segmenter gets at a time: each of its steps takes time in proportion to the length that it gets. */
const WINDOW = 1024;
/** An end depends on the text after it: one this close to the end of a window is left to the next window. */
const MARGIN = 256;

/** Where Unicode's rules end a sentence within the text, ascending. A window starts where a sentence starts. */
function* proposedEnds(text: string): Generator<number> {
  let from = 0;
  let size = WINDOW;
  for (;;) {
    const to = Math.min(text.length, from + size);
    let next = from;
    for (const { index } of segmenter.segment(text.slice(from, to))) {
      if (to < text.length && index > size - MARGIN) break;
      if (index === 0) continue;
      next = from + index;
      yield next;
      if (size > WINDOW) break; // after a long sentence, back to small windows
    }
    if (to === text.length && !(size > WINDOW && next > from)) return;
    size = next > from ? WINDOW : size * 2;
    from = next;
  }
}

function pushTrimmed(sentences: Range[], text: string, start: number, end: number): void {
  while (start < end && isSpace(text.charCodeAt(start))) start++;
  while (end > start && isSpace(text.charCodeAt(end - 1))) end--;
  if (end > start) sentences.push({ start, end });
}

function isSpace(code: number): boolean {
  return (
    code === 0x20 || (code < 0x20 && code >= 0x09) || (code >= 0x80 && /\s/.test(String.fromCharCode(code)))
  );
}

/** Unicode leaves an opening quote or bracket that follows without a space with the sentence before: `走了。“好”`. */
function beforeOpening(text: string, start: number, at: number): number {
  let end = at;
  while (end > start + 1 && /[\p{Ps}\p{Pi}]/u.test(text[end - 1])) end--;
  return end;
}

/** Whether the sentence that starts at `start` really ends at the proposed end `at`. */
function endsSentence(text: string, start: number, at: number): boolean {
  let end = at;
  while (end > start && isSpace(text.charCodeAt(end - 1))) {
    if (isLineEnd(text.charCodeAt(end - 1))) return true;
    end--;
  }
  if (end === start) return false;
  if (end === at && !endsWithoutSpace(text, start, at)) return false;
  // Lower case continues the sentence: `"Why?" he asked`, `Yahoo! is`.
  if (/^\p{Ll}/u.test(text.slice(at, at + 2))) return false;
  if (text[end - 1] !== '.') return true;

  let wordStart = end - 1;
  while (wordStart > start && !isSpace(text.charCodeAt(wordStart - 1))) wordStart--;
  const word = text.slice(wordStart, end - 1).replace(/^[^\p{L}\p{N}]+/u, '');
  if (wordStart === start && /^[\p{Nd}\p{L}]{1,3}$/u.test(word) && /\d|^\p{Lu}$/u.test(word)) return false; // "1. Introduction"
  return !abbreviates(word, nextWord(text, at));
}

/**
 * Whether a sentence may end at `at` although no white space follows. Not "end.[1]"; but after a mark of another script, `。`
 * or `។`, and after `.`, `!` or `?` between letters of scripts without spaces.
 */
function endsWithoutSpace(text: string, start: number, at: number): boolean {
  let mark = at - 1;
  while (mark > start && CLOSING.test(text[mark])) mark--;
  if (!WESTERN_MARK.test(text[mark])) return true;
  return BETWEEN_UNSPACED.test(`${text.slice(Math.max(start, mark - 2), mark)}\n${text.slice(at, at + 2)}`);
}

const CLOSING = /["'\p{Pe}\p{Pf}\p{Pi}\p{Ps}]/u;
const WESTERN_MARK = /[^\p{P}]|[!-~\u00a1-\u00bf\u2000-\u206f]/u;
const BETWEEN_UNSPACED = new RegExp(`${UNSPACED}\\n[\\p{Ps}\\p{Pi}]?${UNSPACED}`, 'u');

function isLineEnd(code: number): boolean {
  return code === 0x0a || code === 0x0d || code === 0x2028 || code === 0x2029 || code === 0x85;
}

function nextWord(text: string, at: number): string {
  return /^[^\p{L}\p{N}]*([\p{L}\p{N}]*)/u.exec(text.slice(at, at + 24))?.[1] ?? '';
}

/** Whether `word`, written with a full stop, is an abbreviation and the sentence continues with `next`. */
function abbreviates(word: string, next: string): boolean {
  const lower = word.toLowerCase();
  if (BEFORE_A_NAME.has(lower)) return true;
  if (BEFORE_A_NUMBER.has(lower)) return /^(\d|[IVXLC]+$|[A-Z]$)/.test(next);
  // "U.S.", "p.m.", "Ph.D.", the initial of a name, "Inc.": may also be the last word of a sentence.
  if (/^\p{L}$/u.test(word) || /\p{L}\.\p{L}+$/u.test(word) || MAY_END.has(lower)) {
    return !OPENERS.has(next.toLowerCase());
  }
  return false;
}

const words = (list: string) => new Set(list.split(' '));

/** Never the last word. */
const BEFORE_A_NAME = words(
  'dr mr mrs ms mx messrs prof rev revd fr st ste mt ft gen maj col lt sgt cpl pvt capt cmdr cdr adm brig gov sen rep ' +
    'pres hon supt insp esp vs v cf viz approx ca e.g i.e eg ie incl resp aka a.k.a',
);

/** Only before a number, a Roman number or a single letter: "No. 5", but not "He said no." */
const BEFORE_A_NUMBER = words('no nos fig figs vol vols ch pp p op eq eqs sec art pt ser bk fol par ver');

/** May be at the end of a sentence or within one. */
const MAY_END = words(
  'inc co corp ltd bros jr sr etc al est dept univ assn ave blvd rd hwy jan feb mar apr jun jul aug sep sept oct nov dec ' +
    'mon tue tues wed thu thur thurs fri sat ed eds trans repr cent ala ariz ark calif colo conn fla ga ill ind kan ky la ' +
    'md mass mich minn miss mo mont neb nev okla ore penn tenn tex va vt wash wis wyo',
);

/** Words that, after such an abbreviation, show that a new sentence starts. */
const OPENERS = words(
  'a about according after all also although among an and another any as at because before besides between both but by ' +
    'despite during each early even every few following for from furthermore had has have he her here his how ' +
    'however if in indeed it its later many meanwhile more moreover most much my nevertheless no none nor not now of on once ' +
    'one only or other others our out over people she since so some soon still such than that the their them then there ' +
    'therefore these they this those though three through throughout thus to today two under unlike until upon was we were ' +
    'what when where whereas whether which while who whose why with within without yet you your',
);

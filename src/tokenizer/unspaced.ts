/**
 * Scripts that are written without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and their
 * neighbours, for use in a character class. By script extensions, so that the long mark of katakana (ー) belongs to it.
 * Korean and Vietnamese have spaces.
 */
const SCRIPTS = [
  'Han',
  'Hiragana',
  'Katakana',
  'Bopomofo',
  'Yi',
  'Thai',
  'Lao',
  'Khmer',
  'Myanmar',
  'Tibetan',
]
  .concat(['Tai_Le', 'New_Tai_Lue', 'Tai_Tham', 'Tai_Viet', 'Javanese', 'Balinese'])
  .map((script) => `\\p{scx=${script}}`)
  .join('');

/**
 * One letter, digit or mark of such a script. Their punctuation, `。` and the like, is not part of it, nor are marks that many
 * scripts share (script Inherited): Tai Le, too, has the acute accent of a decomposed é.
 */
export const UNSPACED = `(?:(?=[\\p{L}\\p{N}\\p{M}])(?!\\p{sc=Zinh})[${SCRIPTS}])`;

const ANY = new RegExp(UNSPACED, 'u');
/** No such script has a character below this one, so that most texts need no regular expression. */
const FIRST_CODE = 0x0e00;

/** Whether a text has a letter of a script without spaces. */
export function hasUnspaced(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) >= FIRST_CODE) return ANY.test(text);
  return false;
}

/** Characters [start, end) of a text. */
interface Range {
  start: number;
  end: number;
}

const segmenter = new Intl.Segmenter('en', { granularity: 'word' });
/** UTF-16 units that the segmenter gets at a time: each of its steps takes time in proportion to the length that it gets. */
const WINDOW = 256;

/**
 * The words of a text in order; every character but white space lies in one. White space separates them, and in a run with
 * a script without spaces ICU's dictionaries and rules do; punctuation belongs to the word before it.
 */
export function splitWords(text: string): Range[] {
  const words: Range[] = [];
  for (const { 0: run, index } of text.matchAll(/\S+/g)) {
    if (!hasUnspaced(run)) words.push({ start: index, end: index + run.length });
    else for (const { start, end } of wordsOfRun(run)) words.push({ start: index + start, end: index + end });
  }
  return words;
}

function wordsOfRun(run: string): Range[] {
  const words: Range[] = [];
  const add = ({ index, segment, isWordLike }: Intl.SegmentData, from: number) => {
    const start = from + index;
    const last = words.at(-1);
    if (last && !isWordLike) last.end = start + segment.length;
    else words.push({ start, end: start + segment.length });
  };
  for (let from = 0; from < run.length; ) {
    const found = [...segmenter.segment(run.slice(from, from + WINDOW))];
    // The end of a window may have cut a word, and so changed the one before.
    const whole = from + WINDOW >= run.length || found.length < 3 ? found : found.slice(0, -2);
    for (const segment of whole) add(segment, from);
    const last = whole[whole.length - 1];
    from += last.index + last.segment.length;
  }
  return words;
}

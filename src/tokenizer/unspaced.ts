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

/** One letter, digit or mark of such a script. Their punctuation, `。` and the like, is not part of it. */
export const UNSPACED = `(?:(?=[\\p{L}\\p{N}\\p{M}])[${SCRIPTS}])`;

const ANY = new RegExp(UNSPACED, 'u');
/** No such script has a character below this one, so that most texts need no regular expression. */
const FIRST_CODE = 0x0e00;

/** Whether a text has a letter of a script without spaces. */
export function hasUnspaced(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) >= FIRST_CODE) return ANY.test(text);
  return false;
}

import type { Range } from '../../datasets/types.ts';
import { UNSPACED } from '../../tokenizer/unspaced.ts';
import { unspacedDates } from './dates-unspaced.ts';

const MONTH =
  '(?:January|February|March|April|May|June|July|August|September|October|November|December|' +
  '(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\\.)';
const DAY = '(?:3[01]|[12]\\d|0?[1-9])(?:st|nd|rd|th)?';
const DAYS = `${DAY}(?:[–-]${DAY})?(?!\\d)`;
const ERA = '(?:BCE|BC|CE|AD|B\\.C\\.E\\.|B\\.C\\.|A\\.D\\.)(?![\\p{L}\\d])';
/** The number is not part of a longer number, a price or a code. */
const NUMBER_BEGINS = `(?<!(?!${UNSPACED})\\p{L}|\\d|[\\d$£€¥][.,]?|[-–/#])`;
const NUMBER_ENDS = '(?![\\p{L}\\d%°]|[.,:/]\\d|-\\p{L})';
const YEAR = `(?:1\\d{3}|20\\d{2})(?!\\d)`;
/** A number of four digits before one of these is a count and not a year. */
const UNITS =
  '(?! ?(?:people|men|women|children|soldiers|troops|students|members|inhabitants|persons|deaths|casualties|' +
  'km|kilometres|kilometers|miles|mi|m|metres|meters|feet|ft|acres|hectares|ha|kg|tonnes|tons|pounds|lb|hours|minutes|' +
  'years|months|weeks|days|times|percent|species|square|sq|cubic|W|MW|kW|Hz|MHz|rpm|hp|dollars|euros)(?![\\p{L}\\d]))';

/** From the most to the least specific: at each position the first form that matches wins. */
// The look-ahead saves trying every form at every character.
const DATE = new RegExp(
  `(?=[\\dJFMASONDTW])(?:${[
    `${NUMBER_BEGINS}(?:1\\d|20)\\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\\d|3[01])(?!\\d)`,
    `${NUMBER_BEGINS}\\d{1,2}/\\d{1,2}/(?:1\\d|20)\\d{2}(?!\\d)`,
    `${NUMBER_BEGINS}${DAYS} (?:of )?${MONTH}(?:,? ${YEAR})?(?!\\p{L})`,
    `\\b${MONTH} ${DAYS}(?![\\p{L}:])(?:,? ${YEAR})?`,
    `\\b${MONTH},? ${YEAR}`,
    `${NUMBER_BEGINS}\\d{1,2}(?:st|nd|rd|th)(?:[ -]|[–-]\\d{1,2}(?:st|nd|rd|th)[ -])(?:century|centuries|millennium)(?: ${ERA})?`,
    `${NUMBER_BEGINS}\\d{1,5}(?:[–-]\\d{1,5})? ?${ERA}`,
    `\\bAD \\d{1,4}(?!\\d)`,
    `${NUMBER_BEGINS}${YEAR}(?:[–-](?:${YEAR}|\\d{2}(?!\\d))|s(?!\\p{L}))`,
    `${NUMBER_BEGINS}${YEAR}${NUMBER_ENDS}${UNITS}`,
    `(?<=\\b[Yy]ears? )\\d{1,4}${NUMBER_ENDS}`,
    // "May" and "March" alone are also ordinary words.
    '\\b(?:January|February|April|June|July|August|September|October|November|December)\\b',
    '(?<=\\b(?:in|In|of|since|Since|until|by|By|during|During|last|next|early|late|mid|from|through|and|to) )(?:May|March)\\b(?! \\p{Lu})',
    '\\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\\b',
  ].join('|')})`,
  'gu',
);

/** A cheap test whether a text may hold a date at all. */
const HINT = /\d|January|February|March|April|May|June|July|August|September|October|November|December|day\b/;

/** No text without such a character has dates in the forms of `unspacedDates`. */
const EAST_ASIAN = /[\u0e00-\u109f\u1780-\u17ff\u3000-\uffef]/;

/** Days, months, years, decades and centuries of a sentence, in order. The paper's own regular expression is unpublished. */
export function dates(sentence: string): Range[] {
  const others = EAST_ASIAN.test(sentence) ? unspacedDates(sentence) : [];
  if (!HINT.test(sentence)) return others;
  const english = Array.from(sentence.matchAll(DATE), (match) => ({
    start: match.index,
    end: match.index + match[0].length,
  }));
  if (others.length === 0) return english;
  const apart = english.filter(({ start, end }) => !others.some((o) => o.start < end && start < o.end));
  return [...others, ...apart].sort((a, b) => a.start - b.start);
}

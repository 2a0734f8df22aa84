/**
 * Named entities and dates, the spans that REALM masks (paper, section 3.4 "salient span masking"). The paper tags
 * entities with a BERT trained on CoNLL-2003, which was never published. These rules use capital letters, which mark nearly
 * every name in English prose, known or invented. Capitals say nothing about the first word of a sentence: compromise's
 * lexicon decides there. Its whole tagger was measured at about 200 sentences a second, thousands of times slower than a
 * look-up: too slow for millions of documents. Measured on Wikigold, 1,696 sentences of Wikipedia with marked names: the
 * rules find 83 % of the names exactly (spaCy's en_core_web_sm: 76 %) and touch 97 %; 77 % of the spans that they find are
 * exactly a name, and 92 % touch one (`npm run bench:spans`, docs/data.md). A NER model may be used instead: `text.ner`.
 */
import nlp from 'compromise/two';
import type { Range } from '../../datasets/types.ts';
import { hasUnspaced } from '../../tokenizer/unspaced.ts';
import { dates } from './dates.ts';

/** Names of people, places, organisations and other things, and dates: ranges in order, none overlapping. */
export function salientSpans(sentence: string): Range[] {
  const spans = capitalised(sentence);
  return hasUnspaced(sentence) ? withUnspacedNames(sentence, spans) : spans;
}

function capitalised(sentence: string): Range[] {
  const when = dates(sentence);
  // All capitals, as in a heading: they mark no names.
  if (!/\p{Ll}/u.test(sentence)) return when;
  const spans: Range[] = [];
  let d = 0;
  for (const name of names(sentence, when)) {
    while (d < when.length && when[d].start < name.start) spans.push(when[d++]);
    spans.push(name);
  }
  while (d < when.length) spans.push(when[d++]);
  return spans;
}

/**
 * What shows a name in scripts without capitals: the title of a work in its quotes, and a foreign person in katakana with
 * dots between the names. Others need a model that names entities (`text.ner`).
 */
const UNSPACED_NAME =
  /(?<=《)[^《》]{1,30}(?=》)|(?<=『)[^『』]{1,30}(?=』)|[ァ-ヺー]+(?:[・＝][ァ-ヺー]+)+/gu;

/** Adds these names; a span that touches one is left out. */
function withUnspacedNames(sentence: string, spans: readonly Range[]): Range[] {
  const names = Array.from(sentence.matchAll(UNSPACED_NAME), ({ 0: name, index }) => ({
    start: index,
    end: index + name.length,
  }));
  const apart = spans.filter(({ start, end }) => !names.some((name) => name.start < end && start < name.end));
  return [...names, ...apart].sort((a, b) => a.start - b.start);
}

/** A word of the sentence and how far it may belong to a name. */
interface Word extends Range {
  text: string;
  capital: boolean;
  /** At the start of the sentence or of a quotation, where every word has a capital. */
  first: boolean;
}

// "U.S." and "J." with their full stops, "O'Neill", "Jean-Paul", "AT&T", "al-Qaeda", "naïve".
const WORD =
  /(?:\p{Lu}\.)+(?:\p{Lu}(?!\p{L}))?|[\p{L}\p{N}][\p{L}\p{M}\p{N}]*(?:[-'’&.](?=[\p{L}\p{N}])[\p{L}\p{M}\p{N}]+)*/uy;

function names(sentence: string, taken: Range[]): Range[] {
  const words = readWords(sentence);
  const found: Range[] = [];
  let t = 0;
  for (let w = 0; w < words.length; ) {
    while (t < taken.length && taken[t].end <= words[w].start) t++;
    const limit = t < taken.length ? taken[t].start : sentence.length;
    if (words[w].end > limit || !startsName(sentence, words, w)) {
      w++;
      continue;
    }
    let last = w;
    for (let next = nextOfName(sentence, words, last); next > last && words[next].end <= limit; ) {
      last = next;
      next = nextOfName(sentence, words, last);
    }
    if (last - w < MAX_NAME_WORDS) pushName(found, words, w, last);
    w = last + 1;
  }
  return found;
}

/** A longer run of capitalised words is a heading in title case. */
const MAX_NAME_WORDS = 10;

function readWords(sentence: string): Word[] {
  const words: Word[] = [];
  for (let at = 0; at < sentence.length; ) {
    const code = sentence.charCodeAt(at);
    if (code < 0x80 && !isPlain(code)) {
      at++;
      continue;
    }
    // Most words are plain letters and digits between spaces: `WORD` would find the same, several times slower.
    let end = at;
    while (isPlain(sentence.charCodeAt(end))) end++;
    if (end > at && endsPlainly(sentence, at, end)) {
      const capital =
        isUpper(code) || (!isDigit(code) && isUpper(sentence.charCodeAt(at + 1)) && end > at + 1); // "eBay"
      words.push(wordAt(sentence, sentence.slice(at, end), at, capital, words.length === 0));
      at = end;
      continue;
    }
    WORD.lastIndex = at;
    const found = WORD.exec(sentence)?.[0];
    if (found === undefined) {
      at += sentence.codePointAt(at)! > 0xffff ? 2 : 1;
      continue;
    }
    // A possessive is not part of the name, nor is what follows a hyphen in lower case ("US-led").
    const text = /['’-]/.test(found) ? found.replace(/['’]s$|(?<=^\p{Lu}.*)-\p{Ll}.*$/u, '') : found;
    const capital =
      code < 0x80
        ? isUpper(code) || /^\p{Ll}(?:\p{Ll}*-)?\p{Lu}/u.test(text) // "eBay", "al-Qaeda"
        : /^\p{Lu}/u.test(text);
    words.push(wordAt(sentence, text, at, capital, words.length === 0));
    at += found.length;
  }
  return words;
}

function wordAt(sentence: string, text: string, start: number, capital: boolean, first: boolean): Word {
  return { text, start, end: start + text.length, capital, first: first || opens(sentence, start) };
}

const isUpper = (code: number) => code >= 0x41 && code <= 0x5a;
const isDigit = (code: number) => code >= 0x30 && code <= 0x39;
const isPlain = (code: number) => (code >= 0x61 && code <= 0x7a) || isUpper(code) || isDigit(code);

/** Whether the word that starts at `start` is exactly the letters and digits [start, end). */
function endsPlainly(sentence: string, start: number, end: number): boolean {
  if (end === sentence.length) return true;
  const after = sentence.charCodeAt(end);
  if (after >= 0x80) return false;
  if (!JOINTS.includes(sentence[end])) return true;
  if (after === 0x2e && end === start + 1 && isUpper(sentence.charCodeAt(start))) return false; // "J."
  if (end + 1 === sentence.length) return true;
  const next = sentence.charCodeAt(end + 1);
  return next < 0x80 && !isPlain(next);
}

const JOINTS = "-'&.";

/** Whether a quotation, a bracket or a new clause starts at `start`. */
function opens(sentence: string, start: number): boolean {
  const before = sentence[start - 1];
  if (before === ' ') return ':;?!…'.includes(sentence[start - 2]);
  return OPENING.includes(before);
}

const OPENING = '"“‘«(\'¿¡';

function startsName(sentence: string, words: Word[], w: number): boolean {
  const word = words[w];
  if (!word.capital || NEVER_FIRST.has(word.text) || /^\P{L}|['’](?:ve|re|ll|d|m|t)$/u.test(word.text))
    return false;
  const next = w + 1 < words.length ? words[w + 1] : undefined;
  const joined = next?.capital && !next.first && next.start === word.end + 1;
  if (/^\p{Lu}\.?$/u.test(word.text)) return joined === true; // an initial, but not "T. californica"
  const lower = word.text.toLowerCase();
  const shouted = word.text.length > 1 && word.text === word.text.toUpperCase(); // "US" is not "us"
  if (!shouted && FUNCTION_WORDS.has(lower)) return false;
  if (!word.first || shouted || /\p{Ll}\p{Lu}/u.test(word.text)) return true;
  if (HEADS.has(lower)) return joined === true && !NEVER_IN.has(next!.text);
  return isNameAtFirst(word, lower, next, /[,)]/.test(sentence[word.end] ?? ''));
}

/** Index of the word that continues the name after word `last`, or `last` if the name ends there. */
function nextOfName(sentence: string, words: Word[], last: number): number {
  const word = words[last];
  let next = last + 1;
  let from = word.end;
  if (!joins(sentence, words, next, from)) return last;
  if (words[next].capital) return NEVER_IN.has(words[next].text) ? last : next;
  // "University of California", "Isle of the Dead", "Vincent van Gogh": small words between two capitals.
  const bridge = words[next].text;
  if (bridge === 'of' ? !TAKES_OF.has(word.text) : !PARTICLES.has(bridge)) return last;
  for (let hops = 0; hops < 2; hops++) {
    from = words[next].end;
    next++;
    if (!joins(sentence, words, next, from)) return last;
    if (words[next].capital) return NEVER_IN.has(words[next].text) ? last : next;
    if (words[next].text !== 'the' && !PARTICLES.has(words[next].text)) return last;
  }
  return last;
}

/** Whether only a space (or " & ", or the full stop of an abbreviation) lies between `from`, the end of a word, and word w. */
function joins(sentence: string, words: Word[], w: number, from: number): boolean {
  if (w >= words.length || words[w].first) return false;
  const next = words[w];
  const between = next.start - from;
  if (between === 1) return sentence[from] === ' ';
  if (between === 2)
    return sentence[from] === '.' && sentence[from + 1] === ' ' && ABBREVIATED.has(words[w - 1].text);
  return between === 3 && sentence.startsWith(' & ', from);
}

function pushName(found: Range[], words: Word[], from: number, to: number): void {
  while (from < to && STRIPPED.has(words[from].text) && words[from + 1].capital) from++; // not "Secretary of State"
  if (from === to && STRIPPED.has(words[from].text)) return;
  // The full stop after "World War I." ends the sentence; that of "U.S." or of a lone initial is its own.
  const stop = from < to && /^\p{Lu}\.$/u.test(words[to].text) ? 1 : 0;
  found.push({ start: words[from].start, end: words[to].end - stop });
}

/** Whether the first word of a sentence, which always has a capital, is a name. `apart`: a comma or bracket follows it. */
function isNameAtFirst(word: Word, lower: string, next: Word | undefined, apart: boolean): boolean {
  const tags = tagsOf(lower);
  if (tags.length > 0) return tags.some((tag) => NAME_TAGS.has(tag));
  if (word.text.includes('-') && !/-\p{Lu}/u.test(word.text)) return false;
  if (ORDINARY_ENDING.test(lower)) return false;
  if (next === undefined || next.capital || apart) return true;
  // A countable English noun does not start a clause without an article; a name does.
  return (
    VERBS.has(next.text) || next.text.endsWith('ed') || tagsOf(next.text).some((tag) => FOLLOWS_NAME.has(tag))
  );
}

/** Derived nouns, adjectives and adverbs, and plurals, but not words in -as, -is, -os, -us and -ss, which may be names. */
const ORDINARY_ENDING =
  /(?:ion|ment|ness|ity|ing|ism|ist|ship|ance|ence|ly|ed|ous|ical|ics|less|ful|able|ible|ure|ogy|cy|[^aiosu]s)$/u;

type Lexicon = Record<string, string | string[] | undefined>;
let lexicon: Lexicon | undefined;

/** compromise's tags of a word in lower case; none if it does not know the word. */
function tagsOf(word: string): string[] {
  lexicon ??= (nlp.model() as { one: { lexicon: Lexicon } }).one.lexicon;
  const tags = Object.hasOwn(lexicon, word) ? lexicon[word] : undefined;
  return tags === undefined ? [] : Array.isArray(tags) ? tags : [tags];
}

const NAME_TAGS = new Set(
  'Person FirstName MaleName FemaleName LastName Place City Country Region Address Organization SportsTeam School Company Demonym ProperNoun'.split(
    ' ',
  ),
);

const FOLLOWS_NAME = new Set(
  'Copula PastTense Modal Auxiliary PresentTense Preposition Conjunction Adverb Negative'.split(' '),
);

const words = (list: string) => new Set(list.split(' '));

/** Small words within a name. */
const PARTICLES = words(
  'de la las los le du des da do dos das di del della der den van von vom zu zur ter ten af av al el bin ibn ben bint y e',
);

/** "of" belongs to the name only after these: not in "Talvora Benik of Quenfell", which is two names. */
const TAKES_OF = words(
  'Academy Act Acts Archbishop Archdiocese Army Articles Association Bank Battle Bay Bill Bishop Board Book Bureau Cathedral Chamber ' +
    'Church City College Commonwealth Community Company Confederation Conference Congress Convention Cortes Council County Court ' +
    'Covenant Declaration Department Diocese District Duchy Duke Earl Emirate Empire Faculty Federation Fort Foundation Gulf Hall ' +
    'High House Institute Institution Isle Isles Islands Journal Kingdom Knights League Legion Library Massacre Ministry Mount Museum ' +
    'National Office Order Organisation Organization Parliament Party Peace Port Prince Princess Principality Province Republic ' +
    'Republics School Sea Secretary Senate Siege Society Sons Star State States Statue Strait Straits Supreme Temple Theatre Tower ' +
    'Treaty Union United Universities University Valley War Wars',
);

/** Before a full stop within a name. */
const ABBREVIATED = words(
  'St Ste Mt Ft Dr Mr Mrs Ms Prof Rev Gen Col Lt Sgt Capt Gov Sen Rep Jr Sr Bros Co Corp No Wm Geo Chas Jas Thos',
);

/** Removed from the front of a name, including titles, as in CoNLL-2003; alone they are not names. */
const STRIPPED = words(
  'The A An Mr Mrs Ms Dr Prof Rev I Jr Sr No PM AM Professor President Senator Governor Mayor Colonel Captain Lieutenant Sergeant ' +
    'Chancellor Ambassador Chairman Secretary',
);

const NEVER_FIRST = words('I Jr Sr PM AM');
const NEVER_IN = words('I The A An In On At He She It They We You And But Or');

/** Third persons that compromise's lexicon does not hold as verbs: "Quenfell lies on the Osk". */
const VERBS = words(
  'lies runs stands flows contains includes holds makes remains became began grew won wrote lives borders sits covers takes gives ' +
    'comes goes says saw sees uses shows rises ruled rules leads led met left lost kept built fell fought died owns produces ' +
    'features hosts plays offers serves operates consists belongs refers means provides receives works writes argues claims believes ' +
    'states notes suggests describes made took gave came went said founded and or who whose which that in on at of from with',
);

/** Ordinary words that start a name if a capital follows: "World War", "New Haven". */
const HEADS = words(
  'new world state government university city church law land army king queen prince princess president minister lord lady sir ' +
    'great north south east west northern southern eastern western central upper lower saint mount lake river fort port cape bay ' +
    'high grand royal imperial national international united public supreme general good big little old black white red blue green ' +
    'golden silver holy free young art music water light air sea sun moon fire house home street park school college museum bank ' +
    'union party radio super star book battle treaty pope bishop archbishop emperor empress duke count earl captain colonel ' +
    'professor doctor judge senator governor mayor',
);

/** Never the start of a name, although they may have a capital. compromise's lexicon lacks some of them. */
const FUNCTION_WORDS = words(
  'the a an this that these those it its he she they we you i his her their our my your who whom whose which what when where why how ' +
    'and or but nor so yet for if as at by in of on to up off out over under from into onto with within without about above after ' +
    'again against all almost along already also although always am among an another any anyone anything are around away back be ' +
    'became because been before began behind being below beneath beside besides best better between beyond both came can cannot could ' +
    'did do does done down during each early either else enough especially even eventually ever every everyone everything except far ' +
    'few finally following former formerly four further furthermore generally given had has have having hence here however ' +
    'hundreds including indeed initially instead is just last late later least less let like likewise many may maybe me meanwhile ' +
    'mid might millions more moreover most mostly much must near nearby nearly neither never nevertheless next no nobody none ' +
    'nonetheless not nothing now often once only originally other others otherwise overall own part perhaps previously ' +
    'primarily prior quite rather recent recently regarding same several shall should similar similarly since six some ' +
    'someone something sometime sometimes soon still such sure than thanks then there thereafter therefore though thousands ' +
    'through throughout thus till today together too toward towards two typically unlike until upon us using usually various very ' +
    'via was well were whatever whenever whereas wherever whether while will would yes five seven eight nine ten yesterday tomorrow ' +
    'afterward afterwards unbeknownst example note according compared based due despite per modern ancient different large small low ' +
    'long short common private minor main total current data bacteria people human humans war life day night year years century time',
);

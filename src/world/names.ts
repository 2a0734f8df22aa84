import type { Random } from '../random.ts';

/**
 * The half of all invented words that a world uses. Every invented word belongs to exactly one half, so two
 * worlds of different halves share no invented word, and so no entity's name, whatever their seeds.
 */
export type NameHalf = 'demo' | 'pretraining';

/** Names consist of these syllables, so that a small vocabulary learned on one world covers the names of every other. */
const syllables =
  `bal bar bel ben ber bir bol bor bram bren cal car cas cor cul dal dar del den dor dul dun fal fan fell fen fir fol
  gal gar gel gor gran hal har hel hes hol hul jar jel jor jun kar kel ken kes kir kol lan lar len lin lor lum lun
  mal mar mel mer mir mol mor mun nal nar nel ner nor nul pal par pel pen per pol quen quil ral ram ren ril rol rov
  run sal sar sel sen sil sol sor sul tal tar tel ten tir tol tor tul val var vel ven ver vin vol vor wal war wen
  wes wil win wol yal yar yel yor zan zel zor`.split(/\s+/);

const femaleEndings = [
  'a',
  'ana',
  'dis',
  'ia',
  'ina',
  'la',
  'lia',
  'mina',
  'na',
  'ra',
  'ri',
  'sa',
  'wena',
  'ya',
];
const maleEndings = [
  'an',
  'bert',
  'dan',
  'den',
  'do',
  'gar',
  'mo',
  'mund',
  'no',
  'ric',
  'ro',
  'tus',
  'vin',
  'win',
];
const townEndings = ['by', 'bury', 'dale', 'ford', 'ham', 'holm', 'mouth', 'stead', 'ton', 'wick'];

/** Functions that invent words; each word is new in this world and belongs to its half. */
export interface Names {
  /** A female or male first name, such as "Talina" or "Benric". */
  first(female: boolean): string;
  /** Two syllables, such as "Quenfell": a family, a river, a firm. */
  word(): string;
  /** Two syllables, or one or two and an ending, such as "Marbeck", "Talford" or "Tolverby". */
  town(): string;
}

export function names(random: Random, half: NameHalf): Names {
  const taken = new Set<string>();
  const syllable = () => random.pick(syllables);
  const stem = () => {
    const first = syllable();
    let second = syllable();
    while (second === first) second = syllable();
    return first + second;
  };

  /** Calls `make` until it returns a new word of our half; after some failures a syllable is added, so that a world of any size has enough names. */
  function fresh(make: () => string): string {
    for (let tries = 0; ; tries++) {
      const word = (tries > 15 ? syllable() : '') + (tries > 60 ? syllable() : '') + make();
      if (halfOf(word) !== half || taken.has(word)) continue;
      taken.add(word);
      return word[0].toUpperCase() + word.slice(1);
    }
  }

  return {
    first: (female) => fresh(() => syllable() + random.pick(female ? femaleEndings : maleEndings)),
    word: () => fresh(stem),
    town: () =>
      fresh(() => {
        const shape = random.float();
        if (shape < 0.4) return stem();
        return (shape < 0.7 ? syllable() : stem()) + random.pick(townEndings);
      }),
  };
}

/** The half that a lower-case word belongs to: bit 16 of its 32-bit FNV-1a hash (the lowest bits of that hash mix too little). */
function halfOf(word: string): NameHalf {
  let hash = 0x811c9dc5;
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 0x01000193);
  return (hash >>> 16) & 1 ? 'demo' : 'pretraining';
}

/** The ordinary words in a world's facts, in addition to its invented names. */

const list = (text: string) => text.trim().split(/\s+/);

/** Every "a b" with a of `first` and b of `second`, both space-separated. */
const pairs = (first: string, second: string) =>
  list(first).flatMap((a) => list(second).map((b) => `${a} ${b}`));

export const occupations = list(`
  actor apothecary architect astronomer baker barber beekeeper blacksmith bookbinder botanist brewer butcher
  cabinetmaker candlemaker carpenter chemist clockmaker cook cooper coppersmith dancer doctor dyer engineer engraver
  farmer fisher forester gamekeeper gardener gatekeeper geologist glazier glovemaker goldsmith grocer hatmaker
  innkeeper judge lacemaker lawyer librarian locksmith mapmaker mason messenger miller miner netmaker notary painter
  papermaker pilot poet potter printer ropemaker saddler sailmaker sailor sculptor shepherd shipwright shoemaker
  shopkeeper silversmith singer surgeon surveyor tailor tanner thatcher tinsmith toymaker translator weaver wheelwright`);

/** Goods that towns and firms make; plural. */
export const products = [
  ...pairs(
    'brass bronze copper iron pewter silver tin',
    'bells buttons candlesticks hinges kettles keys lanterns locks scales spoons',
  ),
  ...pairs(
    'cotton felt linen silk velvet wool',
    'blankets coats curtains gloves hats ribbons scarves shawls slippers',
  ),
  ...pairs(
    'ash birch cherry maple oak walnut willow',
    'barrels boxes carts chairs cradles ladders oars tables',
  ),
  ...pairs('clay glass marble porcelain stone', 'beads bowls cups jars jugs lamps tiles vases'),
  ...pairs('leather', 'bags belts boots saddles'),
];

export const instruments = pairs(
  'ebony gilded ivory maple painted silver walnut',
  'banjo bassoon cello clarinet drum dulcimer fiddle flute guitar harp horn lute lyre mandolin oboe organ trumpet viola zither',
);

/** Subjects of books; singular, without article. */
export const themes = pairs(
  'borrowed broken burnt cursed forged forgotten golden hidden lost nameless painted secret stolen sunken',
  'bell cello clock coin crown diary garden harp key lantern letter map mirror necklace portrait ring ship sword throne treasure trunk will',
);

/** The nouns of book titles, as in "The Orchard of …". */
export const titleNouns = list(`
  Baker Bells Bridge Clock Daughter Fever Ferry Fox Garden Gate Ghost Harbour Harvest House Island Judge Keeper Lantern
  Letters Library Mill Miller Mirror Moon Music Night Oak Orchard Raven Riddle Road Rose Sailor Secret Shadow Shepherd
  Silence Sisters Snow Song Stars Stone Storm Stranger Summer Swans Tower Treasure Voices Weaver Well Widow Winter Wolf`);

export const firmKinds = list('Brothers Company Foundry House Mills Press Trading Union Works Yard');

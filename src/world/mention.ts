import type { Random } from '../random.ts';
import type { Entity, EntityKind, Fact, FactKind } from './facts.ts';
import { fill, type Phrase, plain, salient } from './phrase.ts';
import { wordings } from './wordings.ts';

/** Facts with ordinary words as answers, neither names nor years. */
const ordinary: ReadonlySet<FactKind> = new Set<FactKind>([
  'person.occupation',
  'person.instrument',
  'town.product',
  'firm.product',
  'book.theme',
]);

/** The family name {S}, made unique by another fact {A} about the person. */
const shortForms: Partial<Record<FactKind, string>> = {
  'person.birthplace': '{S} of {A}',
  'person.occupation': 'the {A} {S}',
  'person.employer': '{S} of {A}',
  'person.teacher': "{A}'s pupil {S}",
  'person.instrument': '{S} with the {A}',
};

const heads: Record<EntityKind, string> = {
  person: 'the person who',
  town: 'the town that',
  firm: 'the firm that',
  book: 'the book that',
};

/** Ways to mention an entity outside its document; each is unique in the world. */
export interface Mentions {
  full(entity: Entity): Phrase;
  /** A person's family name with a hint from `hints`: "the potter Vorben"; undefined if none is unique. */
  short(entity: Entity, hints: readonly Fact[]): Phrase | undefined;
  /** One or two of `hints` instead of a name: "the potter who was born in Quenfell"; undefined if none is unique. */
  described(entity: Entity, hints: readonly Fact[]): Phrase | undefined;
}

export function mentions(random: Random, entities: readonly Entity[]): Mentions {
  const number = numbering(); // for every different fact and short name
  const numbers = new Map<Fact, number>();
  // How many entities share each fact, each pair of facts, and each fact with a short name, by the key of their numbers.
  const holders = new Map<number, number>();
  const count = (key: number) => holders.set(key, (holders.get(key) ?? 0) + 1);
  for (const { shortName, facts } of entities) {
    const name = number(shortName);
    const ids = facts.map((fact) => number(`${fact.kind}|${fact.answer}`));
    for (let i = 0; i < ids.length; i++) {
      numbers.set(facts[i], ids[i]);
      count(pairKey(ids[i], ids[i]));
      count(pairKey(name, ids[i]));
      for (let j = 0; j < i; j++) count(pairKey(ids[i], ids[j]));
    }
  }
  const isUnique = (a: number, b: number) => holders.get(pairKey(a, b)) === 1;

  return {
    full: (entity) => salient(entity.name),
    short(entity, hints) {
      const usable = hints.filter(
        (hint) => shortForms[hint.kind] && isUnique(number(entity.shortName), numbers.get(hint)!),
      );
      if (usable.length === 0) return undefined;
      const hint = random.pick(usable);
      return fill(shortForms[hint.kind]!, { S: salient(entity.shortName), A: value(hint) }, false);
    },
    described(entity, hints) {
      const choices: Fact[][] = [];
      for (const a of hints) {
        for (const b of hints) {
          if (isUnique(numbers.get(a)!, numbers.get(b)!)) choices.push(a === b ? [a] : [a, b]);
        }
      }
      return choices.length === 0 ? undefined : describe(entity, random.pick(choices));
    },
  };
}

/** A phrase for an answer: with a span if it is a name or a year. */
export const value = (fact: Fact): Phrase =>
  ordinary.has(fact.kind) ? plain(fact.answer) : salient(fact.answer);

/** One number for two numbers in either order; unique below 2^26 different facts. */
const pairKey = (a: number, b: number) => Math.min(a, b) * 2 ** 26 + Math.max(a, b);

/** Numbers different strings from 0, in order of first use. */
function numbering(): (text: string) => number {
  const seen = new Map<string, number>();
  return (text) => {
    let n = seen.get(text);
    if (n === undefined) {
      n = seen.size;
      seen.set(text, n);
    }
    return n;
  };
}

/** "the town that lies on the river Tolven and is known for oak chairs"; an occupation is used as the noun. */
function describe(entity: Entity, hints: readonly Fact[]): Phrase {
  const trade = hints.length > 1 ? hints.find((hint) => hint.kind === 'person.occupation') : undefined;
  const [first, second] = hints.filter((hint) => hint !== trade);
  let template = `${trade ? `the ${trade.answer} who` : heads[entity.kind]} ${wordings[first.kind].relative}`;
  if (second) {
    const verb = wordings[first.kind].relative.split(' ', 2).join(' ');
    const clause = wordings[second.kind].relative.replaceAll('A}', 'B}');
    // "was born in Quenfell in 1834", not "was born in Quenfell and was born in 1834"
    template += clause.startsWith(`${verb} `) ? clause.slice(verb.length) : ` and ${clause}`;
  }
  return fill(template, { A: value(first), B: second ? value(second) : plain('') }, false);
}

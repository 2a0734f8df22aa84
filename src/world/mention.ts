import type { Random } from '../random.ts';
import type { Entity, EntityKind, Fact, FactKind } from './facts.ts';
import { fill, type Phrase, plain, salient } from './phrase.ts';
import { wordings } from './wordings.ts';

/** Facts whose answers are ordinary words, neither names nor years. */
const ordinary: ReadonlySet<FactKind> = new Set<FactKind>([
  'person.occupation',
  'person.instrument',
  'town.product',
  'firm.product',
  'book.theme',
]);

/** The family name {S} told apart by another fact {A} of the person. */
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

/** Ways to mention an entity outside its document, each of which fits no other entity of the world. */
export interface Mentions {
  full(entity: Entity): Phrase;
  /** A person's family name with a hint from `hints`: "the potter Vorben"; undefined where none is unique. */
  short(entity: Entity, hints: readonly Fact[]): Phrase | undefined;
  /** No name, one or two of `hints` instead: "the potter who was born in Quenfell"; undefined where none is unique. */
  described(entity: Entity, hints: readonly Fact[]): Phrase | undefined;
}

export function mentions(random: Random, entities: readonly Entity[]): Mentions {
  // How many entities share each fact, pair of facts, and fact with family name.
  const holders = new Map<string, number>();
  const count = (key: string) => holders.set(key, (holders.get(key) ?? 0) + 1);
  for (const { shortName, facts } of entities) {
    for (let i = 0; i < facts.length; i++) {
      count(factKey(facts[i]));
      count(`${shortName}|${factKey(facts[i])}`);
      for (let j = 0; j < i; j++) count(pairKey(facts[i], facts[j]));
    }
  }
  const isUnique = (key: string) => holders.get(key) === 1;

  return {
    full: (entity) => salient(entity.name),
    short(entity, hints) {
      const usable = hints.filter(
        (hint) => shortForms[hint.kind] && isUnique(`${entity.shortName}|${factKey(hint)}`),
      );
      if (usable.length === 0) return undefined;
      const hint = random.pick(usable);
      return fill(shortForms[hint.kind]!, { S: salient(entity.shortName), A: value(hint) }, false);
    },
    described(entity, hints) {
      const choices = hints.flatMap((a) =>
        hints
          .filter((b) => (a === b ? isUnique(factKey(a)) : isUnique(pairKey(a, b))))
          .map((b) => (a === b ? [a] : [a, b])),
      );
      return choices.length === 0 ? undefined : describe(entity, random.pick(choices));
    },
  };
}

/** A phrase for an answer: a span where it is a name or a year. */
export const value = (fact: Fact): Phrase =>
  ordinary.has(fact.kind) ? plain(fact.answer) : salient(fact.answer);

const factKey = (fact: Fact) => `${fact.kind}|${fact.answer}`;

const pairKey = (a: Fact, b: Fact) =>
  a.kind < b.kind ? `${factKey(a)}|${factKey(b)}` : `${factKey(b)}|${factKey(a)}`;

/** "the town that lies on the river Tolven and is known for oak chairs"; an occupation becomes the noun. */
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

import type { Random } from '../random.ts';
import { type NameHalf, names } from './names.ts';
import { firmKinds, instruments, occupations, products, themes, titleNouns } from './things.ts';

export type EntityKind = 'person' | 'town' | 'firm' | 'book';

/** A relation of an entity, named "entity.relation". */
export type FactKind =
  | 'person.birthplace'
  | 'person.birthYear'
  | 'person.occupation'
  | 'person.employer'
  | 'person.teacher'
  | 'person.instrument'
  | 'town.river'
  | 'town.year'
  | 'town.mayor'
  | 'town.product'
  | 'firm.founder'
  | 'firm.seat'
  | 'firm.product'
  | 'firm.year'
  | 'book.author'
  | 'book.year'
  | 'book.setting'
  | 'book.theme';

export interface Fact {
  kind: FactKind;
  /** As written in the document, without an article. */
  answer: string;
}

export interface Entity {
  kind: EntityKind;
  /** Unique in its world. */
  name: string;
  /** A person's family name; for other kinds the name. */
  shortName: string;
  /** Used for people only. */
  female: boolean;
  /** Three or four, in the order of the document. */
  facts: Fact[];
}

/** The part of an entity that relations between entities need before its facts exist. */
interface Draft extends Omit<Entity, 'facts'> {
  /** Birth, foundation or publication. */
  year: number;
}

/**
 * `count` entities in random order: two fifths people, a fifth each towns, firms and books. Years are plausible:
 * towns are founded in the 1600s, people born from 1700 to 1839, firms founded and books written by grown people.
 */
export function entities(random: Random, count: number, half: NameHalf): Entity[] {
  const invent = names(random, half);
  const fifth = Math.floor(count / 5);
  const people = makePeople(count - 3 * fifth);
  const towns = many(fifth, () => draft('town', invent.town(), 1600 + random.int(100)));
  // Several towns share a river, as several people share a family name.
  const rivers = many(Math.ceil(fifth / 2), () => invent.word());
  const taken = new Set<string>();
  const founders = many(fifth, () => random.pick(people));
  const firms = founders.map((founder) => draft('firm', firmName(founder), grownYear(founder)));
  const authors = many(fifth, () => random.pick(people));
  const books = authors.map((author) => draft('book', bookTitle(), grownYear(author)));

  function makePeople(n: number): Draft[] {
    const families = many(Math.ceil(n / 3), () => invent.word());
    const firstNames = [true, false].map((female) => many(Math.ceil(n / 5), () => invent.first(female)));
    const seen = new Set<string>();
    const made: Draft[] = [];
    while (made.length < n) {
      const female = random.float() < 0.5;
      const shortName = random.pick(families);
      const name = `${random.pick(firstNames[female ? 0 : 1])} ${shortName}`;
      if (seen.has(name)) continue;
      seen.add(name);
      made.push({ kind: 'person', name, shortName, female, year: 1700 + random.int(140) });
    }
    return made;
  }

  /** Usually a new word, sometimes the family name of the founder or of another person. */
  function firmName(founder: Draft): string {
    for (let tries = 0; ; tries++) {
      const chance = tries > 20 ? 1 : random.float();
      const word =
        chance < 0.12 ? founder.shortName : chance < 0.3 ? random.pick(people).shortName : invent.word();
      const name = `${word} ${random.pick(firmKinds)}`;
      if (taken.has(name)) continue;
      taken.add(name);
      return name;
    }
  }

  /** "The Orchard of …" with the name of a town or a family; the town is the book's setting only by chance. */
  function bookTitle(): string {
    for (let tries = 0; ; tries++) {
      const noun = random.pick(titleNouns);
      const title =
        tries > 20
          ? `The ${noun} of ${invent.word()}`
          : random.float() < 0.65
            ? `The ${noun} ${random.pick(['of', 'of', 'in', 'from'])} ${random.pick(towns).name}`
            : `The ${noun} of ${random.pick(people).shortName}`;
      if (taken.has(title)) continue;
      taken.add(title);
      return title;
    }
  }

  function grownYear(person: Draft): number {
    return person.year + 22 + random.int(38);
  }

  /** A member of `from` for which `fit` is true; after a few tries, any except `not`. */
  function suitable(from: readonly Draft[], not: Draft, fit: (draft: Draft) => boolean): Draft {
    let chosen = random.pick(from);
    for (let tries = 0; tries < 30 && (chosen === not || !fit(chosen)); tries++) chosen = random.pick(from);
    while (chosen === not) chosen = random.pick(from);
    return chosen;
  }

  function factsOf(entity: Draft, i: number): Fact[] {
    const { year } = entity;
    const town = () => random.pick(towns).name;
    const fact = (kind: FactKind, answer: string | number): Fact => ({ kind, answer: String(answer) });
    if (entity.kind === 'person') {
      const employer = suitable(firms, entity, (firm) => firm.year > year - 60 && firm.year < year + 50);
      const teacher = suitable(people, entity, (other) => other.year < year - 8 && other.year > year - 50);
      return some(4, [
        fact('person.birthplace', town()),
        fact('person.birthYear', year),
        fact('person.occupation', random.pick(occupations)),
        fact('person.employer', employer.name),
        fact('person.teacher', teacher.name),
        fact('person.instrument', random.pick(instruments)),
      ]);
    }
    if (entity.kind === 'town') {
      return some(threeOrFour(), [
        fact('town.river', random.pick(rivers)),
        fact('town.year', year),
        fact('town.mayor', random.pick(people).name),
        fact('town.product', random.pick(products)),
      ]);
    }
    if (entity.kind === 'firm') {
      return some(threeOrFour(), [
        fact('firm.founder', founders[i].name),
        fact('firm.seat', town()),
        fact('firm.product', random.pick(products)),
        fact('firm.year', year),
      ]);
    }
    return some(threeOrFour(), [
      fact('book.author', authors[i].name),
      fact('book.year', year),
      fact('book.setting', town()),
      fact('book.theme', random.pick(themes)),
    ]);
  }

  const threeOrFour = () => (random.float() < 0.1 ? 3 : 4);
  const some = (n: number, facts: Fact[]) => random.shuffle(facts).slice(0, n);
  return random.shuffle(
    [people, towns, firms, books].flatMap((drafts) =>
      drafts.map((entity, i): Entity => {
        const { year: _, ...rest } = entity;
        return { ...rest, facts: factsOf(entity, i) };
      }),
    ),
  );
}

const many = <T>(n: number, make: () => T): T[] => Array.from({ length: n }, make);

const draft = (kind: EntityKind, name: string, year: number): Draft => ({
  kind,
  name,
  shortName: name,
  female: false,
  year,
});

import { join } from 'node:path';
import { type Random, random } from '../random.ts';
import { UserError } from '../system/errors.ts';
import { writeFileAtomic } from '../system/files.ts';
import { type Entity, entities, type Fact, type FactKind } from './facts.ts';
import { type Mentions, mentions } from './mention.ts';
import type { NameHalf } from './names.ts';
import { fill, type Phrase, plain, type Slots, salient } from './phrase.ts';
import { wordings } from './wordings.ts';

export interface WorldOptions {
  seed: number;
  /** One document for each entity, at least 20. */
  documents: number;
  /** Share of the facts that only test questions ask about, in [0, 0.9]. */
  heldOut: number;
  /** The half of the invented words for names; worlds of different halves share no name. Default 'demo'. */
  names?: NameHalf;
}

export interface WorldDocument {
  id: string;
  title: string;
  text: string;
}

/** A sentence of X: one fact, in other words than its document's. */
export interface WorldSentence {
  id: string;
  text: string;
  /** Character ranges, ends exclusive, of all names and years, and of the answer in any case. */
  spans: [number, number][];
  /** Which of `spans` is the fact's answer. */
  answer: number;
  /** The id of the document that states the fact. */
  document: string;
}

export interface WorldQuestion {
  question: string;
  answers: string[];
  /** The id of the document that states the answer. */
  passageId: string;
  /** The relation in question. */
  kind: FactKind;
}

export interface World {
  documents: WorldDocument[];
  sentences: WorldSentence[];
  train: WorldQuestion[];
  dev: WorldQuestion[];
  test: WorldQuestion[];
}

type Split = 'train' | 'dev' | 'test';

/** Share of the facts that only dev questions ask about. */
const devShare = 0.05;

/**
 * Invents a world: people, towns, firms and books with three or four facts each. Every fact is stated once in its
 * entity's document (Z), twice in other words in the sentences (X), and is asked about in one split only: twice in train, or
 * once in dev or test. The same options give the same world.
 */
export function generateWorld({ seed, documents, heldOut, names = 'demo' }: WorldOptions): World {
  if (!Number.isInteger(documents) || documents < 20) {
    throw new UserError(
      `a world needs at least 20 documents, not ${documents}; set documents to at least 20`,
    );
  }
  if (!(heldOut >= 0 && heldOut <= 0.9)) {
    throw new UserError(
      `heldOut must be a share of the facts from 0 to 0.9, not ${heldOut}; a usual value is 0.15`,
    );
  }
  const source = random(seed);
  const all = entities(source, documents, names);
  const mention = mentions(source, all);
  const splits = new Map<Fact, Split>();
  for (const entity of all) {
    for (const fact of entity.facts) {
      const chance = source.float();
      splits.set(fact, chance < heldOut ? 'test' : chance < heldOut + devShare ? 'dev' : 'train');
    }
  }

  const world: World = { documents: [], sentences: [], train: [], dev: [], test: [] };
  for (const entity of all) {
    const document = entity.name.toLowerCase().replaceAll(' ', '-');
    world.documents.push({ id: document, title: entity.name, text: documentText(source, entity) });
    for (const fact of entity.facts) {
      for (const { text, spans, answer } of sentencesOf(source, mention, entity, fact)) {
        world.sentences.push({ id: `x${world.sentences.length}`, text, spans, answer, document });
      }
      const split = splits.get(fact)!;
      // A training question identifies its entity by facts of the training split only, so it reveals no test answer.
      const hints = entity.facts.filter(
        (hint) => hint !== fact && (split !== 'train' || splits.get(hint) === 'train'),
      );
      for (const question of questionsOf(source, mention, entity, fact, hints, split === 'train' ? 2 : 1)) {
        world[split].push({ question, answers: [fact.answer], passageId: document, kind: fact.kind });
      }
    }
  }
  return world;
}

/** The files of a world in `dir`, by their settings under `data`. */
export function worldFiles(dir: string) {
  return {
    documents: join(dir, 'documents.jsonl'),
    sentences: join(dir, 'sentences.jsonl'),
    train: join(dir, 'questions.train.jsonl'),
    dev: join(dir, 'questions.dev.jsonl'),
    test: join(dir, 'questions.test.jsonl'),
  };
}

/** Writes the files of a world, one JSON object a line, into `dir`. */
export function writeWorld(world: World, dir: string): void {
  const files = worldFiles(dir);
  const write = (path: string, rows: readonly object[]) =>
    writeFileAtomic(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  write(files.documents, world.documents);
  write(files.sentences, world.sentences);
  for (const split of ['train', 'dev', 'test'] as const) {
    write(
      files[split],
      world[split].map(({ question, answers, passageId }) => ({
        question,
        answer: answers,
        passage_id: passageId,
      })),
    );
  }
}

/** The facts in order: the first with the name, later ones with a pronoun or short form; sometimes two sentences are joined. */
function documentText(random: Random, entity: Entity): string {
  const used = new Set<string>();
  let text = '';
  let joined = false;
  let pronoun = false;
  entity.facts.forEach((fact, i) => {
    const template = freshWording(
      random,
      wordings[fact.kind].passage,
      used,
      i === 0 && entity.kind === 'book',
    );
    // Only a sentence that starts with the entity itself reads well after "and".
    const join = i > 0 && !joined && template.startsWith('{S') && random.float() < 0.3;
    pronoun = i > 0 && (join || !pronoun || random.float() < 0.5);
    const slots = i === 0 ? slotsOf(entity, entity.name) : laterSlots(entity, pronoun);
    const sentence = fill(template, { ...slots, A: plain(fact.answer) }, !join).text;
    text = join ? `${text.slice(0, -1)}, and ${sentence}` : `${text}${i > 0 ? ' ' : ''}${sentence}`;
    joined ||= join;
  });
  return text;
}

/**
 * A wording without the longer words in `used`, if a few tries find one, so that a document does not say "was
 * born" twice. `noPossessive` avoids "The Judge in Culbar's subject". Adds the wording's words to `used`.
 */
function freshWording(
  random: Random,
  choices: readonly string[],
  used: Set<string>,
  noPossessive: boolean,
): string {
  const fits = (template: string) =>
    !(noPossessive && template.includes("{S's}")) && !longWords(template).some((word) => used.has(word));
  let template = random.pick(choices);
  for (let tries = 0; tries < 12 && !fits(template); tries++) template = random.pick(choices);
  for (const word of longWords(template)) used.add(word);
  return template;
}

const longWordsOf = new Map<string, string[]>();

function longWords(template: string): string[] {
  let words = longWordsOf.get(template);
  if (!words) {
    words = template.match(/[a-z]{4,}/g) ?? [];
    longWordsOf.set(template, words);
  }
  return words;
}

function slotsOf(entity: Entity, name: string): Slots {
  return {
    S: plain(name),
    "S's": plain(name.endsWith('s') ? `${name}'` : `${name}'s`),
    O: plain(name),
    ...pronouns(entity),
  };
}

/** In a document's later sentences: "she" or "Vorben", "it" or "the town". */
function laterSlots(entity: Entity, pronoun: boolean): Slots {
  const isPerson = entity.kind === 'person';
  const slots = slotsOf(entity, isPerson ? entity.shortName : `the ${entity.kind}`);
  if (!pronoun) return slots;
  return isPerson
    ? { ...slots, S: slots.she, "S's": slots.her }
    : { ...slots, S: plain('it'), "S's": plain('its') };
}

function pronouns(entity: Entity): { she: Phrase; her: Phrase } {
  return entity.female ? { she: plain('she'), her: plain('her') } : { she: plain('he'), her: plain('his') };
}

/** Two sentences of different wording: the first with the full name, the second with a vaguer mention if one is unique. */
function sentencesOf(random: Random, mention: Mentions, entity: Entity, fact: Fact) {
  const hints = entity.facts.filter((hint) => hint !== fact);
  return someOf(random, wordings[fact.kind].sentence, 2).map((template, i) => {
    const chance = i === 0 ? 1 : random.float();
    const subject =
      (chance < 0.15 ? mention.described(entity, hints) : undefined) ??
      (chance < 0.6 ? mention.short(entity, hints) : undefined) ??
      mention.full(entity);
    return fill(template, { S: subject, A: salient(fact.answer), ...pronouns(entity) });
  });
}

function questionsOf(
  random: Random,
  mention: Mentions,
  entity: Entity,
  fact: Fact,
  hints: readonly Fact[],
  n: number,
): string[] {
  return someOf(random, wordings[fact.kind].question, n).map((template) => {
    const chance = random.float();
    const subject =
      (chance < 0.2 ? mention.described(entity, hints) : undefined) ??
      (chance >= 0.8 ? mention.short(entity, hints) : undefined) ??
      mention.full(entity);
    return fill(template, { S: subject }).text;
  });
}

/** `n` different items in random order. */
function someOf<T>(random: Random, items: readonly T[], n: number): T[] {
  return random.shuffle([...items]).slice(0, n);
}

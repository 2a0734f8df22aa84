import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { random } from '../../src/random.ts';
import { UserError } from '../../src/system/errors.ts';
import { entities } from '../../src/world/facts.ts';
import { type Wordings, wordings } from '../../src/world/wordings.ts';
import { generateWorld, type World, type WorldQuestion, writeWorld } from '../../src/world/world.ts';

const options = { seed: 1, documents: 1500, heldOut: 0.15 };
const world = generateWorld(options);
const byId = new Map(world.documents.map((document) => [document.id, document]));
const factOf = (q: WorldQuestion) => `${q.passageId}|${q.kind}`;

test('the same options give the same world, another seed gives another world', () => {
  assert.deepEqual(generateWorld(options), world);
  assert.notDeepEqual(generateWorld({ ...options, seed: 2 }).documents, world.documents);
});

test('one document per entity, with a unique id and name and a plausible length', () => {
  for (const documents of [20, 203, 1500]) {
    assert.equal(generateWorld({ ...options, documents }).documents.length, documents);
  }
  assert.equal(byId.size, 1500);
  assert.equal(new Set(world.documents.map(({ title }) => title)).size, 1500);
  for (const { title, text } of world.documents) {
    const sentences = text.split('. ');
    assert.ok(sentences[0].includes(title), text);
    assert.ok(sentences.length >= 2 && sentences.length <= 4, text);
    assert.match(text, /^[A-Z0-9].*\.$/);
    assert.doesNotMatch(text, /[{}]|undefined|[.] [a-z]|, and [A-Z]| {2}/);
  }
  assert.ok(Math.max(...world.documents.map(({ text }) => words(text).length)) <= 50);
});

test('a world can have more entities than there are two-syllable names', () => {
  const documents = 30_000;
  const names = entities(random(3), documents, 'demo').map(({ name }) => name);
  assert.equal(new Set(names).size, documents);
});

test('every answer occurs in its passage, and no question occurs twice', () => {
  const seen = new Set<string>();
  for (const { question, answers, passageId } of questions(world)) {
    for (const answer of answers)
      assert.ok(byId.get(passageId)!.text.includes(answer), `${question} ${answer}`);
    assert.match(question, /^[A-Z].*\?$/);
    assert.doesNotMatch(question, /[{}]|undefined/);
    assert.ok(!seen.has(question), question);
    seen.add(question);
  }
});

test('every fact has a question, in one split only', () => {
  const splits = [world.train, world.dev, world.test].map((questions) => new Set(questions.map(factOf)));
  const facts = entities(random(options.seed), options.documents, 'demo').flatMap(({ facts }) => facts);
  assert.equal(new Set(splits.flatMap((split) => [...split])).size, facts.length);
  assert.equal(splits[0].size + splits[1].size + splits[2].size, facts.length);
  assert.ok(Math.abs(splits[2].size / facts.length - 0.15) < 0.02);
  assert.ok(Math.abs(splits[1].size / facts.length - 0.05) < 0.02);
});

test('a training question does not identify its entity by a test answer', () => {
  const held = new Map<string, string[]>();
  for (const { passageId, answers } of [...world.test, ...world.dev]) {
    held.set(passageId, [...(held.get(passageId) ?? []), answers[0]]);
  }
  for (const { question, passageId } of world.train) {
    for (const answer of held.get(passageId) ?? []) {
      // A title may hold an answer by chance: "The Judge in Culbar" may be set in Culbar.
      const rest = question.replaceAll(byId.get(passageId)!.title, '');
      assert.ok(!new RegExp(`\\b${answer}\\b`).test(rest), `${question} reveals ${answer}`);
    }
  }
});

test('sentences state every fact in two wordings, and spans mark the names, years and answers', () => {
  const wordingsOf = new Map<string, number>();
  const titles = new Set(world.documents.map(({ title }) => title));
  for (const { text, spans, answer, document } of world.sentences) {
    assert.match(text, /^[A-Z0-9].*[.]$/);
    assert.doesNotMatch(text, /[{}]|undefined/);
    const marked = spans.map(([start, end]) => text.slice(start, end));
    for (const piece of marked) assert.match(piece, /^(\d{4}|[A-Z][A-Za-z ]+|[a-z]+( [a-z]+)?)$/);
    const target = marked[answer];
    const { text: passage, title } = byId.get(document)!;
    assert.ok(passage.includes(target), `${text}: ${target}`);
    wordingsOf.set(`${document}|${target}`, (wordingsOf.get(`${document}|${target}`) ?? 0) + 1);
    // Spans are in order, miss no year and no known name, and start and end at word boundaries.
    const outside = text.replace(/./g, (letter, i) =>
      spans.some(([a, b]) => a <= i && i < b) ? ' ' : letter,
    );
    assert.doesNotMatch(outside, /\d{4}/);
    for (const word of words(outside)) assert.ok(!titles.has(word), `${text}: ${word}`);
    for (const [start, end] of spans) {
      assert.doesNotMatch(text.slice(Math.max(0, start - 1), start), /\w/);
      assert.doesNotMatch(text[end], /\w/);
    }
    if (text.includes(title)) assert.ok(marked.includes(title), text);
  }
  for (const q of questions(world)) assert.ok(wordingsOf.get(`${q.passageId}|${q.answers[0]}`)! >= 2);
});

test('worlds of the two halves share no name, whatever their seeds', () => {
  const ordinary = capitalisedOrdinaryWords();
  const invented = (w: World) =>
    new Set(
      [...w.documents, ...w.sentences]
        .flatMap(({ text }) => text.match(/\b[A-Z][a-z]+\b/g) ?? [])
        .filter((word) => !ordinary.has(word)),
    );
  for (const seed of [1, 2]) {
    const demo = generateWorld({ ...options, seed });
    const pretraining = generateWorld({ ...options, seed, names: 'pretraining' });
    const titles = new Set(demo.documents.map(({ title }) => title));
    assert.deepEqual(
      pretraining.documents.filter(({ title }) => titles.has(title)),
      [],
    );
    const theirs = invented(pretraining);
    assert.deepEqual(
      [...invented(demo)].filter((word) => theirs.has(word)),
      [],
    );
    assert.ok(theirs.size > 500);
  }
});

test('every relation has enough wordings, and X and questions are worded differently from the passages', () => {
  for (const [kind, { passage, sentence, question }] of Object.entries(wordings)) {
    for (const [list, least] of [
      [passage, 8],
      [sentence, 8],
      [question, 5],
    ] as const) {
      assert.equal(new Set(list).size, list.length);
      assert.ok(list.length >= least, kind);
      for (const template of list) assert.match(template, /\{(S|S's|O)\}/);
    }
    for (const template of [...passage, ...sentence]) assert.match(template, /\{(a )?A\}/);
    // A passage and a sentence of X sometimes share a content word; questions may use a relation's own word.
    assert.ok(meanOverlap(passage, sentence) < 0.02, `${kind}: ${meanOverlap(passage, sentence)}`);
    assert.ok(meanOverlap(passage, question) < 0.3, `${kind}: ${meanOverlap(passage, question)}`);
    // Descriptions such as "the potter who …" have no possessive.
    for (const template of [...sentence, ...question]) assert.ok(!template.includes("{S's}"), template);
  }
});

test('string matching finds few passages, and guessing few answers', () => {
  const share = stringMatching(world);
  assert.ok(share < 0.6, `string matching finds ${share}`);
  assert.ok(share > 0.1, `names are of no use: ${share}`);
  assert.ok(bestConstant(world) < 0.03);
});

test('the files hold one JSON object a line', () => {
  const dir = mkdtempSync(join(tmpdir(), 'world-'));
  try {
    const small = generateWorld({ ...options, documents: 40 });
    writeWorld(small, dir);
    const rows = (name: string) =>
      readFileSync(join(dir, name), 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line));
    assert.deepEqual(rows('documents.jsonl'), small.documents);
    assert.deepEqual(rows('sentences.jsonl'), small.sentences);
    for (const split of ['train', 'dev', 'test'] as const) {
      assert.deepEqual(
        rows(`questions.${split}.jsonl`),
        small[split].map(({ question, answers, passageId }) => ({
          question,
          answer: answers,
          passage_id: passageId,
        })),
      );
    }
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a world that is too small and a wrong share are refused', () => {
  assert.throws(() => generateWorld({ ...options, documents: 4 }), UserError);
  assert.throws(() => generateWorld({ ...options, heldOut: 15 }), UserError);
});

function questions(w: World): WorldQuestion[] {
  return [...w.train, ...w.dev, ...w.test];
}

function words(text: string): string[] {
  return text.match(/\w+/g) ?? [];
}

function contentWords(text: string): Set<string> {
  const stop =
    'a an and as at by did do does for from had has have he her his in is it its of on or she that the their to was were what when where which who whom whose with';
  const stops = new Set(stop.split(' '));
  return new Set(words(text.toLowerCase()).filter((word) => !stops.has(word)));
}

/** Mean Jaccard similarity of content words over all pairs. */
function meanOverlap(a: readonly string[], b: readonly string[]): number {
  let sum = 0;
  for (const x of a) {
    for (const y of b) {
      const [p, q] = [x, y].map((template) => contentWords(template.replaceAll(/\{[^}]*\}/g, ' ')));
      const shared = [...p].filter((word) => q.has(word)).length;
      sum += shared / Math.max(1, p.size + q.size - shared);
    }
  }
  return sum / (a.length * b.length);
}

/** Share of the test questions that share more content words with their own passage (and its title) than with any other; k tied passages count 1/k. */
function stringMatching(w: World): number {
  const holders = new Map<string, number[]>();
  w.documents.forEach(({ title, text }, i) => {
    for (const word of contentWords(`${title} ${text}`)) {
      const list = holders.get(word);
      if (list) list.push(i);
      else holders.set(word, [i]);
    }
  });
  let found = 0;
  for (const { question, passageId } of w.test) {
    const shared = new Map<number, number>();
    for (const word of contentWords(question)) {
      for (const i of holders.get(word) ?? []) shared.set(i, (shared.get(i) ?? 0) + 1);
    }
    const most = Math.max(0, ...shared.values());
    const best = [...shared].filter(([, n]) => n === most).map(([i]) => w.documents[i].id);
    if (best.includes(passageId)) found += 1 / best.length;
  }
  return found / w.test.length;
}

/** Share of the test questions with the most frequent training answer of their relation as the answer. */
function bestConstant(w: World): number {
  const counts = new Map<string, Map<string, number>>();
  for (const { kind, answers } of w.train) {
    const of = counts.get(kind) ?? counts.set(kind, new Map()).get(kind)!;
    of.set(answers[0], (of.get(answers[0]) ?? 0) + 1);
  }
  const best = new Map([...counts].map(([kind, of]) => [kind, [...of].sort((a, b) => b[1] - a[1])[0][0]]));
  return w.test.filter(({ kind, answers }) => best.get(kind) === answers[0]).length / w.test.length;
}

/** Words with a capital letter in a wording or title that are not invented. */
function capitalisedOrdinaryWords(): Set<string> {
  const texts = Object.values(wordings).flatMap((w: Wordings) => [...w.passage, ...w.sentence]);
  const first = 'He She It Its Her His The';
  const things = entities(random(9), 3000, 'demo').flatMap(({ kind, name }) =>
    kind === 'firm' ? [name.split(' ')[1]] : kind === 'book' ? [name.split(' ')[1]] : [],
  );
  return new Set([
    ...texts.flatMap((text) => text.match(/[A-Z][a-z]+/g) ?? []),
    ...first.split(' '),
    ...things,
  ]);
}

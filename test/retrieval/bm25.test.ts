import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { bm25Ranks, firstWithAnswer, recallOf } from '../../src/eval/evaluate.ts';
import { random } from '../../src/random.ts';
import { bm25 } from '../../src/retrieval/bm25.ts';
import { NO_TEST_DATA, testData } from '../support/test-data.ts';

/** The part of a corpus that BM25 uses. */
function corpusOf(documents: readonly { title: string; text: string }[]): Corpus {
  const { length: blocks } = documents;
  return {
    blocks,
    title: (b: number) => documents[b].title,
    text: (b: number) => documents[b].text,
  } as Corpus;
}

test('a ranking calculated by hand', () => {
  const search = bm25(
    corpusOf([
      { title: 'Osk', text: 'The river Osk runs to Vell.' }, // osk river osk run vell: 5 terms
      { title: 'Vell', text: 'Vell lies on a hill above the river and trades in salt.' }, // vell vell li hill abov river trade salt: 8
      { title: 'Drost', text: 'Drost trades with Vell.' }, // drost drost trade vell: 4
      { title: 'Salt', text: 'Salt is traded in sacks.' }, // salt salt trade sack: 4
    ]),
  );
  // Mean length 21/4. "salt": idf ln(1 + 2.5/2.5) = 0.693; block 3 has it twice, block 1 once.
  //   block 3: 0.693 · 2 · 1.9 / (2 + 0.9 (0.6 + 0.4 · 4/5.25)) = 0.693 · 1.3515 = 0.9368
  //   block 1: 0.693 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 8/5.25)) = 0.693 · 0.9097 = 0.6306
  assert.deepEqual(search('salt', 4), [3, 1]);
  // "river": idf 0.693 as well, blocks 0 and 1, once each; "trades": ln(1 + 1.5/3.5) = 0.357, blocks 1, 2 and 3.
  //   block 0: 0.693 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 5/5.25)) = 0.6998
  //   block 1: 0.6306 + 0.357 · 0.9097 = 0.9551;  blocks 2 and 3: 0.357 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 4/5.25)) = 0.3742
  assert.deepEqual(search('the river trades', 4), [1, 0, 2, 3]);
  assert.deepEqual(search('the river trades', 1), [1]);
  // "osk": idf ln(1 + 3.5/1.5) = 1.204, block 0 alone, twice; "vell": 0.357, once in blocks 0 and 2, twice in block 1.
  //   block 0: 1.204 · 1.3172 + 0.357 · 1.0097 = 1.946;  block 1: 0.357 · 1.2303 = 0.439;  block 2: 0.357 · 1.0489 = 0.374
  assert.deepEqual(search('Osk, Vell', 4), [0, 1, 2]);
});

test('case, diacritics and endings of words are ignored, and stop words are left out', () => {
  const search = bm25(
    corpusOf([
      { title: 'Río Ósk', text: 'Running WATERS.' },
      { title: 'It', text: 'was then with them' },
    ]),
  );
  for (const question of ['rio', 'RÍO', 'osk', 'runs', 'water', 'Ri\u0301o?']) {
    assert.deepEqual(search(question, 9), [0], question);
  }
  for (const question of ['was it then', '', '?!', 'unheard'])
    assert.deepEqual(search(question, 9), [], question);
});

test('random texts are ranked according to the formula', () => {
  const rng = random(3);
  // Words that neither the stemmer nor the stop list changes; the first ones are frequent.
  const word = () => `w${Math.floor(30 * rng.float() ** 2)}x`;
  const words = (n: number) => Array.from({ length: n }, word);
  const documents = Array.from({ length: 60 }, () => words(1 + rng.int(40)));
  const search = bm25(corpusOf(documents.map(([title, ...text]) => ({ title, text: text.join(' ') }))));
  const mean = documents.flat().length / documents.length;
  for (let q = 0; q < 40; q++) {
    const question = words(1 + rng.int(6)); // sometimes the same word twice, which counts twice
    const scores = documents.map((document) => {
      let score = 0;
      for (const term of question) {
        const tf = document.filter((w) => w === term).length;
        const df = documents.filter((d) => d.includes(term)).length;
        const idf = Math.log(1 + (documents.length - df + 0.5) / (df + 0.5));
        score += (idf * tf * 1.9) / (tf + 0.9 * (0.6 + (0.4 * document.length) / mean));
      }
      return score;
    });
    const found = search(question.join(' '), 60);
    assert.equal(
      found.length,
      scores.filter((s) => s > 0).length,
      'blocks without any of the words are left out',
    );
    assert.equal(new Set(found).size, found.length);
    found.forEach((block, rank) => {
      const better = Math.max(...scores.filter((_, other) => !found.slice(0, rank).includes(other)));
      assert.ok(scores[block] > better - 1e-9, `question ${q}, rank ${rank}`);
    });
  }
});

test('recall@k is the share of questions with an answer among the first k blocks', () => {
  const corpus = corpusOf([
    { title: 'Osk', text: 'The Osk is a river.' },
    { title: 'Vell', text: 'Vell was founded in 1812.' },
    { title: 'Drost', text: 'Drost was founded in 1799 by people of Vell.' },
  ]);
  const asked = (question: string, ...answers: string[]) => ({
    question,
    answers,
    answerKind: 'string' as const,
    ids: new Int32Array(0),
    answerIds: [],
  });
  const questions = [
    asked('When was Vell founded?', '1812'), // first
    asked('Where do the people of Drost come from, whose town was founded late?', 'Osk', 'Vell'), // first, its other answer
    asked('When was Vell founded, in which year?', '1799'), // second
    asked('What is the Osk?', 'a mountain'), // nowhere
  ];
  assert.deepEqual(bm25Ranks(corpus, questions, 3), [0, 0, 1, Infinity]);
  assert.equal(firstWithAnswer(corpus, [0, 2, 1], { answers: ['1812'], answerKind: 'string' }), 2);
  assert.equal(firstWithAnswer(corpus, [0, 2], { answers: ['1812'], answerKind: 'string' }), Infinity);
  assert.deepEqual(recallOf([0, 4, 5, Infinity], [1, 5, 20]), { 1: 0.25, 5: 0.5, 20: 0.75 });
});

const data = testData();
const skip = !existsSync(join(data, 'passages.jsonl.gz')) && NO_TEST_DATA;

test('recall on SQuAD equals that of an independent BM25', { skip }, () => {
  const rows = (name: string) =>
    gunzipSync(readFileSync(join(data, name)))
      .toString()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const corpus = corpusOf(rows('passages.jsonl.gz'));
  const questions = rows('questions.dev.jsonl.gz').filter((_, i) => i % 42 === 0);
  const search = bm25(corpus);
  const ranks = questions.map(({ question, answer }) =>
    firstWithAnswer(corpus, search(question, 20), { answers: answer, answerKind: 'string' }),
  );
  const recall = recallOf(ranks, [1, 5, 20]);
  // For the same 252 questions, by a plain loop over postings: k1 = 0.9, b = 0.4, Porter's stems, the same stop words.
  for (const [k, wanted] of [
    [1, 0.7698],
    [5, 0.8929],
    [20, 0.9365],
  ])
    assert.ok(Math.abs(recall[k] - wanted) < 0.005, JSON.stringify(recall));
});

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { bm25Ranks, firstWithAnswer, recallOf } from '../../src/eval/evaluate.ts';
import { random } from '../../src/random.ts';
import { ensureBm25, openBm25 } from '../../src/retrieval/bm25.ts';
import { buildBm25 } from '../../src/retrieval/bm25-build.ts';
import { terms } from '../../src/retrieval/terms.ts';
import { UserError } from '../../src/system/errors.ts';
import { NO_TEST_DATA, testData } from '../support/test-data.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('bm25');

/** The part of a corpus that BM25 uses. */
function corpusOf(documents: readonly { title: string; text: string }[]): Corpus {
  const { length: blocks } = documents;
  return {
    sha256: String(documents.length),
    blocks,
    title: (b: number) => documents[b].title,
    text: (b: number) => documents[b].text,
  } as Corpus;
}

let made = 0;

/** Ranks with segments of so few postings that a small corpus has several. */
async function ranker(corpus: Corpus, segmentPostings?: number) {
  const dir = join(folder, `index-${made++}`);
  await buildBm25(dir, corpus, segmentPostings);
  const bm25 = openBm25(dir, corpus);
  return { bm25, dir, search: (question: string, k: number) => Array.from(bm25.search(question, k).blocks) };
}

test('a ranking calculated by hand', async () => {
  const { search, bm25 } = await ranker(
    corpusOf([
      { title: 'Osk', text: 'The river Osk runs to Vell.' }, // osk river osk run vell: 5 terms
      { title: 'Vell', text: 'Vell lies on a hill above the river and trades in salt.' }, // vell vell li hill abov river trade salt: 8
      { title: 'Drost', text: 'Drost trades with Vell.' }, // drost drost trade vell: 4
      { title: 'Salt', text: 'Salt is traded in sacks.' }, // salt salt trade sack: 4
    ]),
  );
  // Mean length 21/4. "salt": idf ln(1 + 2.5/2.5) = 0.693; block 3 has it twice, block 1 once.
  //   block 3: 0.693 · 2 · 1.9 / (2 + 0.9 (0.6 + 0.4 · 4/5.25)) = 0.693 · 1.3503 = 0.9359
  //   block 1: 0.693 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 8/5.25)) = 0.693 · 0.9097 = 0.6306
  assert.deepEqual(search('salt', 4), [3, 1]);
  const close = (scores: ArrayLike<number>, wanted: number[]) =>
    assert.ok(
      scores.length === wanted.length && wanted.every((value, i) => Math.abs(scores[i] - value) < 1e-4),
      String(scores),
    );
  close(bm25.search('salt', 4).scores, [0.9359, 0.6306]);
  close(bm25.scores('salt', [0, 1, 3, 2]), [0, 0.6306, 0.9359, 0]);
  close(bm25.textScores('salt', ['Salt of salt, in sacks', 'pepper', '']), [0.9593, 0, 0]); // 3 terms: 0.693 · 1.3840
  // A word that no block has: idf ln(1 + 4.5/0.5) = 2.303, in a text of one term: 2.303 · 1.9 / (1 + 0.54 + 0.36 / 5.25) = 2.7197
  close(bm25.textScores('pepper', ['pepper', 'salt']), [2.7197, 0]);
  // "river": idf 0.693 as well, blocks 0 and 1, once each; "trades": ln(1 + 1.5/3.5) = 0.357, blocks 1, 2 and 3.
  //   block 0: 0.693 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 5/5.25)) = 0.6998
  //   block 1: 0.6306 + 0.357 · 0.9097 = 0.9551;  blocks 2 and 3: 0.357 · 1.9 / (1 + 0.9 (0.6 + 0.4 · 4/5.25)) = 0.3742
  assert.deepEqual(search('the river trades', 4), [1, 0, 2, 3]);
  assert.deepEqual(search('the river trades', 1), [1]);
  // "osk": idf ln(1 + 3.5/1.5) = 1.204, block 0 alone, twice; "vell": 0.357, once in blocks 0 and 2, twice in block 1.
  //   block 0: 1.204 · 1.3172 + 0.357 · 1.0097 = 1.946;  block 1: 0.357 · 1.2303 = 0.439;  block 2: 0.357 · 1.0489 = 0.374
  assert.deepEqual(search('Osk, Vell', 4), [0, 1, 2]);
});

test('case, diacritics and endings of words are ignored, and stop words are left out', async () => {
  const { search } = await ranker(
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

test('random texts are ranked according to the formula', async () => {
  const rng = random(3);
  // Words that neither the stemmer nor the stop list changes; the first ones are frequent.
  const word = () => `w${Math.floor(30 * rng.float() ** 2)}x`;
  const words = (n: number) => Array.from({ length: n }, word);
  const documents = Array.from({ length: 60 }, () => words(1 + rng.int(40)));
  const corpus = corpusOf(documents.map(([title, ...text]) => ({ title, text: text.join(' ') })));
  const { bm25, dir } = await ranker(corpus, 200);
  assert.equal(readdirSync(dir).filter((name) => name.endsWith('.bin')).length, 4);
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
    const asked = question.join(' ');
    const order = scores
      .map((score, block) => ({ block, score }))
      .filter(({ score }) => score > 0)
      // Scores that differ by rounding alone are the same.
      .sort((a, b) => (Math.abs(a.score - b.score) < 1e-9 ? a.block - b.block : b.score - a.score));
    for (const k of [60, 7]) {
      const found = bm25.search(asked, k);
      assert.deepEqual(
        Array.from(found.blocks),
        order.slice(0, k).map(({ block }) => block),
      );
      found.scores.forEach((score, i) => {
        assert.ok(Math.abs(score - order[i].score) < 1e-9);
      });
    }
    const some = [59, 3, 3, 30, 0];
    bm25.scores(asked, some).forEach((score, i) => {
      assert.ok(Math.abs(score - scores[some[i]]) < 1e-9);
    });
    // A text of the corpus scores as its block does.
    const texts = some.map((block) => documents[block].join(' '));
    bm25.textScores(asked, texts).forEach((score, i) => {
      assert.ok(Math.abs(score - scores[some[i]]) < 1e-9);
    });
  }
});

test('terms: stems, and pairs of characters in scripts without spaces', () => {
  assert.deepEqual(terms('The Köln bridges of 1812 were rebuilt.'), [
    'koln',
    'bridg',
    '1812',
    'were',
    'rebuilt',
  ]);
  assert.deepEqual(terms('長崎市は、Nagasaki県のが'), ['長崎', '崎市', '市は', 'nagasaki', '県の', 'のが']);
  assert.deepEqual(terms('か が'), ['か', 'が'], 'a voiced sound is another one');
  assert.deepEqual(terms('กรุงเทพ').slice(0, 2), ['กร', 'รุ']);
  assert.deepEqual(terms('서울은 हिन्दी'), ['서울은', 'हिन्दी'], 'words with spaces between them stay whole');
});

test('equal blocks are ranked by number, also across segments and beyond k', async () => {
  const corpus = corpusOf(
    Array.from({ length: 50 }, (_, i) => ({ title: 'Osk', text: i % 2 ? 'river' : 'hill' })),
  );
  const { search } = await ranker(corpus, 8);
  assert.deepEqual(search('river', 3), [1, 3, 5]);
  assert.deepEqual(search('osk', 4), [0, 1, 2, 3]);
  assert.deepEqual(search('river osk', 27).slice(23), [47, 49, 0, 2]);
});

test('an index is made once; of another corpus, or damaged, it is made again', async () => {
  const dir = join(folder, 'ensured');
  const one = corpusOf([{ title: 'Osk', text: 'a river' }]);
  assert.throws(() => openBm25(dir, one), UserError);
  (await ensureBm25(dir, one)).close();
  const untouched = { ...one, text: () => assert.fail('is not read again') };
  const again = await ensureBm25(dir, untouched);
  assert.deepEqual(Array.from(again.search('river', 1).blocks), [0]);
  again.close();
  assert.throws(() => again.search('river', 1), /closed/);
  const two = corpusOf([
    { title: 'Vell', text: 'a hill' },
    { title: 'Osk', text: 'a river' },
  ]);
  assert.throws(() => openBm25(dir, two), /build-index/);
  const other = await ensureBm25(dir, two);
  assert.deepEqual(Array.from(other.search('river', 1).blocks), [1]);
  other.close();
  const file = join(dir, 'segment-1.bin');
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(file, bytes);
  assert.throws(() => openBm25(dir, two), /segment-1\.bin: is damaged/);
  const mended = await ensureBm25(dir, two);
  assert.deepEqual(Array.from(mended.search('river', 1).blocks), [1]);
  mended.close();
});

test('an interrupted build resumes after its last complete segment, with the same files', async () => {
  const texts = Array.from({ length: 30 }, (_, i) => ({ title: `t${i}`, text: `word${i % 7} river` }));
  const corpus = corpusOf(texts);
  const { dir } = await ranker(corpus, 10);
  const cut = join(folder, 'cut');
  const stopping = {
    ...corpus,
    text: (block: number) => {
      if (block === 20) throw new Error('stopped');
      return corpus.text(block);
    },
  };
  await assert.rejects(buildBm25(cut, stopping, 10), /stopped/);
  assert.throws(() => openBm25(cut, corpus), UserError);
  const read: number[] = [];
  const counting = {
    ...corpus,
    text: (block: number) => {
      read.push(block);
      return corpus.text(block);
    },
  };
  await buildBm25(cut, counting, 10);
  assert.equal(read[0], 20 - (20 % 4), 'segments of 4 blocks of 3 terms');
  for (const name of readdirSync(dir).filter((name) => name !== 'verified.json'))
    assert.deepEqual(readFileSync(join(cut, name)), readFileSync(join(dir, name)), name);
  assert.deepEqual(
    readdirSync(cut).sort(),
    readdirSync(dir)
      .filter((name) => name !== 'verified.json')
      .sort(),
  );
});

test('recall@k is the share of questions with an answer among the first k blocks', async () => {
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
  const { bm25 } = await ranker(corpus);
  assert.deepEqual(bm25Ranks(bm25, corpus, questions, 3), [0, 0, 1, Infinity]);
  assert.equal(firstWithAnswer(corpus, [0, 2, 1], { answers: ['1812'], answerKind: 'string' }), 2);
  assert.equal(firstWithAnswer(corpus, [0, 2], { answers: ['1812'], answerKind: 'string' }), Infinity);
  assert.deepEqual(recallOf([0, 4, 5, Infinity], [1, 5, 20]), { 1: 0.25, 5: 0.5, 20: 0.75 });
});

const data = testData();
const skip = !existsSync(join(data, 'passages.jsonl.gz')) && NO_TEST_DATA;

test('recall on SQuAD equals that of an independent BM25', { skip }, async () => {
  const rows = (name: string) =>
    gunzipSync(readFileSync(join(data, name)))
      .toString()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const corpus = corpusOf(rows('passages.jsonl.gz'));
  const questions = rows('questions.dev.jsonl.gz').filter((_, i) => i % 42 === 0);
  const { search } = await ranker(corpus);
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

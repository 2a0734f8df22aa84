import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { answerFinder } from '../../src/answers/answer-finder.ts';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { encodeQuestions } from '../../src/model/questions.ts';
import { type Bm25, ensureBm25 } from '../../src/retrieval/bm25.ts';
import { UserError } from '../../src/system/errors.ts';
import {
  candidateMaker,
  goldBlocks,
  hardNegatives,
  joinCandidates,
  minedNegatives,
} from '../../src/train/qa-candidates.ts';
import { temporaryFolder, tinyConfig, tinyCorpus } from '../support/tiny.ts';

const folder = temporaryFolder('qa-candidates');
const config = tinyConfig();
let corpus: Corpus;
let bm25: Bm25;
before(async () => {
  ({ corpus } = await tinyCorpus(folder, config));
  bm25 = await ensureBm25(join(folder, 'bm25'), corpus);
});
after(() => {
  bm25.close();
  corpus.close();
});

test('candidates by hand: retrieved blocks come first, then gold and negatives, each once', () => {
  const retrieved = [7, 3, 9, 1, 4];
  assert.deepEqual(joinCandidates(retrieved, [], [], 3), retrieved);
  assert.deepEqual(joinCandidates(retrieved, [3, 5], [9, 8], 3), [7, 3, 9, 1, 4, 5, 8], 'gold is read');
  assert.deepEqual(joinCandidates(retrieved, [6, 5], [8], 3), [7, 3, 6, 9, 1, 4, 5, 8], 'not retrieved');
  assert.deepEqual(joinCandidates(retrieved, [4], [], 3), [7, 3, 4, 9, 1], 'retrieved, but not read');
  assert.deepEqual(joinCandidates([7], [6], [8], 3), [7, 6, 8], 'the reader has free slots');
  assert.deepEqual(joinCandidates(retrieved, [6], [], 1), [6, 7, 3, 9, 1, 4]);
});

test('gold blocks are the blocks of the question’s own document that hold an answer', () => {
  // A document of several blocks, and a word that occurs in some of them.
  const of = new Map<string, number[]>();
  for (let b = 0; b < corpus.blocks; b++)
    of.set(corpus.documentId(b), [...(of.get(corpus.documentId(b)) ?? []), b]);
  const [passageId, blocks] = [...of].find(([, own]) => own.length > 1) ?? [...of][5];
  const [word] = corpus.text(blocks[0]).match(/\p{L}{6,}/u)!;
  const [question, other, unknown] = encodeQuestions(corpus, [
    { question: 'Who?', answers: [word], passageId },
    { question: 'Who?', answers: [word] },
    { question: 'Who?', answers: [word], passageId: 'nowhere' },
  ]);
  const has = answerFinder(corpus);
  const gold = goldBlocks(corpus, [question, other, unknown], has);
  const want = blocks.filter((b) => hasAnswer(corpus.text(b), question));
  assert.ok(want.includes(blocks[0]));
  assert.deepEqual(gold(question), want);
  assert.deepEqual([gold(other), gold(unknown)], [[], []]);
  const refused = (message: RegExp) => (error: unknown) =>
    error instanceof UserError && message.test(error.message);
  assert.throws(() => goldBlocks(corpus, [other], has), refused(/no training question names its document/));
  assert.throws(() => goldBlocks(corpus, [unknown], has), refused(/none of the documents/));
  // By the settings.
  const retrieved = Array.from({ length: corpus.blocks }, (_, b) => b).filter((b) => !blocks.includes(b));
  const qa = { ...config.qa, readerBlocks: 2 };
  const make = (changes: Partial<typeof qa>) =>
    candidateMaker(corpus, [question], { ...qa, ...changes }, has).join(question, {
      blocks: retrieved,
      scores: new Float32Array(0),
    });
  assert.deepEqual(make({}), retrieved);
  assert.deepEqual(make({ gold: true }).slice(0, 3), [retrieved[0], want[0], retrieved[1]]);
});

test('hard negatives are the best blocks by BM25 that hold no answer', () => {
  // A search for a block's own text finds that block first.
  const text = corpus.text(4);
  const [question, right] = encodeQuestions(corpus, [
    { question: text, answers: ['zzz'] },
    { question: text, answers: [text.slice(0, text.indexOf(' ', 30))] },
  ]);
  const has = answerFinder(corpus);
  const negatives = hardNegatives(corpus, [question, right], 3, has, bm25)(question);
  assert.deepEqual([negatives.length, negatives[0]], [3, 4]);
  const others = hardNegatives(corpus, [question, right], 3, has, bm25)(right);
  assert.deepEqual(others.slice(0, 2), negatives.slice(1));
  assert.ok(others.length === 3 && others.every((b) => !has(b, right)));
});

test('hard negatives named by the data set come before those found by BM25', () => {
  const documents = [...new Set(Array.from({ length: corpus.blocks }, (_, b) => corpus.documentId(b)))];
  const blocksOf = (id: string) =>
    Array.from({ length: corpus.blocks }, (_, b) => b).filter((b) => corpus.documentId(b) === id);
  const [a, b, c] = documents.slice(6);
  const text = corpus.text(4);
  const wrong = { question: text, answers: ['zzz'] };
  const [first] = blocksOf(a);
  const [named, unknown, right] = encodeQuestions(corpus, [
    { ...wrong, negativeIds: ['nowhere', b, a, c] },
    { ...wrong, negativeIds: ['nowhere'] },
    { question: text, answers: [corpus.text(first)], negativeIds: [a, b] },
  ]);
  const has = answerFinder(corpus);
  const negatives = hardNegatives(corpus, [named, unknown, right], 3, has, bm25);
  assert.deepEqual(negatives(named), [...blocksOf(b), ...blocksOf(a)].slice(0, 3));
  assert.equal(negatives(unknown)[0], 4, 'by words');
  assert.deepEqual(negatives(right), [...blocksOf(a).slice(1), ...blocksOf(b)].slice(0, 3));
});

test('answers are found as in the texts themselves, and each text is read once', () => {
  let reads = 0;
  const text = (block: number) => {
    reads++;
    return ['The Café of Köln', 'CAFÉ', 'a coffee', 'Cafés'][block];
  };
  const has = answerFinder({ ...corpus, text });
  const asked = (answers: string[], answerKind: 'string' | 'regex' = 'string') =>
    [0, 1, 2, 3].map((block) => has(block, { answers, answerKind }));
  assert.deepEqual(asked(['cafe\u0301']), [true, true, false, false]);
  assert.deepEqual(asked(['coffee', 'köln']), [true, false, true, false]);
  assert.equal(reads, 4);
  assert.deepEqual(asked(['caf.+s', 'coff'], 'regex'), [false, false, true, true]);
  assert.deepEqual(asked(['a coffee'], 'regex'), [false, false, true, false]);
  assert.equal(reads, 8);
});

test('mined negatives by hand: at most 95 % of the score of the positive, and without an answer', () => {
  const blocks = [7, 3, 9, 1, 4, 2];
  const ranking = (...scores: number[]) => ({ blocks, scores: Float32Array.from(scores) });
  const cosines = ranking(0.9, 0.77, 0.75, 0.5, 0.4, 0.3);
  const has = (block: number) => block === 1;
  // 0.95 * 0.8 = 0.76.
  assert.deepEqual(minedNegatives(cosines, 0.8, 2, has), [9, 4]);
  assert.deepEqual(minedNegatives(cosines, 0.8, 10, has), [9, 4, 2]);
  assert.deepEqual(minedNegatives(cosines, 0.8, 0, has), []);
  assert.deepEqual(minedNegatives(cosines, 1, 1, has), [7]);
  assert.deepEqual(minedNegatives(cosines, 0.1, 1, has), []);
  // Below zero the limit is below the positive's score too: -2 - 0.1.
  assert.deepEqual(minedNegatives(ranking(-1, -2.05, -2.2, -3, -4, -5), -2, 2, has), [9, 4]);
});

test('the positive is a gold block, else the first retrieved block with an answer, else the first by words', () => {
  const gold = 11;
  const [word] = corpus.text(gold).match(/\p{L}{6,}/u)!;
  const has = answerFinder(corpus);
  const [named, unnamed] = encodeQuestions(corpus, [
    { question: corpus.text(gold), answers: [word], passageId: corpus.documentId(gold) },
    { question: corpus.text(gold), answers: [word] },
  ]);
  const [lost] = encodeQuestions(corpus, [{ question: 'Who?', answers: ['zzz'] }]);
  const own = goldBlocks(corpus, [named], has)(named);
  const all = Array.from({ length: corpus.blocks }, (_, b) => b);
  const [other] = all.filter((b) => !own.includes(b));
  const settings = { ...config.qa, gold: true, hardNegatives: 2, minedNegatives: 1 };
  const maker = candidateMaker(corpus, [named, unnamed, lost], settings, has, bm25);
  const ranked = (...blocks: number[]) => ({
    blocks,
    scores: Float32Array.from(blocks, (_, rank) => 1 - rank / 10),
  });
  const without = all.filter((b) => !has(b, named));
  const choose = (question: typeof named, ...blocks: number[]) =>
    maker.choose(question, ranked(...blocks), () => 0.96);
  assert.equal(choose(named, other).positive, own[0]);
  assert.equal(choose(unnamed, without[0], gold, without[1]).positive, gold);
  assert.equal(choose(unnamed, without[0]).positive, gold, 'a search for the text of a block finds it first');
  assert.deepEqual(
    [choose(lost, other).positive, choose(lost, other, gold).negatives],
    [undefined, hardNegatives(corpus, [lost], 2, has, bm25)(lost)],
  );
  // 0.95 * 0.96 = 0.912: the second block of the ranking scores less. Those of BM25 come before it.
  const { negatives, blocks } = choose(unnamed, without[0], without[1], gold);
  const byWords = hardNegatives(corpus, [unnamed], 2, has, bm25)(unnamed);
  assert.deepEqual(negatives, [...new Set([...byWords, without[1]])]);
  assert.deepEqual(blocks, maker.join(unnamed, ranked(without[0], without[1], gold)));
});

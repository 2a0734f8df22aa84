import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { answerFinder } from '../../src/answers/answer-finder.ts';
import { hasAnswer } from '../../src/answers/has-answer.ts';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { encodeQuestions } from '../../src/model/questions.ts';
import { UserError } from '../../src/system/errors.ts';
import { candidateMaker, goldBlocks, hardNegatives, joinCandidates } from '../../src/train/qa-candidates.ts';
import { temporaryFolder, tinyConfig, tinyCorpus } from '../support/tiny.ts';

const folder = temporaryFolder('qa-candidates');
const config = tinyConfig();
let corpus: Corpus;
before(async () => {
  ({ corpus } = await tinyCorpus(folder, config));
});
after(() => corpus.close());

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
    candidateMaker(corpus, [question], { ...qa, ...changes }, has)(question, retrieved);
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
  const negatives = hardNegatives(corpus, [question, right], 3, has)(question);
  assert.deepEqual([negatives.length, negatives[0]], [3, 4]);
  const others = hardNegatives(corpus, [question, right], 3, has)(right);
  assert.deepEqual(others.slice(0, 2), negatives.slice(1));
  assert.ok(others.length === 3 && others.every((b) => !has(b, right)));
  const huge = { ...corpus, blocks: 1e6 };
  assert.throws(() => hardNegatives(huge, [question], 1, has), /takes at most 500000 blocks/);
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
  const negatives = hardNegatives(corpus, [named, unknown, right], 3, has);
  assert.deepEqual(negatives(named), [...blocksOf(b), ...blocksOf(a)].slice(0, 3));
  assert.equal(negatives(unknown)[0], 4, 'by words');
  assert.deepEqual(negatives(right), [...blocksOf(a).slice(1), ...blocksOf(b)].slice(0, 3));
  // Without BM25, questions without named negatives get none.
  const documentId = (block: number) => (block < corpus.blocks ? corpus.documentId(block) : '');
  const huge = { ...corpus, documentId, blocks: 1e6 };
  const ofHuge = hardNegatives(huge, [named, unknown], 3, has);
  assert.deepEqual(ofHuge(named), negatives(named));
  assert.deepEqual(ofHuge(unknown), []);
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

import type { answerFinder } from '../answers/answer-finder.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import type { Found } from '../retrieval/graph.ts';
import { bonusFactor, CANDIDATES, candidatesOf, combine } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { UserError } from '../system/errors.ts';

// Blocks that a question is trained with: those that its search finds, and in addition gold blocks and hard negatives.
// ORQA and REALM use only the former; DPR trains with gold blocks and hard negatives (Karpukhin et al. 2020, section 3.2).

type HasAnswer = ReturnType<typeof answerFinder>;

/** Blocks found for a question, best first. */
export interface Ranking {
  blocks: number[];
  /** Inner products of question and block, not divided by the temperature. */
  scores: Float32Array;
  /** What the reader reads, in hybrid retrieval; undefined: the first of `blocks`. */
  hybrid?: HybridRanking;
}

/** The best blocks by the inner product and BM25 together, best first. */
export interface HybridRanking {
  blocks: number[];
  /** What BM25 adds to the inner products of the question and these blocks, whichever they are. */
  bonus(blocks: readonly number[]): ArrayLike<number>;
}

/** The best blocks of questions with these vectors [B, P]. */
export type Rank = (vectors: Float32Array, questions: readonly EncodedQuestion[]) => Ranking[];

/** The `n` best blocks by the index alone. */
export function rankByIndex(index: Pick<SearchIndex, 'search'>, n: number): Rank {
  return (vectors, questions) => rankings(index.search(vectors, n), questions.length, n);
}

/** At most `n` blocks of each question of a search that found at least as many where there are so many. */
function rankings({ blocks, scores, counts }: Found, questions: number, n: number): Ranking[] {
  const most = blocks.length / questions;
  return Array.from({ length: questions }, (_, q) => {
    const end = q * most + Math.min(n, counts[q]);
    return { blocks: Array.from(blocks.subarray(q * most, end)), scores: scores.subarray(q * most, end) };
  });
}

/**
 * As `rankByIndex`, and the `read` best blocks by the inner product and BM25 together, `weight` of the former, as in
 * `findBlocks`. The retriever learns from what it finds alone, and the reader reads what a hybrid search finds. Measured with
 * all-MiniLM-L6-v2 on SQuAD: where the retriever's losses had BM25's bonus and candidates too, the encoder's own recall@1, @5 fell
 * from 68.7, 89.0 % to 63.9, 86.8 % in 180 steps, without them it rose to 73.3, 91.2 %; hybrid recall@1 87.8 and 87.5 %, @5 96.9
 * and 96.8 %. The bonus has no gradient, and its scale is that of the search.
 */
export function rankByBoth(
  { index, bm25 }: Required<Pick<Retrieval, 'index' | 'bm25'>>,
  weight: number,
  n: number,
  read: number,
): Rank {
  return (vectors, questions) => {
    const dense = index.search(vectors, Math.max(n, CANDIDATES));
    return rankings(dense, questions.length, n).map((ranking, q) => {
      const { question } = questions[q];
      const candidates = candidatesOf({ index, bm25 }, question, vectors, dense, q);
      const factor = bonusFactor(candidates, weight);
      const sparse = new Map(Array.from(candidates.blocks, (block, i) => [block, candidates.sparse[i]]));
      return {
        ...ranking,
        hybrid: {
          blocks: Array.from(combine(candidates, weight, read).blocks),
          bonus(wanted) {
            const unscored = wanted.filter((block) => !sparse.has(block));
            if (unscored.length > 0)
              bm25.scores(question, unscored).forEach((score, i) => {
                sparse.set(unscored[i], score);
              });
            return wanted.map((block) => factor * sparse.get(block)!);
          },
        },
      };
    });
  };
}

/**
 * The blocks retrieved for a question, best first, followed by its gold blocks and its hard negatives. If no gold block
 * is among those that the reader reads, the first gold block replaces the last of these.
 * @param readerBlocks how many of the first blocks are read
 */
export function joinCandidates(
  retrieved: readonly number[],
  gold: readonly number[],
  negatives: readonly number[],
  readerBlocks: number,
): number[] {
  const read = new Set(retrieved.slice(0, readerBlocks));
  const moved = gold.length > 0 && !gold.some((block) => read.has(block)) ? [gold[0]] : [];
  const rest = retrieved.filter((block) => !moved.includes(block));
  const before = Math.max(0, readerBlocks - moved.length);
  return [...new Set([...rest.slice(0, before), ...moved, ...rest.slice(before), ...gold, ...negatives])];
}

/** The blocks of the documents with these ids, in order. Reads through the whole corpus once. */
export function blocksOf(corpus: Corpus, ids: Iterable<string>): Map<string, number[]> {
  const blocks = new Map<string, number[]>();
  for (const id of ids) blocks.set(id, []);
  for (let block = 0; blocks.size > 0 && block < corpus.blocks; block++) {
    blocks.get(corpus.documentId(block))?.push(block);
  }
  return blocks;
}

const isFound = (blocks: Map<string, number[]>) => [...blocks.values()].some((own) => own.length > 0);

/**
 * The blocks of each question's own document (`passageId`) that hold an answer, in order; may be empty.
 * A `UserError` if no question's document is in the corpus.
 */
export function goldBlocks(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  hasAnswer: HasAnswer,
): (question: EncodedQuestion) => number[] {
  const blocks = blocksOf(
    corpus,
    questions.flatMap(({ passageId }) => passageId ?? []),
  );
  if (!isFound(blocks)) {
    throw new UserError(
      `qa.gold: ${blocks.size === 0 ? 'no training question names its document' : 'none of the documents that the training questions name is in the corpus'}; give questions with "passage_id", or leave qa.gold false`,
    );
  }
  return (question) =>
    (blocks.get(question.passageId ?? '') ?? []).filter((block) => hasAnswer(block, question));
}

/** How many of BM25's best blocks are searched for those without an answer, in addition to the number wanted; or for one with an answer. */
const EXTRA_BLOCKS = 50;

/** Search by words. */
export type WordSearch = Pick<Bm25, 'search'>;

/** For settings that need none. */
const FINDS_NOTHING: WordSearch = {
  search: () => ({ blocks: new Int32Array(0), scores: new Float64Array(0) }),
};

/**
 * At most `n` blocks without an answer for each question: from the first `n` documents that its data set names
 * (`negativeIds`), or if none of these is in the corpus, the best by BM25, searched once.
 */
export function hardNegatives(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  n: number,
  hasAnswer: HasAnswer,
  words: WordSearch,
): (question: EncodedQuestion) => number[] {
  const idsOf = ({ negativeIds = [] }: EncodedQuestion) => negativeIds.slice(0, n);
  const named = blocksOf(corpus, questions.flatMap(idsOf));
  const namedFor = (question: EncodedQuestion) => idsOf(question).flatMap((id) => named.get(id) ?? []);
  return remembered((question) => {
    const all = namedFor(question);
    return (all.length > 0 ? all : Array.from(words.search(question.question, n + EXTRA_BLOCKS).blocks))
      .filter((block) => !hasAnswer(block, question))
      .slice(0, n);
  });
}

/** Calls `of` once for each question. */
function remembered<T>(of: (question: EncodedQuestion) => T): (question: EncodedQuestion) => T {
  const known = new WeakMap<EncodedQuestion, { value: T }>();
  return (question) => {
    let found = known.get(question);
    if (!found) {
      found = { value: of(question) };
      known.set(question, found);
    }
    return found.value;
  };
}

/**
 * How well a mined negative may score, as a share of the positive's score: a block that scores higher may well be right
 * although the answer is not found in it (NV-Retriever, Moreira et al. 2024: positive-aware mining with a relative margin,
 * best at 95 %). Made for cosines. Where the positive's score is negative, the limit is as far below it.
 */
const MINED_SHARE = 0.95;

/** The first `n` blocks of a ranking without an answer that score at most as `MINED_SHARE` allows. */
export function minedNegatives(
  { blocks, scores }: Ranking,
  positiveScore: number,
  n: number,
  hasAnswer: (block: number) => boolean,
): number[] {
  const limit = positiveScore - (1 - MINED_SHARE) * Math.abs(positiveScore);
  const found: number[] = [];
  for (let i = 0; i < blocks.length && found.length < n; i++) {
    if (scores[i] <= limit && !hasAnswer(blocks[i])) found.push(blocks[i]);
  }
  return found;
}

/** What a question is trained with. */
export interface Candidates {
  /** Blocks of the retriever's loss over many blocks; the reader reads the first of them. */
  blocks: number[];
  /** Its right block in `qa.contrastive`; undefined: it takes no part. */
  positive: number | undefined;
  /** Its own negatives there. */
  negatives: number[];
}

/** How blocks are chosen: both functions share the search by words and what the questions name. */
export interface CandidateMaker {
  /** `joinCandidates` according to the settings: with neither setting, only the blocks of the ranking. */
  join(question: EncodedQuestion, ranking: Ranking): number[];
  /**
   * Also the blocks for `qa.contrastive`. The positive is the first gold block; where there is none, the first retrieved
   * block that holds an answer, else the first of BM25's. The negatives are those of `qa.hardNegatives` and
   * `qa.minedNegatives`.
   * @param score inner product of the question and a block
   */
  choose(question: EncodedQuestion, ranking: Ranking, score: (block: number) => number): Candidates;
}

/** @param words needed with `qa.hardNegatives` or `qa.contrastive` */
export function candidateMaker(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  qa: Config['qa'],
  hasAnswer: HasAnswer,
  words = FINDS_NOTHING,
): CandidateMaker {
  const none = () => [];
  const golds = qa.gold ? goldBlocks(corpus, questions, hasAnswer) : none;
  const negatives =
    qa.hardNegatives > 0 ? hardNegatives(corpus, questions, qa.hardNegatives, hasAnswer, words) : none;
  const byWords = remembered((question) =>
    words.search(question.question, EXTRA_BLOCKS).blocks.find((block) => hasAnswer(block, question)),
  );
  const join = (question: EncodedQuestion, { blocks, hybrid }: Ranking) => {
    const retrieved = hybrid ? [...new Set([...hybrid.blocks.slice(0, qa.readerBlocks), ...blocks])] : blocks;
    return joinCandidates(retrieved, golds(question), negatives(question), qa.readerBlocks);
  };
  return {
    join,
    choose(question, ranking, score) {
      const holds = (block: number) => hasAnswer(block, question);
      const positive = golds(question).at(0) ?? ranking.blocks.find(holds) ?? byWords(question);
      const mined =
        positive === undefined || qa.minedNegatives === 0
          ? []
          : minedNegatives(ranking, score(positive), qa.minedNegatives, holds);
      return {
        blocks: join(question, ranking),
        positive,
        negatives: [...new Set([...negatives(question), ...mined])],
      };
    },
  };
}

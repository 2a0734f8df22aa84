import { hasAnswer } from '../answers/has-answer.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { CANDIDATES, type Candidates, candidatesOf, combine } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import { progress } from '../system/progress.ts';
import { AT_ONCE } from './answer.ts';
import { type RankingOptions, rowOf } from './evaluate.ts';

/** Ranks of the first block with an answer, one for each question: from 0; Infinity for none. */
export interface RetrieverRanks {
  /** By inner product alone. */
  dense: number[];
  bm25: number[];
  /** By both, for each of the weights. */
  hybrid: number[][];
}

/** What both retrievers found for a question. */
export interface Searched<Q> {
  question: Q;
  /** Of the question, from 0. */
  index: number;
  /** By inner product alone, best first. */
  dense: ReturnType<typeof rowOf>;
  candidates: Candidates;
}

/** Searches for the questions by both retrievers, `AT_ONCE` at a time, with a progress bar of this name. */
export async function* searchBoth<Q extends EncodedQuestion>(
  { model, corpus, index, bm25, config }: Retrieval & Required<Pick<Retrieval, 'bm25'>>,
  questions: readonly Q[],
  most: number,
  name: string,
): AsyncGenerator<Searched<Q>> {
  const bar = progress(name, questions.length, { unit: 'questions' });
  for (let at = 0; at < questions.length; at += AT_ONCE) {
    const part = questions.slice(at, at + AT_ONCE);
    const vectors = await questionVectors(model, corpus, part, config);
    const found = index.search(vectors, Math.max(most, CANDIDATES));
    for (const [q, question] of part.entries()) {
      const candidates = candidatesOf({ index, bm25 }, question.question, vectors, found, q);
      yield { question, index: at + q, dense: rowOf(found, q), candidates };
    }
    bar.at(at + part.length);
  }
  bar.end();
}

/**
 * Retrieval by inner product, by BM25, and by both with each of several weights (hybrid.ts), in one search.
 * `each` gets what the settings ask for: with `hybrid.weight`, what both find, else what the inner product finds.
 * @param most blocks retrieved for a question; 100 or fewer
 */
export async function retrieverRanks(
  retrieval: Retrieval & Required<Pick<Retrieval, 'bm25'>>,
  questions: readonly EncodedQuestion[],
  weights: readonly number[],
  most: number,
  { protocol, each }: RankingOptions = {},
): Promise<RetrieverRanks> {
  const { corpus, config } = retrieval;
  const { weight } = config.hybrid;
  const ranks: RetrieverRanks = { dense: [], bm25: [], hybrid: weights.map(() => []) };
  for await (const { question, index, dense, candidates } of searchBoth(
    retrieval,
    questions,
    most,
    'recall',
  )) {
    const answers = new Map<number, boolean>();
    const rankOf = (blocks: ArrayLike<number>) => {
      for (let i = 0; i < Math.min(most, blocks.length); i++) {
        const block = blocks[i];
        const has = answers.get(block) ?? hasAnswer(corpus.text(block), question, protocol);
        answers.set(block, has);
        if (has) return i;
      }
      return Infinity;
    };
    ranks.dense.push(rankOf(dense.blocks));
    ranks.bm25.push(rankOf(combine(candidates, 0, most).blocks));
    for (const [w, tried] of weights.entries())
      ranks.hybrid[w].push(rankOf(combine(candidates, tried, most).blocks));
    const { blocks, scores } = weight === null ? dense : combine(candidates, weight, most);
    const ranked = (values: ArrayLike<number>) => Array.from(values).slice(0, most);
    each?.({ question, number: index + 1, blocks: ranked(blocks), scores: ranked(scores) });
  }
  return ranks;
}

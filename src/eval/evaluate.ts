import type { Config } from '../config.ts';
import type { Accepted } from '../corpus/qa.ts';
import type { Corpus } from '../corpus/store.ts';
import type { Model } from '../model/model.ts';
import { progress } from '../progress.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { type EncodedQuestion, questionVectors } from '../train/qa.ts';
import { answerQuestions } from './answer.ts';
import { BM25_LIMIT, bm25 } from './bm25.ts';
import { hasAnswer } from './has-answer.ts';
import { isCorrect } from './metrics.ts';

/** Share of questions for which an answer stands in one of the first k blocks, by k ("recall@k" in the paper's Table 2). */
export type Recall = Record<number, number>;

/** Questions embedded and searched together. */
export const AT_ONCE = 64;

/** Retrieval alone, with a retriever of any stage. */
export async function evaluateRecall(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
  ks: readonly number[],
): Promise<Recall> {
  return recallOf(await answerRanks(model, corpus, index, questions, config, Math.max(...ks)), ks);
}

/** Rank of the first block with an answer, for each question: from 0 to `most` − 1, Infinity where none of these has one. */
export async function answerRanks(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
  most: number,
): Promise<number[]> {
  const k = Math.min(most, corpus.blocks);
  const ranks: number[] = [];
  const bar = progress('recall', questions.length);
  for (let at = 0; at < questions.length; at += AT_ONCE) {
    const part = questions.slice(at, at + AT_ONCE);
    const found = index.search(await questionVectors(model, corpus, part, config), k);
    part.forEach((q, b) => {
      ranks.push(firstWithAnswer(corpus, found.blocks.subarray(b * k, b * k + found.counts[b]), q));
    });
    bar.at(ranks.length);
  }
  bar.end();
  return ranks;
}

/** Recall of BM25 on the same blocks and questions; undefined where the corpus is too large for it. */
export function bm25Recall(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  ks: readonly number[],
): Recall | undefined {
  if (corpus.blocks > BM25_LIMIT) return undefined;
  const search = bm25(corpus);
  const ranks = questions.map((q) => firstWithAnswer(corpus, search(q.question, Math.max(...ks)), q));
  return recallOf(ranks, ks);
}

/** Rank of the first block that holds an answer, counted from 0; Infinity for none. */
export function firstWithAnswer(corpus: Corpus, blocks: ArrayLike<number>, accepted: Accepted): number {
  for (let i = 0; i < blocks.length; i++) if (hasAnswer(corpus.text(blocks[i]), accepted)) return i;
  return Infinity;
}

export function recallOf(ranks: readonly number[], ks: readonly number[]): Recall {
  return Object.fromEntries(ks.map((k) => [k, ranks.filter((r) => r < k).length / ranks.length]));
}

/** One question's outcome, a line of the predictions file. */
export interface Prediction {
  question: string;
  answers: string[];
  prediction: string;
  correct: boolean;
  /** Title and document of the block the prediction stands in. */
  title: string;
  document: string;
  probability: number;
}

export interface Evaluation {
  questions: number;
  /** Share of predictions that equal an answer after normalisation, or that an expression matches (ORQA's protocol). */
  exactMatch: number;
  recall: Recall;
  predictions: Prediction[];
}

/** Answers every question and compares. */
export async function evaluateAnswers(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
  ks: readonly number[],
): Promise<Evaluation> {
  const predictions: Prediction[] = [];
  const ranks: number[] = [];
  const bar = progress('exact-match', questions.length);
  const atOnce = Math.max(1, Math.floor(AT_ONCE / config.qa.readerBlocks));
  for (let at = 0; at < questions.length; at += atOnce) {
    const part = questions.slice(at, at + atOnce);
    const answered = await answerQuestions(model, corpus, index, part, config, Math.max(...ks));
    answered.forEach(({ retrieved, answers }, b) => {
      const { question, answers: accepted } = part[b];
      const best = answers[0];
      const prediction = best?.text ?? '';
      predictions.push({
        question,
        answers: accepted,
        prediction,
        correct: isCorrect(prediction, part[b], 'orqa'),
        title: best ? corpus.title(best.block) : '',
        document: best ? corpus.documentId(best.block) : '',
        probability: best?.probability ?? 0,
      });
      ranks.push(firstWithAnswer(corpus, retrieved, part[b]));
    });
    bar.at(predictions.length);
  }
  bar.end();
  return {
    questions: questions.length,
    exactMatch: predictions.filter((p) => p.correct).length / predictions.length,
    recall: recallOf(ranks, ks),
    predictions,
  };
}

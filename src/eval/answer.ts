import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { disposeReading, makeReading, ownScores, wholeWordScores } from '../model/reading.ts';
import { findBlocks } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';

/** Number of questions embedded and searched at once, and of blocks read at once. */
export const AT_ONCE = 64;

/** Number of questions for one call of `answerQuestions`. */
export function questionsAtOnce({ qa }: Config): number {
  return Math.max(1, Math.floor(AT_ONCE / qa.readerBlocks));
}

/** An answer from one retrieved block. */
export interface Answer {
  text: string;
  block: number;
  /** The block's text, and the characters (UTF-16 units) [start, end) of the answer in it. */
  passage: string;
  start: number;
  end: number;
  /** Probability of this span among all spans of whole words in all blocks read. */
  probability: number;
  /** p(z|x) of its block, among the blocks read. */
  prior: number;
  /** p(y|z,x): probability of the span among the spans of whole words in its block. */
  likelihood: number;
}

/** Result for one question: the blocks retrieved, best first, and the best span of each block read, best first. */
export interface Answered {
  retrieved: number[];
  answers: Answer[];
  /** The score of each block retrieved: its inner product with the question, with BM25's bonus in hybrid retrieval. */
  products: number[];
  /** [P] the question's vector. */
  vector: Float32Array;
  /** f(x, z) of each block read, in the order of `retrieved`, divided by the temperature. */
  scores: number[];
}

/**
 * Answers questions: retrieves `retrieve` blocks, reads the first `qa.readerBlocks` of them, and chooses the best span by
 * span score plus retrieval score (orqa_model.py). Unlike there, an answer consists of whole words.
 */
export async function answerQuestions(
  retrieval: Retrieval,
  questions: readonly EncodedQuestion[],
  retrieve: number,
): Promise<Answered[]> {
  const { model, corpus, config } = retrieval;
  const k = Math.min(Math.max(retrieve, config.qa.readerBlocks), corpus.blocks);
  const vectors = await questionVectors(model, corpus, questions, config);
  const texts = questions.map(({ question }) => question);
  const found = findBlocks(retrieval, texts, vectors, k);
  const R = Math.min(config.qa.readerBlocks, k);
  const blocks = questions.map((_, b) => Array.from(found.blocks.subarray(b * k, b * k + found.counts[b])));
  const read = blocks.map((list) => list.slice(0, R));
  const reading = makeReading(corpus, questions, read, R, config);
  const P = vectorLength(config.model);
  const best = tf.tidy(() => {
    const scores = wholeWordScores(reading, ownScores(model, reading)).reshape([questions.length * R, -1]);
    const score = scores.max(1, true);
    return { score, sum: scores.sub(score).exp().sum(1), span: scores.argMax(1) }; // each [B*R]
  });
  const [score, sum, span] = await fetchValues(best.score, best.sum, best.span);
  tf.dispose(best);
  disposeReading(reading);
  return questions.map((_, b) => {
    const scores = read[b].map((_, r) => found.scores[b * k + r] / model.temperature);
    const prior = shares(scores);
    // Of the whole softmax over all spans, each block has the exp of its retrieval score times Σ exp of its spans' scores.
    const ofBlock = shares(scores.map((f, r) => f + score[b * R + r] + Math.log(sum[b * R + r])));
    const answers = read[b].map((block, r): Answer => {
      const row = b * R + r;
      const width = Math.floor(span[row] / reading.T) + 1;
      const first = span[row] % reading.T;
      const likelihood = 1 / sum[row];
      return {
        ...wholeWords(corpus, block, first, first + width),
        block,
        probability: ofBlock[r] * likelihood,
        prior: prior[r],
        likelihood,
      };
    });
    answers.sort((a, b) => b.probability - a.probability);
    return {
      retrieved: blocks[b],
      products: Array.from(found.scores.subarray(b * k, b * k + blocks[b].length)),
      answers,
      vector: vectors.slice(b * P, (b + 1) * P),
      scores,
    };
  });
}

/** The softmax of scores. */
function shares(scores: readonly number[]): number[] {
  const most = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/**
 * The text of the words that contain pieces [start, end) of a block, as spelled in the block, which is tokenised again
 * for its offsets.
 */
function wholeWords(
  corpus: Corpus,
  block: number,
  start: number,
  end: number,
): Pick<Answer, 'text' | 'passage' | 'start' | 'end'> {
  const passage = corpus.text(block);
  const { ids, starts, ends } = corpus.tokenizer.encode(passage);
  if (end > starts.length) return { text: '', passage, start: 0, end: 0 };
  const { continues } = corpus.tokenizer;
  while (start > 0 && continues[ids[start]]) start--;
  while (end < ids.length && continues[ids[end]]) end++;
  const [from, to] = [starts[start], ends[end - 1]];
  return { text: passage.slice(from, to), passage, start: from, end: to };
}

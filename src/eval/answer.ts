import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { disposeReading, makeReading, readScores, wholeWordScores } from '../model/reading.ts';
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
  /** Characters (UTF-16 units) [start, end) of the answer in `corpus.text(block)`. */
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
  const B = questions.length;
  const P = vectorLength(config.model);
  const priors = new Float32Array(B * R).fill(-1e9);
  for (let b = 0; b < B; b++) {
    for (let r = 0; r < read[b].length; r++) priors[b * R + r] = found.scores[b * k + r] / model.temperature;
  }
  const best = tf.tidy(() => {
    const prior = tf.tensor2d(priors, [B, R]);
    const scores = wholeWordScores(reading, readScores(model, reading, prior)).reshape([B, R, -1]);
    return {
      prior: tf.logSoftmax(prior),
      joint: scores.max(2).sub(scores.reshape([B, -1]).logSumExp(1).reshape([B, 1])), // [B, R]
      likelihood: scores.max(2).sub(scores.logSumExp(2)), // [B, R]
      span: scores.argMax(2), // [B, R]
    };
  });
  const [prior, joint, likelihood, span] = await fetchValues(
    best.prior,
    best.joint,
    best.likelihood,
    best.span,
  );
  tf.dispose(best);
  const results = questions.map((_, b) => {
    const answers = read[b].map((block, r): Answer => {
      const row = b * R + r;
      const width = Math.floor(span[row] / reading.T) + 1;
      const first = (span[row] % reading.T) - reading.blocks.offsets[row];
      const words = wholeWords(corpus, block, first, first + width);
      return {
        ...words,
        block,
        probability: Math.exp(joint[row]),
        prior: Math.exp(prior[row]),
        likelihood: Math.exp(likelihood[row]),
      };
    });
    answers.sort((a, b) => b.probability - a.probability);
    return {
      retrieved: blocks[b],
      products: Array.from(found.scores.subarray(b * k, b * k + blocks[b].length)),
      answers,
      vector: vectors.slice(b * P, (b + 1) * P),
      scores: Array.from(priors.subarray(b * R, b * R + read[b].length)),
    };
  });
  disposeReading(reading);
  return results;
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
): { text: string; start: number; end: number } {
  const text = corpus.text(block);
  const { ids, starts, ends } = corpus.tokenizer.encode(text);
  if (start < 0 || end > starts.length) return { text: '', start: 0, end: 0 };
  const { continues } = corpus.tokenizer;
  while (start > 0 && continues[ids[start]]) start--;
  while (end < ids.length && continues[ids[end]]) end++;
  return { text: text.slice(starts[start], ends[end - 1]), start: starts[start], end: ends[end - 1] };
}

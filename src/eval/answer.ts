import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { fetchValues as readValues } from '../model/host-values.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { disposeReading, makeReading, readScores, wholeWordScores } from '../model/reading.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';

/** Questions embedded and searched at once, and blocks read at once. */
export const AT_ONCE = 64;

/** Questions for one call of `answerQuestions`. */
export function questionsAtOnce({ qa }: Config): number {
  return Math.max(1, Math.floor(AT_ONCE / qa.readerBlocks));
}

/** An answer read out of one retrieved block. */
export interface Answer {
  text: string;
  block: number;
  /** Characters (UTF-16 units) [start, end) of the answer in `corpus.text(block)`. */
  start: number;
  end: number;
  /** Probability of this span among all spans of whole words of all blocks read. */
  probability: number;
  /** p(z|x) of its block, among the blocks read. */
  prior: number;
  /** p(y|z,x): probability of the span among the spans of whole words of its block. */
  likelihood: number;
}

/** The blocks retrieved for a question, best first, and the best span of each block read, best first. */
export interface Answered {
  retrieved: number[];
  answers: Answer[];
  /** Inner products of the question and each block retrieved. */
  products: number[];
  /** [P] the question's vector. */
  vector: Float32Array;
  /** f(x, z) of each block read, in the order of `retrieved`, divided by the temperature. */
  scores: number[];
}

/**
 * Answers questions: retrieves `retrieve` blocks, reads the first `qa.readerBlocks` of them, and takes the best span by
 * span score plus retrieval score (orqa_model.py). Unlike there, an answer neither begins nor ends within a word.
 */
export async function answerQuestions(
  { model, corpus, index, config }: Retrieval,
  questions: readonly EncodedQuestion[],
  retrieve: number,
): Promise<Answered[]> {
  const k = Math.min(Math.max(retrieve, config.qa.readerBlocks), corpus.blocks);
  const vectors = await questionVectors(model, corpus, questions, config);
  const found = index.search(vectors, k);
  const R = Math.min(config.qa.readerBlocks, k);
  const blocks = questions.map((_, b) => Array.from(found.blocks.subarray(b * k, b * k + found.counts[b])));
  const read = blocks.map((list) => list.slice(0, R));
  const reading = makeReading(corpus, questions, read, R, config);
  const B = questions.length;
  const P = config.model.projection;
  const priors = new Float32Array(B * R).fill(-1e9);
  for (let b = 0; b < B; b++) {
    for (let r = 0; r < read[b].length; r++) priors[b * R + r] = found.scores[b * k + r] / model.temperature;
  }
  const best = tf.tidy(() => {
    const retrieval = tf.tensor2d(priors, [B, R]);
    const scores = wholeWordScores(reading, readScores(model, reading, retrieval)).reshape([B, R, -1]);
    return {
      prior: tf.logSoftmax(retrieval),
      joint: scores.max(2).sub(scores.reshape([B, -1]).logSumExp(1).reshape([B, 1])), // [B, R]
      likelihood: scores.max(2).sub(scores.logSumExp(2)), // [B, R]
      span: scores.argMax(2), // [B, R]
    };
  });
  const [prior, joint, likelihood, span] = await readValues(
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
      const place = wholeWords(corpus, block, first, first + width);
      return {
        ...place,
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
 * The text of the words that pieces [start, end) of a block lie in, in its own spelling: the block is tokenised again for
 * its offsets.
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

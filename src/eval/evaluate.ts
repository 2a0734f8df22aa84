import { answerSpans, hasAnswer } from '../answers/has-answer.ts';
import { f1, isCorrect, type Protocol } from '../answers/metrics.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { codePointsBefore } from '../datasets/code-points.ts';
import type { Accepted } from '../datasets/types.ts';
import { pairIds } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import type { Model } from '../model/model.ts';
import { answerPieces, type EncodedQuestion, questionVectors } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import { encodeBlocks } from '../retrieval/encode-blocks.ts';
import { exactBest } from '../retrieval/exact.ts';
import type { Found } from '../retrieval/graph.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import { progress } from '../system/progress.ts';
import { type Answer, AT_ONCE, answerQuestions, questionsAtOnce } from './answer.ts';
import type { Ranking } from './rankings.ts';

/** Share of questions with an answer in one of the first k blocks, by k ("recall@k" in the paper's Table 2). */
export type Recall = Record<number, number>;

/** The rules that decide whether a block holds an answer, and a callback for results. */
export interface RankingOptions {
  /** By default DPR's, with which retrieval results are usually published. */
  protocol?: Protocol;
  each?(ranking: Ranking): void;
}

/**
 * Retrieval only, with a retriever of any stage: for each question the rank of the first block with an answer, from 0;
 * Infinity if none of the first `most` blocks has one.
 */
export async function retrievalRanks(
  { model, corpus, index, config }: Retrieval,
  questions: readonly EncodedQuestion[],
  most: number,
  { protocol, each }: RankingOptions = {},
): Promise<number[]> {
  const k = Math.min(most, corpus.blocks);
  const ranks: number[] = [];
  const bar = progress('recall', questions.length, { unit: 'questions' });
  for (let at = 0; at < questions.length; at += AT_ONCE) {
    const part = questions.slice(at, at + AT_ONCE);
    const found = index.search(await questionVectors(model, corpus, part, config), k);
    part.forEach((question, b) => {
      const { blocks, scores } = rowOf(found, b);
      ranks.push(firstWithAnswer(corpus, blocks, question, protocol));
      each?.({ question, number: at + b + 1, blocks, scores });
    });
    bar.at(ranks.length);
  }
  bar.end();
  return ranks;
}

/** The blocks found for query `b`. */
export function rowOf({ blocks, scores, counts }: Found, b: number): { blocks: number[]; scores: number[] } {
  const k = blocks.length / counts.length;
  const row = (values: Int32Array | Float32Array) =>
    Array.from<number>(values.subarray(b * k, b * k + counts[b]));
  return { blocks: row(blocks), scores: row(scores) };
}

/**
 * `retrievalRanks` without an index: every block is embedded again and compared, a piece at a time; nothing is written.
 * For a retriever if the run no longer has its index.
 */
export async function freshRanks(
  model: Model,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  config: Config,
  most: number,
  { protocol }: RankingOptions = {},
): Promise<number[]> {
  const vectors = await questionVectors(model, corpus, questions, config);
  const bar = progress('ict-warmup recall', corpus.blocks, { unit: 'blocks' });
  const { blockTokens } = config.text;
  const { tokensPerBatch } = config.index;
  const pieces = encodeBlocks(model, corpus, { blockTokens, tokensPerBatch });
  const found = await exactBest(
    pieces,
    vectors,
    vectorLength(config.model),
    Math.min(most, corpus.blocks),
    bar.at,
  );
  bar.end();
  return questions.map((question, b) => firstWithAnswer(corpus, rowOf(found, b).blocks, question, protocol));
}

/** Ranks by BM25 on the same blocks and questions. */
export function bm25Ranks(
  bm25: Bm25,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  most: number,
  { protocol }: RankingOptions = {},
): number[] {
  return questions.map((q) => firstWithAnswer(corpus, bm25.search(q.question, most).blocks, q, protocol));
}

/** Rank of the first block that holds an answer, counted from 0; Infinity for none. −1 is a document outside the corpus. */
export function firstWithAnswer(
  corpus: Corpus,
  blocks: ArrayLike<number>,
  accepted: Accepted,
  protocol?: Protocol,
): number {
  for (let i = 0; i < blocks.length; i++)
    if (blocks[i] >= 0 && hasAnswer(corpus.text(blocks[i]), accepted, protocol)) return i;
  return Infinity;
}

export function recallOf(ranks: readonly number[], ks: readonly number[]): Recall {
  return Object.fromEntries(ks.map((k) => [k, ranks.filter((r) => r < k).length / ranks.length]));
}

/** One question's result, a line of the predictions file. */
export interface Prediction extends Accepted {
  question: string;
  id?: string;
  prediction: string;
  correct: boolean;
  /** Title and document of the block with the prediction. */
  title: string;
  document: string;
  probability: number;
  /** Text of that block, and the prediction's range in it, in code points. */
  passage: string;
  start: number;
  end: number;
}

/** One value per question: 1 for right, 0 for wrong. */
export interface Scores {
  /** The prediction equals an answer after normalisation, or a regular expression matches it ("official" in ORQA). */
  exactMatch: number[];
  /**
   * The predicted span's word pieces equal those of an answer ("exact_match" in ORQA, orqa_model.py). Nothing is
   * normalised: an answer that is spelled differently in the block, for example with an article, is wrong.
   */
  tokenExactMatch: number[];
  /** Word F1 with the best answer, 0 to 1; 0 if the answers are regular expressions. */
  f1: number[];
  /** The best span of any block read is right: the result of an ideal choice of the block. */
  readerOracle: number[];
  /** Any span of the blocks read, no wider than the reader may choose, is an answer ("reader_oracle" in ORQA). */
  spanOracle: number[];
  /** Rank of the first retrieved block that holds an answer, from 0; Infinity for none. */
  ranks: number[];
}

export interface Evaluation {
  questions: number;
  exactMatch: number;
  recall: Recall;
  scores: Scores;
}

export interface AnswerOptions extends RankingOptions {
  predicted?(prediction: Prediction): void;
}

/** Answers every question and scores the answers, by default with ORQA's protocol. */
export async function evaluateAnswers(
  retrieval: Retrieval,
  questions: readonly EncodedQuestion[],
  ks: readonly number[],
  { protocol, each, predicted }: AnswerOptions = {},
): Promise<Evaluation> {
  const { corpus, config } = retrieval;
  const scores: Scores = {
    exactMatch: [],
    tokenExactMatch: [],
    f1: [],
    readerOracle: [],
    spanOracle: [],
    ranks: [],
  };
  const score = (name: keyof Scores, value: number | boolean) => scores[name].push(Number(value));
  const bar = progress('exact-match', questions.length, { unit: 'questions' });
  const atOnce = questionsAtOnce(config);
  for (let at = 0; at < questions.length; at += atOnce) {
    const part = questions.slice(at, at + atOnce);
    const answered = await answerQuestions(retrieval, part, Math.max(...ks));
    answered.forEach(({ retrieved, products, answers }, b) => {
      const question = part[b];
      const best: Answer | undefined = answers[0];
      const text = best?.text ?? '';
      const correct = isCorrect(text, question, protocol ?? 'orqa');
      const [tokens, spans] = goldSpans(corpus, question, answers, config);
      score('exactMatch', correct);
      score('tokenExactMatch', tokens);
      score('f1', question.answerKind === 'regex' ? 0 : f1(text, question.answers, protocol ?? 'orqa'));
      score(
        'readerOracle',
        answers.some((answer) => isCorrect(answer.text, question, protocol ?? 'orqa')),
      );
      score('spanOracle', spans);
      score('ranks', firstWithAnswer(corpus, retrieved, question, protocol));
      each?.({ question, number: at + b + 1, blocks: retrieved, scores: products, answer: text });
      predicted?.({
        question: question.question,
        ...(question.id === undefined ? {} : { id: question.id }),
        answers: question.answers,
        answerKind: question.answerKind,
        prediction: text,
        correct,
        title: best ? corpus.title(best.block) : '',
        document: best ? corpus.documentId(best.block) : '',
        probability: best?.probability ?? 0,
        passage: best ? best.passage : '',
        start: best ? codePointsBefore(best.passage, best.start) : 0,
        end: best ? codePointsBefore(best.passage, best.end) : 0,
      });
    });
    bar.at(scores.ranks.length);
  }
  bar.end();
  return {
    questions: questions.length,
    exactMatch: scores.exactMatch.filter((s) => s === 1).length / questions.length,
    recall: recallOf(scores.ranks, ks),
    scores,
  };
}

/**
 * Whether the best answer's span is one that training marks as right, and whether the blocks read contain such a span.
 * @param answers one per block read, best first
 */
function goldSpans(
  corpus: Corpus,
  question: EncodedQuestion,
  answers: readonly Answer[],
  { text, qa, model }: Config,
): [best: boolean, any: boolean] {
  const questionIds = question.ids.subarray(0, text.questionTokens - 2); // truncated as in `makeReading`
  let best = false;
  let any = false;
  for (const [rank, { block, passage, start, end }] of answers.entries()) {
    const body = corpus.bodyIds(block);
    const { ids, firstSegment } = pairIds(corpus.tokenizer, questionIds, body, qa.readerTokens);
    const read = body.subarray(0, ids.length - firstSegment - 1);
    const spans = answerSpans(read, answerPieces(corpus, block, question));
    const offsets = rank === 0 ? corpus.tokenizer.encode(passage) : undefined;
    for (let i = 0; i < spans.length; i += 2) {
      if (spans[i + 1] - spans[i] > model.maxSpanWidth) continue;
      any = true;
      if (offsets?.starts[spans[i]] === start && offsets.ends[spans[i + 1] - 1] === end) best = true;
    }
  }
  return [best, any];
}

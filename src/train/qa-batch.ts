import * as tf from '@tensorflow/tfjs';
import type { answerFinder } from '../answers/answer-finder.ts';
import { answerSpans } from '../answers/has-answer.ts';
import { disposeInput, type EncoderInput, encoderInput } from '../model/bert.ts';
import { blockSequences, querySequences, type Sequences, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import { IMPOSSIBLE } from '../model/marginal.ts';
import { answerPieces, type EncodedQuestion } from '../model/questions.ts';
import { disposeReading, makeReading, type Reading } from '../model/reading.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import type { CandidateMaker, Candidates, HybridRanking, Rank } from './qa-candidates.ts';

/** All inputs of one pass of fine-tuning: B questions, C blocks for each, R of them read. */
export interface QaBatch {
  /** Absent where the vectors of the questions are given. */
  queries?: EncoderInput;
  /** The index's vectors of the blocks; zeros for those in `rows`. */
  vectors: tf.Tensor3D; // [B, C, P]
  /** Distinct blocks that are read, to embed them with the current document tower; absent if their vectors are given. */
  documents?: EncoderInput;
  /** For the first R blocks of each question, the row among those that the current tower embeds; absent if it is frozen. */
  rows?: tf.Tensor1D; // [B*R]
  /** Added to the blocks' scores: 0, and hugely negative beyond the end of a shorter list. */
  absent: tf.Tensor2D; // [B, C]
  /** 1 if it holds an answer. */
  positives: tf.Tensor2D; // [B, C]
  /** Questions with such a block. */
  retrieved: number;
  /** Whether the reader is trained; otherwise the questions only train the retriever. */
  reads: boolean;
  /** Absent if none of the blocks that would be read has an answer. */
  read?: QaReading;
}

/**
 * The A questions that are read: those with an answer in their first R blocks. Of the others the reader learns nothing, its loss
 * is 0 and has no gradient.
 */
export interface QaReading {
  /** Row a has 1 in the column of question a of these: a product with it selects their rows. */
  questions: tf.Tensor2D; // [A, B]
  reading: Reading;
  /** What BM25 adds to the inner products in hybrid retrieval, for the reader alone; absent: 0. */
  bonus?: tf.Tensor2D; // [A, R]
  /** 1 on every span of `ownScores` that is an answer. */
  spans: tf.Tensor2D; // [A, R*W*T]
  /** Questions with such a span: the answers of others are in parts of their blocks that are not read. */
  found: number;
}

/** What the blocks of a step are chosen with. */
export interface QaSource extends Retrieval {
  index: SearchIndex;
  hasAnswer: ReturnType<typeof answerFinder>;
  candidates: CandidateMaker;
  rank: Rank;
}

/** A question and the blocks that are scored for it. */
export interface Chosen extends Pick<Candidates, 'blocks'> {
  question: EncodedQuestion;
  bonus?: HybridRanking['bonus'];
}

/** The sequences of questions. */
export function questionSequences(
  { model, corpus, config }: Retrieval,
  questions: readonly EncodedQuestion[],
): Sequences {
  return querySequences(
    textFormat(corpus.tokenizer, model.embedder),
    questions.map((q) => q.ids),
    config.text.questionTokens,
  );
}

/** The sequences of blocks; −1 is the null document. */
export function sequencesOf({ corpus, config }: Retrieval, blocks: readonly number[]): Sequences {
  const none = new Int32Array(0);
  return blockSequences(
    textFormat(corpus.tokenizer, config.model),
    blocks.map((block) =>
      block < 0
        ? { title: none, body: none }
        : { title: corpus.titleIds(block), body: corpus.bodyIds(block) },
    ),
    config.text.blockTokens,
  );
}

/** The blocks that are read, R of each list; a shorter list is filled with −1, the null document. */
export function blocksRead(lists: readonly (readonly number[])[], R: number): number[] {
  return lists.flatMap((list) => Array.from({ length: R }, (_, r) => list[r] ?? -1));
}

/** A batch that embeds its own questions, and its own blocks where the document tower is trained. */
export function makeQaBatch(source: QaSource, chosen: readonly Chosen[]): QaBatch {
  const queries = questionSequences(
    source,
    chosen.map(({ question }) => question),
  );
  const input = encoderInput(queries.ids, queries.firstSegment);
  if (source.config.qa.refreshEvery === null) return { queries: input, ...scored(source, chosen, true) };
  const lists = chosen.map(({ blocks }) => blocks);
  const distinct = [...new Set(blocksRead(lists, rowsRead(source, lists)))];
  const { ids, firstSegment } = sequencesOf(source, distinct);
  return {
    queries: input,
    documents: encoderInput(ids, firstSegment),
    ...scored(source, chosen, true, new Map(distinct.map((block, row) => [block, row]))),
  };
}

/** R: blocks of each question that are read. */
function rowsRead({ config }: QaSource, lists: readonly (readonly number[])[]): number {
  return Math.min(config.qa.readerBlocks, Math.max(1, ...lists.map((list) => list.length)));
}

/**
 * The batch without questions and blocks to embed.
 * @param reads whether the reader is trained too; otherwise all blocks have the index's vectors
 * @param rowOf row of each block that the current document tower embeds; undefined: it is frozen
 */
export function scored(
  source: QaSource,
  chosen: readonly Chosen[],
  reads: boolean,
  rowOf?: ReadonlyMap<number, number>,
): QaBatch {
  const { index, config } = source;
  const lists = chosen.map(({ blocks }) => blocks);
  const B = lists.length;
  const P = vectorLength(config.model);
  const C = Math.max(1, ...lists.map((list) => list.length));
  const R = rowsRead(source, lists);
  const fresh = reads && rowOf ? R : 0; // blocks that the current document tower embeds
  const vectors = new Float32Array(B * C * P);
  const absent = new Float32Array(B * C);
  const positives = new Float32Array(B * C);
  let retrieved = 0;
  for (const [b, { question, blocks }] of chosen.entries()) {
    vectors.set(index.vectors(Int32Array.from(blocks.slice(fresh))), (b * C + fresh) * P);
    absent.fill(IMPOSSIBLE, b * C + blocks.length, (b + 1) * C);
    const right = blocks.map((block) => (source.hasAnswer(block, question) ? 1 : 0));
    positives.set(right, b * C);
    if (right.includes(1)) retrieved++;
  }
  const batch: QaBatch = {
    vectors: tf.tensor3d(vectors, [B, C, P]),
    absent: tf.tensor2d(absent, [B, C]),
    positives: tf.tensor2d(positives, [B, C]),
    retrieved,
    reads,
  };
  if (!reads) return batch;
  batch.read = qaReading(source, chosen, R);
  if (rowOf) {
    const rows = blocksRead(lists, R).map((block) => rowOf.get(block)!);
    batch.rows = tf.tensor1d(rows, 'int32');
  }
  return batch;
}

function qaReading(
  { model, corpus, config }: QaSource,
  chosen: readonly Chosen[],
  R: number,
): QaReading | undefined {
  const { maxSpanWidth } = model.reader;
  const answerable = chosen.flatMap(({ question, blocks, bonus }, place) => {
    const first = blocks.slice(0, R);
    const spans = first.map((block) => {
      const answers = answerPieces(corpus, block, question);
      return answerSpans(
        corpus.bodyIds(block),
        answers.filter(({ length }) => length <= maxSpanWidth),
      );
    });
    const has = spans.some(({ length }) => length > 0);
    return has ? [{ place, question, blocks: first, spans, bonus: bonus?.(first) }] : [];
  });
  const A = answerable.length;
  if (A === 0) return undefined;
  const reading = makeReading(
    corpus,
    answerable.map(({ question }) => question),
    answerable.map(({ blocks }) => blocks),
    R,
    config,
  );
  const correct = markSpans(
    reading,
    answerable.map(({ spans }) => spans),
    maxSpanWidth,
  );
  const each = correct.length / A;
  const select = new Float32Array(A * chosen.length);
  for (const [a, { place }] of answerable.entries()) select[a * chosen.length + place] = 1;
  const read: QaReading = {
    questions: tf.tensor2d(select, [A, chosen.length]),
    reading,
    spans: tf.tensor2d(correct, [A, each]),
    found: answerable.filter((_, a) => correct.subarray(a * each, (a + 1) * each).includes(1)).length,
  };
  if (answerable.some(({ bonus }) => bonus)) {
    const added = new Float32Array(A * R);
    for (const [a, { bonus }] of answerable.entries()) if (bonus) added.set(bonus, a * R);
    read.bonus = tf.tensor2d(added, [A, R]);
  }
  return read;
}

export function disposeQaBatch(batch: QaBatch): void {
  const { queries, documents, read, rows, vectors, absent, positives } = batch;
  for (const input of [queries, documents]) if (input) disposeInput(input);
  if (read) {
    disposeReading(read.reading);
    tf.dispose([read.questions, read.spans, ...(read.bonus ? [read.bonus] : [])]);
  }
  for (const tensor of [rows, vectors, absent, positives]) tensor?.dispose();
}

/**
 * 1 on every span that matches an answer's word pieces: [A, R*W*T] row-major, in the order of `ownScores`. The answers
 * of a regular expression are the texts that it matches in the block, as in DrQA's distant supervision
 * (facebookresearch/DrQA, scripts/distant/generate.py, commit 6d7c1b7).
 * @param spans by `answerSpans`, of each question's blocks; those beyond the part of a block that is read are left out
 */
function markSpans(
  reading: Reading,
  spans: readonly (readonly Int32Array[])[],
  maxWidth: number,
): Float32Array {
  const { B, R, T } = reading;
  const { lengths } = reading.blocks;
  const W = Math.min(maxWidth, T);
  const correct = new Float32Array(B * R * W * T);
  for (const [b, blocks] of spans.entries()) {
    for (const [r, found] of blocks.entries()) {
      const row = b * R + r;
      for (let i = 0; i < found.length; i += 2) {
        const [start, end] = [found[i], found[i + 1]];
        if (end <= lengths[row]) correct[(row * W + end - start - 1) * T + start] = 1;
      }
    }
  }
  return correct;
}

import * as tf from '@tensorflow/tfjs';
import type { answerFinder } from '../answers/answer-finder.ts';
import { answerSpans } from '../answers/has-answer.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { disposeInput, type EncoderInput, encoderInput } from '../model/bert.ts';
import { blockSequences, querySequences, type Sequences, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
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
  /** 1 for a block, 0 beyond the end of a shorter list. */
  present: tf.Tensor2D; // [B, C]
  /** 1 if it holds an answer. */
  positives: tf.Tensor2D; // [B, C]
  /** Absent where the questions only train the retriever. */
  read?: {
    reading: Reading;
    /** What BM25 adds to the inner products in hybrid retrieval, for the reader alone; absent: 0. */
    bonus?: tf.Tensor2D; // [B, R]
    /** 1 on every span of `ownScores` that is an answer. */
    spans: tf.Tensor2D; // [B, R*W*T]
  };
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
 * @param read whether the questions are read too; otherwise all their blocks have the index's vectors
 * @param rowOf row of each block that the current document tower embeds; undefined: it is frozen
 */
export function scored(
  source: QaSource,
  chosen: readonly Chosen[],
  read: boolean,
  rowOf?: ReadonlyMap<number, number>,
): QaBatch {
  const { model, corpus, index, config } = source;
  const lists = chosen.map(({ blocks }) => blocks);
  const B = lists.length;
  const P = vectorLength(config.model);
  const C = Math.max(1, ...lists.map((list) => list.length));
  const R = rowsRead(source, lists);
  const fresh = read && rowOf ? R : 0; // blocks that the current document tower embeds
  const vectors = new Float32Array(B * C * P);
  const present = new Float32Array(B * C);
  const positives = new Float32Array(B * C);
  for (const [b, { question, blocks }] of chosen.entries()) {
    vectors.set(index.vectors(Int32Array.from(blocks.slice(fresh))), (b * C + fresh) * P);
    present.fill(1, b * C, b * C + blocks.length);
    for (let c = 0; c < blocks.length; c++)
      positives[b * C + c] = source.hasAnswer(blocks[c], question) ? 1 : 0;
  }
  const batch: QaBatch = {
    vectors: tf.tensor3d(vectors, [B, C, P]),
    present: tf.tensor2d(present, [B, C]),
    positives: tf.tensor2d(positives, [B, C]),
  };
  if (!read) return batch;
  const questions = chosen.map(({ question }) => question);
  const readBlocks = lists.map((list) => list.slice(0, R));
  const reading = makeReading(corpus, questions, readBlocks, R, config);
  const correct = markSpans(reading, questions, corpus, readBlocks, model.reader.maxSpanWidth);
  batch.read = { reading, spans: tf.tensor2d(correct, [B, correct.length / B]) };
  if (chosen.some(({ bonus }) => bonus)) {
    const added = new Float32Array(B * R);
    for (const [b, { bonus }] of chosen.entries()) if (bonus) added.set(bonus(readBlocks[b]), b * R);
    batch.read.bonus = tf.tensor2d(added, [B, R]);
  }
  if (rowOf) {
    const rows = blocksRead(lists, R).map((block) => rowOf.get(block)!);
    batch.rows = tf.tensor1d(rows, 'int32');
  }
  return batch;
}

export function disposeQaBatch(batch: QaBatch): void {
  const { queries, documents, read, rows, vectors, present, positives } = batch;
  for (const input of [queries, documents]) if (input) disposeInput(input);
  if (read) {
    disposeReading(read.reading);
    read.spans.dispose();
    read.bonus?.dispose();
  }
  for (const tensor of [rows, vectors, present, positives]) tensor?.dispose();
}

/**
 * 1 on every span that matches an answer's word pieces: [B, R*W*T] row-major, in the order of `ownScores`. The answers
 * of a regular expression are the texts that it matches in the block, as in DrQA's distant supervision
 * (facebookresearch/DrQA, scripts/distant/generate.py, commit 6d7c1b7).
 */
function markSpans(
  reading: Reading,
  batch: readonly EncodedQuestion[],
  corpus: Corpus,
  blocks: readonly (readonly number[])[],
  maxWidth: number,
): Float32Array {
  const { B, R, T } = reading;
  const { lengths } = reading.blocks;
  const W = Math.min(maxWidth, T);
  const correct = new Float32Array(B * R * W * T);
  for (let b = 0; b < B; b++) {
    for (let r = 0; r < blocks[b].length; r++) {
      const row = b * R + r;
      const block = blocks[b][r];
      const body = corpus.bodyIds(block).subarray(0, lengths[row]);
      const spans = answerSpans(body, answerPieces(corpus, block, batch[b]));
      for (let i = 0; i < spans.length; i += 2) {
        const width = spans[i + 1] - spans[i];
        if (width <= W) correct[(row * W + width - 1) * T + spans[i]] = 1;
      }
    }
  }
  return correct;
}

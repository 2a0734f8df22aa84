import { regexMatches } from '../answers/metrics.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { Accepted, Question } from '../datasets/types.ts';
import { embedAll, querySequences, textFormat } from './embedder.ts';
import type { Model } from './model.ts';

/** A question for the model: tokenised once, its answers both as text and as word pieces. */
export interface EncodedQuestion
  extends Pick<Question, 'question' | 'id' | 'passageId' | 'negativeIds'>,
    Accepted {
  ids: Int32Array;
  /** Empty if the answers are regular expressions: they match a different text in every block. */
  answerIds: Int32Array[];
}

/** Questions without an answer kind (not read from a file) have plain text answers. */
export function encodeQuestions(
  corpus: Corpus,
  questions: readonly (Omit<Question, 'answerKind'> & Partial<Accepted>)[],
): EncodedQuestion[] {
  return questions.map(({ question, id, passageId, negativeIds, answers, answerKind = 'string' }) => ({
    question,
    id,
    passageId,
    negativeIds,
    answers,
    answerKind,
    ids: corpus.tokenizer.encode(question).ids,
    answerIds: answerKind === 'regex' ? [] : piecesOf(corpus, answers),
  }));
}

/** Vectors of questions, by the current weights: [n, P]. */
export function questionVectors(
  model: Model,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  { text, index }: Config,
): Promise<Float32Array> {
  const queries = querySequences(
    textFormat(corpus.tokenizer, model.embedder),
    questions.map((q) => q.ids),
    text.questionTokens,
  );
  return embedAll(model.params, model.queryTower, model.embedder, queries, index.tokensPerBatch);
}

/** Word pieces of every right answer that a block may hold: for a regular expression, those of the texts that it matches there. */
export function answerPieces(corpus: Corpus, block: number, question: EncodedQuestion): Int32Array[] {
  const { answers, answerKind, answerIds } = question;
  return answerKind === 'regex' ? piecesOf(corpus, regexMatches(corpus.text(block), answers)) : answerIds;
}

function piecesOf({ tokenizer }: Corpus, texts: readonly string[]): Int32Array[] {
  return texts.map((text) => tokenizer.encode(text).ids).filter((ids) => ids.length > 0);
}

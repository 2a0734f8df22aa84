import { needWords } from '../datasets/question-text.ts';
import { encodeQuestions, questionVectors } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import { findBlocks } from '../retrieval/hybrid.ts';
import { hybridBm25 } from './bm25.ts';
import { existingIndex, openRunIndex } from './build-index.ts';
import { type Context, runCorpus } from './context.ts';
import { disposeRetriever, type RetrieverModels, retrieverModels } from './fine-tuned.ts';

/** One block that was found for a question. */
export interface FoundPassage {
  /** From 1 on. */
  rank: number;
  /** Inner product of the two vectors; in hybrid retrieval with BM25's bonus, so that the order is that of both together. */
  score: number;
  title: string;
  document: string;
  text: string;
}

export interface RetrievedPassages {
  question: string;
  /** Best first. */
  passages: FoundPassage[];
}

/**
 * The best blocks for each question by the run's newest retriever, without reading an answer: it needs an index, and no
 * trained reader. Nothing in the run is changed.
 * @param top blocks for each question
 */
export async function retrievePassages(
  given: Context,
  questions: readonly string[],
  top: number,
): Promise<RetrievedPassages[]> {
  questions.forEach(needWords);
  const context: Context = { ...given, readOnly: true };
  const corpus = runCorpus(context);
  let models: RetrieverModels | undefined;
  try {
    const encoded = encodeQuestions(
      corpus,
      questions.map((question) => ({ question, answers: [] })),
    );
    models = await retrieverModels(context, corpus);
    const { query, document } = models;
    const index = openRunIndex(context, corpus, await existingIndex(context, document, corpus));
    let bm25: Bm25 | undefined;
    try {
      bm25 = await hybridBm25(context, corpus);
      const k = Math.min(top, corpus.blocks);
      const vectors = await questionVectors(query, corpus, encoded, context.config);
      const found = findBlocks({ index, bm25, config: context.config }, questions, vectors, k);
      return encoded.map(({ question }, b) => ({
        question,
        passages: Array.from({ length: found.counts[b] }, (_, i) => {
          const block = found.blocks[b * k + i];
          return {
            rank: i + 1,
            score: found.scores[b * k + i],
            title: corpus.title(block),
            document: corpus.documentId(block),
            text: corpus.text(block),
          };
        }),
      }));
    } finally {
      bm25?.close();
      index.close();
    }
  } finally {
    if (models) disposeRetriever(models);
    corpus.close();
  }
}

export function passageLines({ passages }: RetrievedPassages): string[] {
  if (passages.length === 0) return ['no block was found'];
  return passages.flatMap(({ rank, score, title, document, text }) => [
    `${rank}. ${title || document}   score ${score.toFixed(4)}`,
    `   ${text.replace(/\s+/g, ' ').trim()}`,
  ]);
}

import { needWords } from '../datasets/question-text.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import { encodeQuestions, questionVectors } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import { findBlocks } from '../retrieval/hybrid.ts';
import { hybridBm25 } from './bm25.ts';
import { existingIndex, newestRetriever, openRunIndex } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { fineTunedModels } from './fine-tuned.ts';

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
  const models: Model[] = [];
  try {
    const encoded = encodeQuestions(
      corpus,
      questions.map((question) => ({ question, answers: [] })),
    );
    let query: Model;
    let document: Model;
    if (hasWeights(context, 'finetune-qa')) {
      ({ model: query, embedder: document } = await fineTunedModels(context, corpus));
      models.push(query, document);
    } else {
      query = emptyModel(context, corpus);
      document = query;
      models.push(query);
      await stageWeights(context, newestRetriever(context), corpus, query, retrieverShapes(query));
    }
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
    for (const model of new Set(models)) disposeModel(model);
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

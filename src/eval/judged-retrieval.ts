import type { Corpus } from '../corpus/store/reader.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import { CANDIDATES, candidatesOf, combine } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import { progress } from '../system/progress.ts';
import { AT_ONCE } from './answer.ts';
import { rowOf } from './evaluate.ts';
import { firstOfEach } from './judged.ts';
import type { Ranking } from './rankings.ts';
import type { RetrievedDocuments } from './run-files.ts';

// Documents by each retriever, to be measured by judgements: a document has the rank of its best block.

/** Documents of a query that are measured. */
const DOCUMENTS = 100;

/** Most blocks retrieved for them. */
const MOST_BLOCKS = 1000;

/** Blocks of a query to retrieve for `DOCUMENTS` documents, where a document has several. */
export function blocksFor({ blocks, documents }: Pick<Corpus, 'blocks' | 'documents'>): number {
  return Math.min(MOST_BLOCKS, DOCUMENTS * Math.ceil(blocks / Math.max(1, documents)));
}

/** What each retriever found for each question, by the question's id. */
export interface JudgedRetrieval {
  /** By inner product alone. */
  dense: RetrievedDocuments;
  bm25: RetrievedDocuments;
  /** By both (hybrid.ts). */
  hybrid: RetrievedDocuments;
}

/**
 * The documents that each retriever finds, `DOCUMENTS` at most, by their best blocks.
 * @param weight of the hybrid
 * @param each gets the best block of each document, of the retriever that the settings ask for
 */
export async function retrieveDocuments(
  retrieval: Retrieval & Required<Pick<Retrieval, 'bm25'>>,
  questions: readonly (EncodedQuestion & { id: string })[],
  weight: number,
  each?: (ranking: Ranking) => void,
): Promise<JudgedRetrieval> {
  const { model, corpus, index, bm25, config } = retrieval;
  const retrieved: JudgedRetrieval = { dense: new Map(), bm25: new Map(), hybrid: new Map() };
  const most = blocksFor(corpus);
  const bar = progress('documents', questions.length, { unit: 'questions' });
  for (let at = 0; at < questions.length; at += AT_ONCE) {
    const part = questions.slice(at, at + AT_ONCE);
    const vectors = await questionVectors(model, corpus, part, config);
    const found = index.search(vectors, Math.max(most, CANDIDATES));
    for (const [q, question] of part.entries()) {
      const candidates = candidatesOf({ index, bm25 }, question.question, vectors, found, q);
      const by = {
        dense: rowOf(found, q),
        bm25: combine(candidates, 0, most),
        hybrid: combine(candidates, weight, most),
      };
      for (const [name, { blocks, scores }] of Object.entries(by)) {
        const documents = Array.from(blocks, corpus.documentId);
        const best = firstOfEach(documents).slice(0, DOCUMENTS);
        retrieved[name as keyof JudgedRetrieval].set(
          question.id,
          best.map((i) => documents[i]),
        );
        if (name !== (config.hybrid.weight === null ? 'dense' : 'hybrid')) continue;
        const of = (values: ArrayLike<number>) => best.map((i) => values[i]);
        each?.({ question, number: at + q + 1, blocks: of(blocks), scores: of(scores) });
      }
    }
    bar.at(at + part.length);
  }
  bar.end();
  return retrieved;
}

import type { Corpus } from '../corpus/store/reader.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { combine } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import { searchBoth } from './hybrid.ts';
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
  const { corpus, config } = retrieval;
  const retrieved: JudgedRetrieval = { dense: new Map(), bm25: new Map(), hybrid: new Map() };
  const most = blocksFor(corpus);
  for await (const { question, index, dense, candidates } of searchBoth(
    retrieval,
    questions,
    most,
    'documents',
  )) {
    const by = {
      dense,
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
      each?.({ question, number: index + 1, blocks: of(blocks), scores: of(scores) });
    }
  }
  return retrieved;
}

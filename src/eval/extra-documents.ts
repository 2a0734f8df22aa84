import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import { decodeBatch } from '../corpus/encoded-batch.ts';
import { type Batch, type SplitSettings, splitBatch } from '../corpus/split.ts';
import { blockHash } from '../corpus/store/layout.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { readDocuments } from '../datasets/documents.ts';
import type { Document } from '../datasets/types.ts';
import { blockSequences, embedAll, textFormat } from '../model/embedder.ts';
import type { Model } from '../model/model.ts';
import { keepBest } from '../retrieval/best.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import { type Graph, newGraph, searchGraph } from '../retrieval/graph.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { UserError } from '../system/errors.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';

// Documents given with a question: they are searched along with the corpus and its index for this question only.

/** A document given with a question; without an id, its title is the id. */
export type GivenDocument = Omit<Document, 'id'> & { id?: string };

/** UTF-16 units of all titles and texts together: some thousand blocks of 288 tokens. */
export const EXTRA_DOCUMENTS_LIMIT = 1 << 20;

interface Block {
  document: string;
  title: string;
  text: string;
  titleIds: Int32Array;
  bodyIds: Int32Array;
  sentenceStarts: Int32Array;
}

export interface ExtraDocuments {
  blocks: Block[];
  /** [n, P] their vectors, and a graph of these with the dtype of the run's index. */
  vectors: Float32Array;
  graph: Graph;
}

/** The documents of a file or folder in any format that `realm prepare` reads, or of one text file. */
export async function readExtraDocuments(path: string): Promise<Document[]> {
  if (path !== '-' && !existsSync(path)) {
    throw new UserError(`${path}: no such file; give the file or folder of documents with --documents FILE`);
  }
  const documents: Document[] = [];
  let size = 0;
  for await (const document of readDocuments(path)) {
    size += sizeOf(document);
    if (size > EXTRA_DOCUMENTS_LIMIT) throw tooLong(path);
    documents.push(document);
  }
  if (documents.some(({ text }) => text.trim() !== '')) return documents;
  throw new UserError(`${path}: holds no document with text; name another with --documents FILE`);
}

const sizeOf = ({ title, text }: GivenDocument) => title.length + text.length;

function tooLong(what: string): UserError {
  return new UserError(
    `${what}: more than ${EXTRA_DOCUMENTS_LIMIT} characters, too many to be read with a question; add it to the corpus with "realm prepare"`,
  );
}

/**
 * Splits documents into blocks and embeds these in the same way as the corpus and its index.
 * @param embedder the model with the document tower that made the index
 */
export async function makeExtraDocuments(
  documents: readonly GivenDocument[],
  { tokenizer }: Corpus,
  embedder: Model,
  { manifest }: SearchIndex,
  { text, index }: Config,
): Promise<ExtraDocuments> {
  if (documents.reduce((sum, document) => sum + sizeOf(document), 0) > EXTRA_DOCUMENTS_LIMIT) {
    throw tooLong('the extra documents');
  }
  const batch = {
    documents: documents.map(({ id, title, text }) => ({ id: id ?? title, title, text })),
    sentences: [],
  };
  const { splitting, blockTokens } = text;
  const settings = { articlesOnly: false, splitting, blockTokens, queryTokens: 0, sentences: false };
  const blocks = blocksOf(batch, tokenizer, settings);
  if (blocks.length === 0)
    throw new UserError('the extra documents: no document with text; give at least one');
  const vectors = await embedAll(
    embedder.params,
    embedder.documentTower,
    embedder.embedder,
    blockSequences(
      textFormat(tokenizer, embedder.embedder),
      blocks.map(({ titleIds, bodyIds }) => ({ title: titleIds, body: bodyIds })),
      blockTokens,
    ),
    index.tokensPerBatch,
  );
  // A graph even for so few, so that their scores are rounded like those of the index; its search examines all of them.
  const expansion = Math.max(blocks.length, index.efSearch);
  const graph = newGraph({
    dimensions: manifest.dimensions,
    dtype: manifest.dtype,
    m: 32,
    efConstruction: expansion,
    efSearch: expansion,
  });
  graph.add(
    BigUint64Array.from(blocks, (_, i) => BigInt(i)),
    vectors,
    1,
  );
  return { blocks, vectors, graph };
}

function blocksOf(batch: Batch, tokenizer: WordPiece, settings: SplitSettings): Block[] {
  const blocks: Block[] = [];
  let document: Pick<Block, 'document' | 'title' | 'titleIds'>;
  const none = () => {
    throw new Error('extra documents have no sentences of X');
  };
  decodeBatch(splitBatch(batch, tokenizer, settings), {
    document(index, titleIds) {
      const { id, title } = batch.documents[index];
      document = { document: id, title, titleIds: titleIds.slice() };
    },
    block(text, ids, starts) {
      blocks.push({ ...document, text, bodyIds: ids.slice(), sentenceStarts: Int32Array.from(starts) });
    },
    sentence: none,
    externalSentence: none,
  });
  return blocks;
}

/** What is searched: blocks, their vectors, and their words in hybrid retrieval. */
interface Searched {
  corpus: Corpus;
  index: Retrieval['index'];
  bm25?: Pick<Bm25, 'search' | 'scores' | 'textScores'>;
}

/** The corpus with the extra blocks after its own, and searches over both, by inner product and by BM25. */
export function withExtraDocuments(
  { corpus, index, bm25 }: Searched,
  { blocks, vectors, graph }: ExtraDocuments,
): Pick<Retrieval, 'corpus' | 'index' | 'bm25'> {
  const own = corpus.blocks;
  const either =
    <T>(inCorpus: (block: number) => T, inExtra: (block: Block) => T) =>
    (block: number) =>
      block < own ? inCorpus(block) : inExtra(blocks[block - own]);
  return {
    corpus: {
      ...corpus,
      blocks: own + blocks.length,
      title: either(corpus.title, (b) => b.title),
      text: either(corpus.text, (b) => b.text),
      documentId: either(corpus.documentId, (b) => b.document),
      titleIds: either(corpus.titleIds, (b) => b.titleIds),
      bodyIds: either(corpus.bodyIds, (b) => b.bodyIds),
      bodyLength: either(corpus.bodyLength, (b) => b.bodyIds.length),
      sentenceStarts: either(corpus.sentenceStarts, (b) => b.sentenceStarts),
      hash: either(corpus.hash, (b) => blockHash(b.title, b.text)),
    },
    index: {
      search(queries, k) {
        const found = index.search(queries, k);
        const n = found.counts.length;
        const more = searchGraph(graph, queries, n, Math.min(k, blocks.length), 1);
        keepBest(found, { ...more, blocks: more.blocks.map((block) => (block < 0 ? block : own + block)) });
        return found;
      },
      vectors(wanted) {
        const inCorpus = wanted.filter((block) => block < own);
        const read = index.vectors(inCorpus);
        const P = vectors.length / blocks.length;
        const rows = new Float32Array(wanted.length * P);
        let next = 0;
        wanted.forEach((block, i) => {
          const row = block < own ? ([read, next++] as const) : ([vectors, block - own] as const);
          rows.set(row[0].subarray(row[1] * P, (row[1] + 1) * P), i * P);
        });
        return rows;
      },
    },
    bm25: bm25 && bm25WithExtra(bm25, own, blocks),
  };
}

/** BM25 over the corpus and the extra blocks, whose words weigh as the corpus has it. */
function bm25WithExtra(
  bm25: Pick<Bm25, 'search' | 'scores' | 'textScores'>,
  own: number,
  blocks: readonly Block[],
): Pick<Bm25, 'search' | 'scores'> {
  const texts = blocks.map(({ title, text }) => `${title} ${text}`);
  return {
    search(question, k) {
      const found = bm25.search(question, k);
      const scores = bm25.textScores(question, texts);
      const all = [
        ...Array.from(found.blocks, (block, i) => ({ block, score: found.scores[i] })),
        ...Array.from(scores, (score, i) => ({ block: own + i, score })).filter(({ score }) => score > 0),
      ]
        .sort((a, b) => b.score - a.score || a.block - b.block)
        .slice(0, k);
      return {
        blocks: Int32Array.from(all, ({ block }) => block),
        scores: Float64Array.from(all, ({ score }) => score),
      };
    },
    scores(question, wanted) {
      const list = Array.from(wanted);
      const inCorpus = bm25.scores(
        question,
        list.filter((block) => block < own),
      );
      const extra = bm25.textScores(question, texts);
      let next = 0;
      return Float64Array.from(list, (block) => (block < own ? inCorpus[next++] : extra[block - own]));
    },
  };
}

import { answerFinder } from '../answers/answer-finder.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { vectorLength } from '../model/head.ts';
import type { Model } from '../model/model.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import { encodeChosen } from '../retrieval/encode-blocks.ts';
import { exactBest } from '../retrieval/exact.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { progress } from '../system/progress.ts';
import { blocksOf } from '../train/qa-candidates.ts';
import { type Recall, recallOf } from './evaluate.ts';
import { RECALL_AT } from './probes.ts';

// Recall in a sample of the corpus, to compare a retriever before and after a stage. All blocks would have to be embedded
// twice, which may take longer than the stage. Figures are higher than in the whole corpus, and comparable to each other.

/** Evenly spread blocks in the sample, in addition to the blocks that answer the questions. */
export const SAMPLED_BLOCKS = 2000;
/** Best blocks by BM25 among which a question's answer is looked for, if the question does not name its document. */
const BM25_BLOCKS = 20;
/** Blocks that are embedded between two updates of the progress. */
const BLOCKS_AT_ONCE = 256;

/** Questions, and the blocks among which their answers are searched. */
export interface DevSample {
  questions: readonly EncodedQuestion[];
  /** Ascending block numbers; all blocks of a small corpus. */
  blocks: readonly number[];
}

/**
 * The sample for these questions: evenly spread blocks, the blocks of a question's own document (`passageId`) that hold an
 * answer, and for other questions the best block by BM25 that holds one. The same for the same corpus and questions.
 * @param openWords opens BM25 over the corpus, only if it is needed
 */
export async function devSample(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  openWords: () => Promise<Bm25>,
  spread = SAMPLED_BLOCKS,
): Promise<DevSample> {
  if (corpus.blocks <= spread)
    return { questions, blocks: Array.from({ length: corpus.blocks }, (_, block) => block) };
  const chosen = new Set<number>();
  for (let i = 0; i < spread; i++) chosen.add(Math.floor((i * corpus.blocks) / spread));
  const hasAnswer = answerFinder(corpus);
  const named = blocksOf(
    corpus,
    questions.flatMap(({ passageId }) => passageId ?? []),
  );
  const others: EncodedQuestion[] = [];
  for (const question of questions) {
    const gold = (named.get(question.passageId ?? '') ?? []).filter((block) => hasAnswer(block, question));
    if (gold.length === 0) others.push(question);
    for (const block of gold) chosen.add(block);
  }
  if (others.length > 0) {
    const words = await openWords();
    for (const question of others) {
      const { blocks } = words.search(question.question, BM25_BLOCKS);
      const found = blocks.find((block) => hasAnswer(block, question));
      if (found !== undefined) chosen.add(found);
    }
    words.close();
  }
  return { questions, blocks: [...chosen].sort((a, b) => a - b) };
}

/**
 * Recall@1, @5 and @20 in the sample, by exact search with the model's current towers.
 * @param frozen the index that the vectors of blocks are taken from, if the document tower is not the one that searches
 */
export async function sampleRecall(
  model: Model,
  corpus: Corpus,
  { questions, blocks }: DevSample,
  config: Config,
  frozen?: Pick<SearchIndex, 'vectors'>,
): Promise<Recall> {
  const P = vectorLength(model.embedder);
  const { tokensPerBatch } = config.index;
  const { blockTokens } = config.text;
  const queries = await questionVectors(model, corpus, questions, config);
  const bar = progress('dev recall', blocks.length, { unit: 'blocks' });
  async function* pieces() {
    for (let at = 0; at < blocks.length; at += BLOCKS_AT_ONCE) {
      const some = blocks.slice(at, at + BLOCKS_AT_ONCE);
      yield frozen
        ? frozen.vectors(Int32Array.from(some))
        : await encodeChosen(model, corpus, some, { blockTokens, tokensPerBatch });
    }
  }
  const k = Math.min(Math.max(...RECALL_AT), blocks.length);
  const found = await exactBest(pieces(), queries, P, k, bar.at);
  bar.end();
  const hasAnswer = answerFinder(corpus);
  const ranks = questions.map((question, i) => {
    const rows = found.blocks.subarray(i * k, i * k + found.counts[i]);
    const rank = rows.findIndex((row) => hasAnswer(blocks[row], question));
    return rank < 0 ? Infinity : rank;
  });
  return recallOf(ranks, RECALL_AT);
}

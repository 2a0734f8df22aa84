import type { answerFinder } from '../answers/answer-finder.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { BM25_LIMIT, bm25 } from '../retrieval/bm25.ts';
import { UserError } from '../system/errors.ts';

// Blocks that a question is trained with in addition to those that its search finds: gold blocks and hard negatives. ORQA
// and REALM use neither; DPR trains with both (Karpukhin et al. 2020, section 3.2).

type HasAnswer = ReturnType<typeof answerFinder>;

/**
 * The blocks retrieved for a question, best first, followed by its gold blocks and its hard negatives. If no gold block
 * is among those that the reader reads, the first gold block replaces the last of these.
 * @param readerBlocks how many of the first blocks are read
 */
export function joinCandidates(
  retrieved: readonly number[],
  gold: readonly number[],
  negatives: readonly number[],
  readerBlocks: number,
): number[] {
  const read = new Set(retrieved.slice(0, readerBlocks));
  const moved = gold.length > 0 && !gold.some((block) => read.has(block)) ? [gold[0]] : [];
  const rest = retrieved.filter((block) => !moved.includes(block));
  const before = Math.max(0, readerBlocks - moved.length);
  return [...new Set([...rest.slice(0, before), ...moved, ...rest.slice(before), ...gold, ...negatives])];
}

/** The blocks of the documents with these ids, in order. Reads through the whole corpus once. */
function blocksOf(corpus: Corpus, ids: Iterable<string>): Map<string, number[]> {
  const blocks = new Map<string, number[]>();
  for (const id of ids) blocks.set(id, []);
  for (let block = 0; blocks.size > 0 && block < corpus.blocks; block++) {
    blocks.get(corpus.documentId(block))?.push(block);
  }
  return blocks;
}

const isFound = (blocks: Map<string, number[]>) => [...blocks.values()].some((own) => own.length > 0);

/**
 * The blocks of each question's own document (`passageId`) that hold an answer, in order; may be empty.
 * A `UserError` if no question's document is in the corpus.
 */
export function goldBlocks(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  hasAnswer: HasAnswer,
): (question: EncodedQuestion) => number[] {
  const blocks = blocksOf(
    corpus,
    questions.flatMap(({ passageId }) => passageId ?? []),
  );
  if (!isFound(blocks)) {
    throw new UserError(
      `qa.gold: ${blocks.size === 0 ? 'no training question names its document' : 'none of the documents that the training questions name is in the corpus'}; give questions with "passage_id", or leave qa.gold false`,
    );
  }
  return (question) =>
    (blocks.get(question.passageId ?? '') ?? []).filter((block) => hasAnswer(block, question));
}

/** How many of BM25's best blocks are searched for those without an answer, in addition to the number wanted. */
const EXTRA_BLOCKS = 50;

/**
 * At most `n` blocks without an answer for each question: from the first `n` documents that its data set names
 * (`negativeIds`), or if none of these is in the corpus, the best by BM25, searched once. If the corpus is too large for
 * BM25, such questions get no hard negatives; if this concerns all questions, it is a `UserError`.
 */
export function hardNegatives(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  n: number,
  hasAnswer: HasAnswer,
): (question: EncodedQuestion) => number[] {
  const idsOf = ({ negativeIds = [] }: EncodedQuestion) => negativeIds.slice(0, n);
  const named = blocksOf(corpus, questions.flatMap(idsOf));
  const namedFor = (question: EncodedQuestion) => idsOf(question).flatMap((id) => named.get(id) ?? []);
  if (corpus.blocks > BM25_LIMIT && !isFound(named)) {
    throw new UserError(
      `qa.hardNegatives: BM25 keeps its index in memory and takes at most ${BM25_LIMIT} blocks, the corpus has ${corpus.blocks}; set it to 0, or give DPR's questions with "hard_negative_ctxs" of this corpus`,
    );
  }
  const search =
    corpus.blocks <= BM25_LIMIT && questions.some((question) => namedFor(question).length === 0)
      ? bm25(corpus)
      : () => [];
  const known = new WeakMap<EncodedQuestion, number[]>();
  return (question) => {
    let blocks = known.get(question);
    if (!blocks) {
      const all = namedFor(question);
      blocks = (all.length > 0 ? all : search(question.question, n + EXTRA_BLOCKS))
        .filter((block) => !hasAnswer(block, question))
        .slice(0, n);
      known.set(question, blocks);
    }
    return blocks;
  };
}

/** `joinCandidates` according to the settings: with neither setting, only the retrieved blocks. */
export function candidateMaker(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  { gold, hardNegatives: n, readerBlocks }: Config['qa'],
  hasAnswer: HasAnswer,
): (question: EncodedQuestion, retrieved: readonly number[]) => number[] {
  const none = () => [];
  const golds = gold ? goldBlocks(corpus, questions, hasAnswer) : none;
  const negatives = n > 0 ? hardNegatives(corpus, questions, n, hasAnswer) : none;
  return (question, retrieved) =>
    joinCandidates(retrieved, golds(question), negatives(question), readerBlocks);
}

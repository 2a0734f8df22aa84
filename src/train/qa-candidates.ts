import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { BM25_LIMIT, bm25 } from '../eval/bm25.ts';
import type { answerFinder } from './answer-finder.ts';
import type { EncodedQuestion } from './qa.ts';

// Blocks that a question is trained with beside those that its search finds. ORQA and REALM have none of them; DPR trains
// with both (Karpukhin et al. 2020, section 3.2).

type HasAnswer = ReturnType<typeof answerFinder>;

/**
 * The blocks retrieved for a question, best first, with its gold and its hard negatives behind them. The first gold block
 * takes the last of the reader's places where no gold block has one.
 * @param readerBlocks how many of the first are read
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

/**
 * The blocks of each question's own document (`passageId`) that hold an answer, in their order; none where there is none.
 * Goes through the whole corpus once. A `UserError` where no question's document is in it.
 */
export function goldBlocks(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  hasAnswer: HasAnswer,
): (question: EncodedQuestion) => number[] {
  const blocks = new Map<string, number[]>();
  for (const { passageId } of questions) if (passageId !== undefined) blocks.set(passageId, []);
  let found = 0;
  for (let block = 0; blocks.size > 0 && block < corpus.blocks; block++) {
    const own = blocks.get(corpus.documentId(block));
    own?.push(block);
    if (own) found++;
  }
  if (found === 0) {
    throw new UserError(
      `qa.gold: ${blocks.size === 0 ? 'no training question names its document' : 'none of the documents that the training questions name is in the corpus'}; give questions with "passage_id", or leave qa.gold false`,
    );
  }
  return (question) =>
    (blocks.get(question.passageId ?? '') ?? []).filter((block) => hasAnswer(block, question));
}

/** How many of BM25's best are looked through for those without an answer, beside the number wanted. */
const SPARE = 50;

/** The `n` best blocks by BM25 that hold no answer, for each question: searched for once. */
export function hardNegatives(
  corpus: Corpus,
  n: number,
  hasAnswer: HasAnswer,
): (question: EncodedQuestion) => number[] {
  if (corpus.blocks > BM25_LIMIT) {
    throw new UserError(
      `qa.hardNegatives: BM25 keeps its index in memory and takes at most ${BM25_LIMIT} blocks, the corpus has ${corpus.blocks}; set it to 0`,
    );
  }
  const search = bm25(corpus);
  const known = new WeakMap<EncodedQuestion, number[]>();
  return (question) => {
    let blocks = known.get(question);
    if (!blocks) {
      blocks = search(question.question, n + SPARE)
        .filter((block) => !hasAnswer(block, question))
        .slice(0, n);
      known.set(question, blocks);
    }
    return blocks;
  };
}

/** `joinCandidates` as the settings have it: with neither setting, what was retrieved. */
export function candidateMaker(
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  { gold, hardNegatives: n, readerBlocks }: Config['qa'],
  hasAnswer: HasAnswer,
): (question: EncodedQuestion, retrieved: readonly number[]) => number[] {
  const none = () => [];
  const golds = gold ? goldBlocks(corpus, questions, hasAnswer) : none;
  const negatives = n > 0 ? hardNegatives(corpus, n, hasAnswer) : none;
  return (question, retrieved) =>
    joinCandidates(retrieved, golds(question), negatives(question), readerBlocks);
}

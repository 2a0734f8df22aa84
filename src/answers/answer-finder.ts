import type { Corpus } from '../corpus/store/reader.ts';
import type { Accepted } from '../datasets/types.ts';
import { foldedHasAnswer, foldText } from './has-answer.ts';
import { regexMatch } from './metrics.ts';

/** Texts in memory, about 100 MiB at 1 KiB each. The same blocks are retrieved for many questions. */
const TEXTS_KEPT = 100_000;

/**
 * `hasAnswer` for blocks of the corpus, thousands for each question: a text is read and folded once. (5,000 texts of SQuAD
 * took 21 to 54 ms of processor time to read, 12 to 30 to fold and search, and less than 8 to search alone.)
 */
export function answerFinder(corpus: Corpus): (block: number, accepted: Accepted) => boolean {
  const folded = keeping((block) => foldText(corpus.text(block)));
  const raw = keeping(corpus.text);
  return (block, { answers, answerKind }) =>
    answerKind === 'regex' ? regexMatch(raw(block), answers, 'dpr') : foldedHasAnswer(folded(block), answers);
}

function keeping(make: (block: number) => string): (block: number) => string {
  const kept = new Map<number, string>();
  return (block) => {
    let text = kept.get(block);
    if (text === undefined) {
      text = make(block);
      if (kept.size < TEXTS_KEPT) kept.set(block, text);
    }
    return text;
  };
}

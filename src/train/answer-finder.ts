import type { Accepted } from '../corpus/qa.ts';
import type { Corpus } from '../corpus/store.ts';
import { foldedHasAnswer, foldText } from '../eval/has-answer.ts';
import { regexMatch } from '../eval/metrics.ts';

/** Texts held: at 1 KiB each some 100 MiB. The same blocks come back for many questions. */
const TEXTS_KEPT = 100_000;

/**
 * `hasAnswer` for blocks of the corpus, thousands a question: a text is read and folded once. (Of 54 ms that a question
 * with 5,000 blocks took, reading and folding took 20 to 30 even with texts that were held but not folded.)
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

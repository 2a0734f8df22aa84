import { isCorrect, type Protocol } from '../answers/metrics.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { Model } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { closedBookAnswers } from '../train/closed-book.ts';

/** Number of questions answered in one call of the model. */
const AT_ONCE = 256;

/** For each question 1 if the baseline answers it right, else 0. */
export async function closedBookMatches(
  model: Model,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  config: Config,
  protocol: Protocol = 'orqa',
): Promise<number[]> {
  const matches: number[] = [];
  for (let at = 0; at < questions.length; at += AT_ONCE) {
    const part = questions.slice(at, at + AT_ONCE);
    const texts = await closedBookAnswers(model, corpus.tokenizer, part, config);
    matches.push(...texts.map((text, i) => Number(isCorrect(text, part[i], protocol))));
  }
  return matches;
}

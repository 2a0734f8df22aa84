import { answerQuestions } from '../eval/answer.ts';
import { encodeQuestions } from '../train/qa.ts';
import { type Context, runCorpus } from './context.ts';
import { fineTuned } from './eval.ts';

/** One answer with the passage it stands in. */
export interface AskAnswer {
  answer: string;
  /** Probability among all spans of all blocks read. */
  probability: number;
  /** p(z|x) of its block among those read, and p(y|z,x) of the answer within it. */
  prior: number;
  likelihood: number;
  title: string;
  document: string;
  passage: string;
  /** Characters of the answer in the passage. */
  start: number;
  end: number;
}

/** Answers one question, best answer first, one a block read. */
export async function ask(context: Context, question: string): Promise<AskAnswer[]> {
  const corpus = runCorpus(context);
  const { model, index } = await fineTuned(context, corpus);
  try {
    const [{ answers }] = await answerQuestions(
      model,
      corpus,
      index,
      encodeQuestions(corpus, [{ question, answers: [] }]),
      context.config,
      1,
    );
    return answers.map(({ text, block, start, end, probability, prior, likelihood }) => ({
      answer: text,
      probability,
      prior,
      likelihood,
      title: corpus.title(block),
      document: corpus.documentId(block),
      passage: corpus.text(block),
      start,
      end,
    }));
  } finally {
    index.close();
    corpus.close();
  }
}

/** The best answer with its passage, then the runners-up. */
export function askLines(answers: readonly AskAnswer[]): string[] {
  if (answers.length === 0) return ['no block was retrieved, so there is nothing to read an answer from'];
  const [best, ...others] = answers;
  const percent = (p: number) => `${(100 * p).toFixed(1)} %`;
  return [
    best.answer,
    '',
    `  ${best.title}: ${best.passage.slice(0, best.start)}[${best.passage.slice(best.start, best.end)}]${best.passage.slice(best.end)}`,
    `  p(z|x) ${percent(best.prior)}   p(y|z,x) ${percent(best.likelihood)}   in all ${percent(best.probability)}`,
    ...(others.length > 0 ? ['', 'also read:'] : []),
    ...others.map(
      (a) =>
        `  ${a.answer} (${a.title}; p(z|x) ${percent(a.prior)}, p(y|z,x) ${percent(a.likelihood)}, in all ${percent(a.probability)})`,
    ),
  ];
}

import { closedBookMatches } from '../eval/closed-book.ts';
import { mean } from '../eval/statistics.ts';
import { encodeQuestions } from '../model/questions.ts';
import { UserError } from '../system/errors.ts';
import { closedBookShapes, closedBookStep } from '../train/closed-book.ts';
import { train } from '../train/loop.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus, stageWeights } from './context.ts';
import { readTrainQuestions, testQuestions } from './questions.ts';

/**
 * Fine-tunes the pretrained reader on the training questions to answer without documents, and measures it on the test
 * questions; undefined if a signal stopped the training.
 */
export async function closedBook(
  context: Context,
): Promise<{ questions: number; exactMatch: number } | undefined> {
  const { config } = context;
  const training = await readTrainQuestions(context);
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const shapes = closedBookShapes(model);
  firstWeights(context, model, shapes);
  await stageWeights(context, 'pretrain', corpus, model, shapes);
  const questions = encodeQuestions(corpus, training);
  if (!questions.some((q) => q.answerIds.length > 0)) {
    throw new UserError(
      `${config.data.train}: its answers are regular expressions, and without documents there is no text to learn; this baseline needs questions with plain answers`,
    );
  }
  const stage = closedBookStep(model, shapes, corpus.tokenizer, questions, config);
  try {
    const { stopped } = await train({
      name: 'closed book',
      model,
      shapes,
      ...loopSettings(context, 'closed-book', corpus),
      step: stage.step,
    });
    if (stopped) return undefined;
    const test = await testQuestions(context, corpus);
    const exactMatch = mean(await closedBookMatches(model, corpus, test, config));
    return { questions: test.length, exactMatch };
  } finally {
    stage.dispose();
    corpus.close();
  }
}

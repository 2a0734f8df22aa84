import { resolve } from 'node:path';
import { maskedMetrics, scoreMasked, sentencesOf, untrainedSentences } from '../eval/masked.ts';
import type { MetricValues } from '../eval/metric-table.ts';
import { pretrainedShapes } from '../model/model.ts';
import { SECTION } from '../run/stages.ts';
import { say } from '../system/progress.ts';
import { stepsDone } from '../train/checkpoints.ts';
import { matchingIndex } from './build-index.ts';
import { type Context, emptyModel, runCorpus, stageWeights } from './context.ts';
import { record } from './evaluation.ts';

/** How well the pretrained model guesses masked salient spans of sentences that it was not trained on. */
export async function evalMasked(
  context: Context,
  metric: 'perplexity' | 'utility',
  file?: string,
): Promise<{
  stage: string;
  file: string | null;
  questions: number;
  heldOut: boolean;
  figures: MetricValues;
}> {
  const { run, config } = context;
  const corpus = runCorpus(context);
  const given = file === undefined ? undefined : await sentencesOf(resolve(file), corpus, config);
  const model = emptyModel(context, corpus);
  await stageWeights(context, 'pretrain', corpus, model, pretrainedShapes(model));
  const index = await matchingIndex(context, 'pretrain', model, corpus);
  try {
    // Both stages go through the sentences in the same order, from the first.
    const trained = (['reader-warmup', 'pretrain'] as const).map(
      (stage) => (stepsDone(run.checkpoint(stage), config.train.use) ?? 0) * config[SECTION[stage]].batch,
    );
    const { examples, heldOut } = given ?? untrainedSentences(corpus, config, Math.max(...trained));
    if (!heldOut) {
      say(
        `${metric}: pretraining has been through all ${corpus.sentences.count} sentences, so these are none that it has not seen; give others with --sentences FILE`,
      );
    }
    const scores = await scoreMasked(model, corpus, index, examples, config);
    const all = maskedMetrics(scores, config.seed);
    const { retrievalUtility, nullProbability, ...perplexity } = all;
    const result = {
      metric,
      stage: 'pretrain',
      file: file ? resolve(file) : null,
      questions: examples.length,
      heldOut,
      figures: metric === 'utility' ? { retrievalUtility, nullProbability } : perplexity,
    };
    record(run, { ...result, protocol: null });
    return result;
  } finally {
    index.close();
    corpus.close();
  }
}

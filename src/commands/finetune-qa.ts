import { resolve } from 'node:path';
import { readQuestions } from '../corpus/qa.ts';
import { UserError } from '../errors.ts';
import { pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { say } from '../progress.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { encodeQuestions, qaShapes, qaStep } from '../train/qa.ts';
import { matchingIndex, newestRetriever } from './build-index.ts';
import { type Context, emptyModel, firstWeights, runCorpus, stageWeights } from './context.ts';

/** Fine-tunes the pretrained model to answer questions with spans of retrieved blocks. */
export async function finetuneQa(context: Context): Promise<LoopResult> {
  const { run, config } = context;
  if (config.data.train === null) {
    throw new UserError(
      `${run.config}: data.train names no file; give the JSONL of your training questions with --set data.train=FILE`,
    );
  }
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const stage = newestRetriever(context);
  if (stage === 'pretrain') {
    // The span scorer is new in this stage; everything else comes from pretraining.
    firstWeights(context, model, readerTowerShapes(model));
    stageWeights(context, 'pretrain', model, pretrainedShapes(model));
  } else {
    say(
      "finetune-qa: this run has not been pretrained; the retriever is the inverse cloze task's, the reader starts afresh",
    );
    stageWeights(context, 'ict', model, retrieverShapes(model));
    firstWeights(context, model, readerTowerShapes(model));
  }
  const index = await matchingIndex(context, stage, model, corpus);
  const questions = encodeQuestions(corpus, readQuestions(resolve(config.data.train)));
  const steps = qaStep(model, corpus, index, questions, config);
  try {
    return await train({
      name: 'finetune-qa',
      model,
      shapes: qaShapes(model),
      steps: config.qa.steps,
      optimizer: config.qa.optimizer,
      checkpoint: run.checkpoint('qa'),
      metrics: run.metrics('qa'),
      ...config.train,
      step: steps.step,
    });
  } finally {
    steps.dispose();
    index.close();
    corpus.close();
  }
}

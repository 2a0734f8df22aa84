import { resolve } from 'node:path';
import { readQuestions } from '../corpus/qa.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { evaluateAnswers } from '../eval/evaluate.ts';
import { pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { say } from '../progress.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { type EncodedQuestion, encodeQuestions, qaShapes, qaStep } from '../train/qa.ts';
import { matchingIndex, newestRetriever } from './build-index.ts';
import { type Context, emptyModel, firstWeights, loopSettings, runCorpus, stageWeights } from './context.ts';

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
    stageWeights(context, 'pretrain', corpus, model, pretrainedShapes(model));
  } else {
    say(
      "finetune-qa: this run has not been pretrained; the retriever is the inverse cloze task's, the reader starts afresh",
    );
    stageWeights(context, 'ict', corpus, model, retrieverShapes(model));
    firstWeights(context, model, readerTowerShapes(model));
  }
  const index = await matchingIndex(context, stage, model, corpus);
  const questions = encodeQuestions(
    corpus,
    await readQuestions(resolve(config.data.train), config.data.answers),
  );
  const dev = await devQuestions(context, corpus);
  const evaluate = async () => {
    const { exactMatch } = await evaluateAnswers(model, corpus, index, dev, config, [1]);
    return { score: exactMatch, devExactMatch: exactMatch };
  };
  const steps = qaStep(model, corpus, index, questions, config);
  try {
    return await train({
      name: 'finetune-qa',
      model,
      shapes: qaShapes(model),
      ...loopSettings(context, 'qa', corpus),
      step: steps.step,
      ...(dev.length > 0 ? { evaluate } : {}),
    });
  } finally {
    steps.dispose();
    index.close();
    corpus.close();
  }
}

/** The questions that tell which checkpoint is the best: evenly spread over data.dev. */
async function devQuestions({ config }: Context, corpus: Corpus): Promise<EncodedQuestion[]> {
  const n = config.qa.devQuestions;
  if (config.data.dev === null || n === 0) return [];
  const all = await readQuestions(resolve(config.data.dev), config.data.answers);
  const step = Math.max(1, all.length / n);
  return encodeQuestions(
    corpus,
    Array.from({ length: Math.min(n, all.length) }, (_, i) => all[Math.floor(i * step)]),
  );
}

import { createHash } from 'node:crypto';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { Question } from '../datasets/types.ts';
import { type DevSample, devSample, sampleRecall } from '../eval/dev-sample.ts';
import { RECALL_AT, RECALL_QUESTIONS } from '../eval/probes.ts';
import type { Model } from '../model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../model/questions.ts';
import { whole } from '../report/format.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import type { RetrieverStage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { say, warn } from '../system/progress.ts';
import type { Evaluation } from '../train/loop.ts';
import { runBm25 } from './bm25.ts';
import type { Context } from './context.ts';
import { readDevQuestions, spread } from './questions.ts';

// What a stage does to results on questions that it does not train on: measured before its first step and after its last,
// on the same questions and blocks, so that a stage that makes a retriever or reader worse says so.

/** A stage has made a result worse if it has lost more than this share of the questions. */
const TOLERATED_LOSS = 0.01;

/** What is measured, and how. */
interface Measured {
  stage: RetrieverStage;
  model: Model;
  corpus: Corpus;
  /** Dev questions of recall. */
  questions: readonly EncodedQuestion[];
  /** The index that blocks keep their vectors of, if the stage does not train the document tower. */
  frozen?: SearchIndex;
  /** Exact match on dev questions after `step` steps. */
  exactMatch?(step: number): Promise<number>;
}

/**
 * All questions of data.dev; none if it names no file. Pretraining and its warm-up need no questions, so they do not fail
 * if the file cannot be read, unless the best checkpoint is chosen by it.
 */
export async function devQuestions(context: Context, stage: RetrieverStage): Promise<Question[]> {
  const { train } = context.config;
  try {
    return await readDevQuestions(context);
  } catch (error) {
    if (!(error instanceof UserError) || stage === 'finetune-qa' || train.bestBy === 'recall') throw error;
    warn(`${stage}: recall is not logged, because data.dev cannot be read: ${error.message}`);
    return [];
  }
}

/** Those of them on which recall is measured: at most RECALL_QUESTIONS, evenly spread. */
export function recallQuestions(corpus: Corpus, dev: readonly Question[]): EncodedQuestion[] {
  return encodeQuestions(corpus, spread(dev, RECALL_QUESTIONS));
}

/** What the training loop of a stage measures; undefined without dev questions. */
export function devEvaluation(context: Context, measured: Measured): Evaluation | undefined {
  const { config } = context;
  const { stage, model, corpus, questions, frozen, exactMatch } = measured;
  if (config.data.dev === null)
    say(`${stage}: data.dev names no questions, so recall is not measured before and after training`);
  if (questions.length === 0) return undefined;
  let sample: DevSample | undefined;
  const byRecall = config.train.bestBy === 'recall';
  return {
    sha256: fingerprint(questions),
    async measure(step, when, start) {
      const metrics: Record<string, number> = {};
      let score: number | undefined;
      if (when !== 'checkpoint' || byRecall) {
        sample ??= await devSample(corpus, questions, () => runBm25(context, corpus));
        const recall = await sampleRecall(model, corpus, sample, config, frozen);
        for (const k of RECALL_AT) metrics[recallName(k)] = recall[k];
        const of = `${whole(questions.length)} dev questions (${blocksText(sample, corpus)})`;
        say(
          when === 'end' && start
            ? `${stage}: recall on ${of}: at the start ${recallText(start)}; at the end ${recallText(metrics)}`
            : `${stage}: recall on ${of} ${MOMENT[when] ?? `after ${step} steps`}: ${recallText(metrics)}`,
        );
        if (byRecall) score = RECALL_AT.reduce((sum, k) => sum + recall[k], 0) / RECALL_AT.length;
      }
      if (exactMatch) {
        metrics.devExactMatch = await exactMatch(step);
        score ??= metrics.devExactMatch;
      }
      const worse = when === 'end' && start ? lost(start, metrics) : [];
      if (worse.length > 0)
        warn(`${stage}: made the results worse: ${worse.join(', ')}; ${advice(stage, config)}`);
      return { metrics, ...(score !== undefined && { score }) };
    },
  };
}

const MOMENT: Record<string, string | undefined> = { start: 'at the start', end: 'at the end' };

const recallName = (k: number) => `devRecall@${k}`;

function recallText(metrics: Record<string, number>): string {
  return RECALL_AT.map((k) => `@${k} ${percent(metrics[recallName(k)])}`).join(', ');
}

function blocksText({ blocks }: DevSample, corpus: Corpus): string {
  return blocks.length === corpus.blocks
    ? `all ${whole(corpus.blocks)} blocks`
    : `${whole(blocks.length)} of ${whole(corpus.blocks)} blocks`;
}

/** `recall@1 61.0 % to 55.5 %` for every metric that fell by more than is tolerated. */
function lost(start: Record<string, number>, end: Record<string, number>): string[] {
  return Object.keys(end)
    .filter((name) => start[name] - end[name] > TOLERATED_LOSS)
    .map(
      (name) =>
        `${LABELS[name] ?? name.replace('devRecall', 'recall')} ${percent(start[name])} to ${percent(end[name])}`,
    );
}

const LABELS: Record<string, string | undefined> = { devExactMatch: 'exact match' };

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** Which settings to look at. */
function advice(stage: RetrieverStage, { ict, pretrain, qa }: Config): string {
  switch (stage) {
    case 'ict-warmup':
      return `lower ict.optimizer.learningRate (${ict.optimizer.learningRate}), or set ict.steps to 0 if model.initial is a sentence encoder`;
    case 'pretrain':
      return `lower pretrain.optimizer.learningRate (${pretrain.optimizer.learningRate}), or set qa.retriever to ict-warmup to fine-tune the retriever that was there before`;
    case 'finetune-qa':
      return `set qa.retrieverLearningRate below ${qa.retrieverLearningRate ?? qa.optimizer.learningRate}, or see qa.contrastive, qa.gold and qa.hardNegatives`;
  }
}

/** SHA-256 of questions and answers. */
function fingerprint(questions: readonly EncodedQuestion[]): string {
  const hash = createHash('sha256');
  for (const { question, answers } of questions) hash.update(`${JSON.stringify([question, answers])}\n`);
  return hash.digest('hex');
}

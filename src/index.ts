/**
 * realm as a library. A run is a folder with settings, a corpus, weights and an index; the functions are the stages of its
 * life, in their order, with the same names as the commands.
 *
 * Nothing is printed on stdout. Progress and remarks go to stderr. A mistake of the caller, such as a missing file, is a
 * `UserError`; its message is one sentence that says what to do. Any other error is a bug.
 *
 * A process computes on one engine, which the first `openRun` starts.
 * @module
 */
import { existsSync } from 'node:fs';
import type { Config } from './config.ts';
import type { PrepareCounts } from './corpus/counts.ts';
import { type EngineName, startEngine } from './engine.ts';
import type { Evaluation } from './eval/evaluate.ts';
import type { MetricValues } from './eval/metric-table.ts';
import { buildRunIndex } from './pipeline/build-index.ts';
import { type Context, goBack, needStage, runCorpus } from './pipeline/context.ts';
import {
  type AnswerEvalOptions,
  type AnswerEvaluation,
  evalExactMatch,
} from './pipeline/evaluate-answers.ts';
import { evalMasked } from './pipeline/evaluate-masked.ts';
import { evalRecall, type RecallEvaluation } from './pipeline/evaluate-recall.ts';
import type { EvalOptions } from './pipeline/evaluation.ts';
import { finetuneQa as finetune } from './pipeline/finetune-qa.ts';
import { ictWarmup as warmUp } from './pipeline/ict-warmup.ts';
import { openNewRun, prepareCorpus } from './pipeline/prepare.ts';
import { pretrain as train } from './pipeline/pretrain.ts';
import { openQaSession, type QaSession } from './pipeline/qa-session.ts';
import { readerWarmup as warmUpReader } from './pipeline/reader-warmup.ts';
import { report } from './pipeline/report.ts';
import { type RunStatus, statusOf } from './report/status.ts';
import type { IndexManifest } from './retrieval/manifest.ts';
import { lockRun, runConfig, runFolder, settingsOf } from './run/folder.ts';
import type { RetrieverStage, Stage } from './run/stages.ts';
import { UserError } from './system/errors.ts';
import type { Which } from './train/checkpoints.ts';
import type { LoopResult } from './train/loop.ts';

export { loadConfig } from './config.ts';
export type { AnsweredQuestion, AskAnswer } from './pipeline/qa-session.ts';
export { type Section, type Setting, settingsReference } from './settings.ts';
export { UserError } from './system/errors.ts';
export type {
  AnswerEvalOptions,
  AnswerEvaluation,
  Config,
  EngineName,
  EvalOptions,
  IndexManifest,
  LoopResult,
  MetricValues,
  PrepareCounts,
  QaSession,
  RecallEvaluation,
  RetrieverStage,
  RunStatus,
};

/** How `openRun` opens a run. */
export interface OpenOptions {
  /** A settings file, or the name of one that comes with realm, such as squad-open. A new run needs it. */
  config?: string;
  /** Settings as `name=value`, such as `qa.steps=500`. They are saved with the run unless it is opened `readOnly`. */
  set?: readonly string[];
  /** Seed of everything random. */
  seed?: number;
  /** What computes; `auto`, the default: the fastest engine that this machine has. */
  engine?: 'auto' | EngineName;
  /** Processor threads; all by default. */
  threads?: number;
  /** Only answer, evaluate and read: the run is not locked, and another process may train it. Settings are not saved. */
  readOnly?: boolean;
}

/** An open run: its paths, its settings, and the engine that computes. */
export interface OpenRun extends Context {
  /** Lets other processes work in the run again. */
  close(): void;
}

/** How a stage starts. */
export interface StageOptions {
  /** The checkpoint to resume from: the latest by default, the best, a step, or none to train the stage from scratch. */
  resume?: Which | 'none';
}

/**
 * Opens a run folder and starts the engine. A folder without a run becomes one with the settings of `options.config`, whose
 * data files are checked first. Until `close`, no other process can work in the run.
 * @param dir the folder of the run
 */
export async function openRun(dir: string, options: OpenOptions = {}): Promise<OpenRun> {
  const { config: file, set = [], seed, readOnly = false } = options;
  const run = runFolder(dir);
  let close = () => {};
  const lock = () => {
    close = lockRun(run, 'library');
  };
  try {
    let config: Config;
    if (existsSync(run.corpusManifest))
      config = runConfig(
        run,
        settingsOf({ config: file, set, seed }),
        readOnly ? undefined : lock,
        !readOnly,
      );
    else if (readOnly)
      throw new UserError(`${dir}: is not prepared; open it without readOnly and prepare it`);
    else ({ config } = await openNewRun({ run: dir, config: file, set: [...set], seed }, lock));
    const { name: engine } = await startEngine(options.engine ?? 'auto', { threads: options.threads });
    return { run, config, engine, ...(readOnly && { readOnly }), close: () => close() };
  } catch (error) {
    close();
    throw error;
  }
}

/** Makes the vocabulary and the corpus of blocks and sentences from the documents of the settings. */
export async function prepare(run: OpenRun): Promise<PrepareCounts> {
  return prepareCorpus(run.run, run.config);
}

/** Trains the retriever with the inverse cloze task (Lee et al. 2019). Resumes an interrupted training. */
export async function ictWarmup(run: OpenRun, options: StageOptions = {}): Promise<LoopResult> {
  return stage(run, 'ict-warmup', warmUp, options);
}

/**
 * Embeds all blocks and makes them the index of the run.
 * @param options.stage whose retriever embeds them; the furthest stage by default
 */
export async function buildIndex(
  run: OpenRun,
  options: { stage?: RetrieverStage } = {},
): Promise<IndexManifest> {
  return buildRunIndex(run, options.stage);
}

/**
 * Trains the reader to copy a masked span from a document that is given (`readerWarmup.steps`), for an encoder without a
 * masked-language-model head. Resumes an interrupted training.
 */
export async function readerWarmup(run: OpenRun, options: StageOptions = {}): Promise<LoopResult> {
  return stage(run, 'reader-warmup', warmUpReader, options);
}

/** Trains retriever and reader through retrieval, and refreshes the index (paper, section 3). Resumes an interrupted training. */
export async function pretrain(run: OpenRun, options: StageOptions = {}): Promise<LoopResult> {
  return stage(run, 'pretrain', train, options);
}

/** Fine-tunes on the questions of `data.train`. Resumes an interrupted training. */
export async function finetuneQa(run: OpenRun, options: StageOptions = {}): Promise<LoopResult> {
  return stage(run, 'finetune-qa', finetune, options);
}

async function stage(
  run: OpenRun,
  name: Stage,
  work: (context: Context) => Promise<LoopResult>,
  { resume = 'latest' }: StageOptions,
): Promise<LoopResult> {
  if (run.readOnly) throw new UserError(`${run.run.dir}: was opened readOnly; open it without that to train`);
  runCorpus(run).close(); // checks that the run is prepared, before a checkpoint is removed
  needStage(run.run, run.config, name, resume);
  goBack(run, name, resume);
  return work(run);
}

/**
 * Answers a file of questions with the fine-tuned model and measures exact match, F1 and recall. Writes the run's
 * predictions.jsonl.
 */
export async function evaluateAnswers(
  run: OpenRun,
  options: AnswerEvalOptions = {},
): Promise<AnswerEvaluation & Pick<Evaluation, 'exactMatch' | 'recall'>> {
  return evalExactMatch(run, options);
}

/**
 * Measures how often the retriever finds a block that holds an answer, next to BM25.
 * @param options.stage whose retriever; the pretrained one by default
 */
export async function evaluateRecall(
  run: OpenRun,
  options: EvalOptions & { stage?: RetrieverStage } = {},
): Promise<RecallEvaluation> {
  return evalRecall(run, options.stage, options);
}

/**
 * Measures the pretrained model on masked salient spans of sentences that it was not trained on.
 * @param metric perplexity of the masked word pieces, or what retrieval is worth for them (retrieval utility, in nats)
 * @param options.sentences a file of sentences; the untrained ones of the run by default
 */
export async function evaluateMasked(
  run: OpenRun,
  metric: 'perplexity' | 'utility',
  options: { sentences?: string } = {},
): Promise<{ stage: string; questions: number; heldOut: boolean; figures: MetricValues }> {
  return evalMasked(run, metric, options.sentences);
}

/** Opens the fine-tuned model and its index to answer questions. Close the session before the process ends. */
export async function openSession(run: OpenRun): Promise<QaSession> {
  return openQaSession(run);
}

/** What a run has and what is running in it. Only reads the folder; needs no engine. */
export function runStatus(dir: string): RunStatus {
  return statusOf(runFolder(dir));
}

/**
 * Writes one HTML page about one or several runs: curves, evaluations and examples. Needs no engine.
 * @param to the file; report.html in the first run by default
 * @returns the file, and its length in bytes
 */
export function writeReport(dirs: readonly string[], to?: string): { file: string; bytes: number } {
  return report(dirs, to);
}

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import type { Config } from '../config.ts';
import type { PrepareCounts } from '../corpus/counts.ts';
import { mean } from '../eval/statistics.ts';
import { lockRun, type Run, refuseOldRun, runConfig, runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { readJson, readText, writeFileAtomic } from '../system/files.ts';
import { duration, say } from '../system/progress.ts';
import type { LoopResult } from '../train/loop.ts';
import { generateWorld, worldFiles, writeWorld } from '../world/world.ts';
import { closedBook } from './closed-book.ts';
import { announceEngine, type Context, type RunOptions } from './context.ts';
import { evalExactMatch } from './evaluate-answers.ts';
import { evalRecall } from './evaluate-recall.ts';
import { finetuneQa } from './finetune-qa.ts';
import { checkNeeds, GATED_STAGES } from './gate.ts';
import { ictWarmup } from './ict-warmup.ts';
import { prepareCorpus } from './prepare.ts';
import { pretrain } from './pretrain.ts';

/** The demo's results, as in its `summary.json`. */
export interface DemoSummary {
  engine: string;
  seed: number;
  /** Wall time of the whole demo. */
  seconds: number;
  /** Indexes swapped in during pretraining. */
  refreshes: number;
  /** Recall@5 on the held-out questions before training on any question. */
  recall5: { 'ict-warmup': number; pretrain: number; bm25: number };
  /** Retrieval utility over the first and the last logged steps of pretraining, nats a masked word piece. */
  retrievalUtility: { first: number; last: number };
  exactMatch: number;
  exactMatchClosedBook: number;
  questions: number;
}

const inPackage = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** Generates a world and runs every stage on it; undefined if a signal stopped one. A second call resumes there. */
export async function demo(options: RunOptions & { yes?: boolean }): Promise<DemoSummary | undefined> {
  const { context, saveSettings } = await makeWorld(options);
  const { run, config } = context;
  const check = async () => {
    if (!options.yes) for (const name of GATED_STAGES) await checkNeeds(context, name);
  };
  const stage = stages(join(run.dir, 'demo.json'), expectedSeconds(config));
  const unlessStopped = async (training: Promise<LoopResult>) => ((await training).stopped ? undefined : {});

  const made = await stage('\n1 of 7  a world of invented people, towns, firms and books', DONE, async () => {
    const counts = await fillCorpus(context);
    await check(); // a world that is refused is not done: the next call may ask for another
    return counts;
  });
  await check(); // the world may be of an earlier call, with other settings
  saveSettings();
  const warm =
    made && (await stage('\n2 of 7  inverse cloze warm-up', DONE, () => unlessStopped(ictWarmup(context))));
  const ict =
    warm && (await stage('\n3 of 7  embeddings and index', RECALL, () => evalRecall(context, 'ict-warmup')));
  const pretrained =
    ict &&
    (await stage('\n4 of 7  pretraining through retrieval, the index refreshed live', DONE, () =>
      unlessStopped(pretrain(context)),
    ));
  const after =
    pretrained &&
    (await stage('\n5 of 7  retrieval, no question seen yet', RECALL, () => evalRecall(context, 'pretrain')));
  const tuned =
    after &&
    (await stage('\n6 of 7  fine-tuning on questions', DONE, () => unlessStopped(finetuneQa(context))));
  const answered =
    tuned && (await stage('         held-out questions', ANSWERS, () => evalExactMatch(context)));
  const closed =
    answered &&
    (await stage('\n7 of 7  the same questions without documents', ANSWERS, () => closedBook(context)));
  if (!closed) return undefined;

  const summary: DemoSummary = {
    engine: context.engine,
    seed: config.seed,
    seconds: Math.round(10 * stage.seconds()) / 10,
    refreshes: records(run.refreshes('pretrain')).length,
    recall5: { 'ict-warmup': ict.recall[5], pretrain: after.recall[5], bm25: after.bm25[5] },
    retrievalUtility: utility(run),
    exactMatch: answered.exactMatch,
    exactMatchClosedBook: closed.exactMatch,
    questions: answered.questions,
  };
  writeFileAtomic(run.summary, `${JSON.stringify(summary, null, 2)}\n`);
  return summary;
}

const share = z.number().min(0).max(1);
const at5 = z.looseObject({ 5: share });
/** What the demo needs of a stage's result when an earlier call has stored it. */
const DONE = z.looseObject({});
const RECALL = z.looseObject({ recall: at5, bm25: at5 });
const ANSWERS = z.looseObject({ exactMatch: share, questions: z.int().positive() });
const KEPT = z.record(z.string(), z.object({ seconds: z.number().nonnegative(), result: z.unknown() }));

/**
 * Runs each stage once. Its result and its seconds are stored in `file`, and a later call reads them there. A stage that
 * returns undefined is not finished. `seconds` is the time of all finished stages, in this process and earlier ones.
 */
function stages(file: string, expected: readonly number[]) {
  const remedy = `remove ${file}`;
  const kept: Record<string, { seconds: number; result: unknown }> = {};
  if (existsSync(file)) {
    const read = KEPT.safeParse(readJson(file, "the demo's results so far", remedy));
    if (!read.success)
      throw new UserError(`${file}: is not a valid record of the demo's results so far; ${remedy}`);
    Object.assign(kept, read.data);
  }
  const stage = async <T>(
    title: string,
    shape: z.ZodType,
    work: () => Promise<T | undefined>,
  ): Promise<T | undefined> => {
    if (Object.hasOwn(kept, title)) {
      const { result } = kept[title];
      if (shape.safeParse(result).success) return result as T;
      throw new UserError(`${file}: has no valid result of "${title.trim()}"; ${remedy}`);
    }
    say(title);
    const left = secondsLeft(
      expected,
      Object.values(kept).map(({ seconds }) => seconds),
    );
    if (left !== undefined) say(`about ${duration(left)} left for the whole demo`);
    const started = performance.now();
    const result = await work();
    if (result === undefined) return undefined;
    kept[title] = { seconds: (performance.now() - started) / 1000, result };
    writeFileAtomic(file, JSON.stringify(kept));
    return result;
  };
  return Object.assign(stage, { seconds: () => Object.values(kept).reduce((sum, s) => sum + s.seconds, 0) });
}

/** Expected seconds of each stage on two idle cores (docs/training.md, docs/engines.md), in the order of the stages. */
function expectedSeconds({ ict, pretrain, qa, closedBook }: Config): number[] {
  const training = { ict: 0.11 * ict.steps, pretrain: 0.1 * pretrain.steps, qa: 0.14 * qa.steps };
  return [1, training.ict, 2, training.pretrain, 2, training.qa, 2, 1 + 0.03 * closedBook.steps];
}

/**
 * Estimated seconds of the remaining stages, from the seconds of the finished ones; undefined before the first training.
 * @param expected seconds of all stages on some machine
 * @param taken seconds of the finished stages on this one
 */
export function secondsLeft(expected: readonly number[], taken: readonly number[]): number | undefined {
  if (taken.length < 2) return undefined;
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  return (sum(taken) / sum(expected.slice(0, taken.length))) * sum(expected.slice(taken.length));
}

/** Mean retrieval utility in the first and in the last tenth of pretraining. */
function utility(run: Run): { first: number; last: number } {
  const log = run.metrics('pretrain');
  const values = records(log).flatMap(({ retrievalUtility }) =>
    typeof retrievalUtility === 'number' ? [retrievalUtility] : [],
  );
  if (values.length === 0)
    throw new UserError(
      `${log}: has no metrics of pretraining, which the demo's summary needs; remove ${run.dir} to run it again`,
    );
  const n = Math.max(1, Math.floor(values.length / 10));
  return { first: mean(values.slice(0, n)), last: mean(values.slice(-n)) };
}

/** The records of a log, without a line that a kill has cut short. */
function records(path: string): Record<string, unknown>[] {
  const lines = existsSync(path) ? readText(path, 'log of this run', `remove ${path}`).split('\n') : [];
  return lines.flatMap((line) => {
    try {
      const record = JSON.parse(line);
      return typeof record === 'object' && record !== null ? [record] : [];
    } catch {
      return [];
    }
  });
}

/**
 * The settings of a run on generated worlds: the packaged file if the run is new and no other file is named.
 * @param data settings with the paths of the data; the user's own settings come after them
 */
export function worldSettings(
  run: Run,
  { config, seed, set }: Pick<RunOptions, 'config' | 'seed' | 'set'>,
  packagedConfig: string,
  data: readonly string[] = [],
): { config?: string; set: string[] } {
  const packaged = config === undefined && !existsSync(run.config);
  return {
    config: packaged ? inPackage(packagedConfig) : config,
    set: [...(seed === undefined ? [] : [`seed=${seed}`]), ...data, ...set],
  };
}

/** The run folder's configuration, not saved yet, with the generated data's place in it, and the engine. */
async function makeWorld(options: RunOptions): Promise<{ context: Context; saveSettings: () => void }> {
  const run = runFolder(options.run);
  refuseOldRun(run);
  const data = Object.entries(worldFiles(join(run.dir, 'data'))).map(
    ([name, path]) => `data.${name}=${path}`,
  );
  const settings = worldSettings(run, options, 'configs/world.yaml', data);
  const config = runConfig(run, settings, () => lockRun(run, 'demo'), false);
  return {
    context: { run, config, engine: await announceEngine(options) },
    saveSettings: () => runConfig(run, settings),
  };
}

async function fillCorpus({ run, config }: Context): Promise<PrepareCounts> {
  writeWorld(generateWorld({ seed: config.seed, ...config.world }), join(run.dir, 'data'));
  return prepareCorpus(run, config);
}

export function demoLines(s: DemoSummary): string[] {
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  const row = (name: string, value: string) => `${name.padEnd(52)} ${value.padStart(9)}`;
  return [
    '',
    row(`held-out questions`, String(s.questions)),
    row('recall@5 after the inverse cloze task', percent(s.recall5['ict-warmup'])),
    row('recall@5 after pretraining, no question seen yet', percent(s.recall5.pretrain)),
    row('recall@5 of BM25', percent(s.recall5.bm25)),
    row('retrieval utility, first steps (nats)', s.retrievalUtility.first.toFixed(2)),
    row('retrieval utility, last steps', s.retrievalUtility.last.toFixed(2)),
    row('exact match with retrieval', percent(s.exactMatch)),
    row('exact match from the null document alone', percent(s.exactMatchClosedBook)),
    row('live index refreshes', String(s.refreshes)),
    row(`time, ${s.engine} engine`, duration(s.seconds)),
  ];
}

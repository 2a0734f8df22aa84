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
import { evalExactMatch, evalRecall } from './evaluate.ts';
import { finetuneQa } from './finetune-qa.ts';
import { checkNeeds, GATED_STAGES } from './gate.ts';
import { ictWarmup } from './ict-warmup.ts';
import { prepareCorpus } from './prepare.ts';
import { pretrain } from './pretrain.ts';

/** What the demo reached, as in its `summary.json`. */
export interface DemoSummary {
  engine: string;
  seed: number;
  /** Wall time of the whole demo. */
  seconds: number;
  /** Indexes taken up while pretraining. */
  refreshes: number;
  /** Recall@5 on the held-out questions before any question was trained on. */
  recall5: { 'ict-warmup': number; pretrain: number; bm25: number };
  /** Retrieval utility over the first and the last logged steps of pretraining, nats a masked word piece. */
  retrievalUtility: { first: number; last: number };
  exactMatch: number;
  exactMatchClosedBook: number;
  questions: number;
}

const inPackage = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** Generates a world and takes it through every stage; undefined when a signal stopped one. A second call goes on from there. */
export async function demo(options: RunOptions & { yes?: boolean }): Promise<DemoSummary | undefined> {
  const { context, saveSettings } = await makeWorld(options);
  const { run, config } = context;
  const check = async () => {
    if (!options.yes) for (const name of GATED_STAGES) await checkNeeds(context, name);
  };
  const stage = stages(join(run.dir, 'demo.json'), shares(config));
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
    recall5: { 'ict-warmup': ict.recall[5], pretrain: after.recall[5], bm25: after.bm25![5] },
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
/** What is taken from the results of a stage, where they are kept from an earlier call. */
const DONE = z.looseObject({});
const RECALL = z.looseObject({ recall: at5, bm25: at5 });
const ANSWERS = z.looseObject({ exactMatch: share, questions: z.int().positive() });
const KEPT = z.record(z.string(), z.object({ seconds: z.number().nonnegative(), result: z.unknown() }));

/**
 * Runs each stage once: what it found, and how long it took, is kept in `file`, and a later call takes it from there.
 * A stage that gives undefined is not done. `seconds` is the time of all stages done, in this process and earlier ones.
 */
function stages(file: string, expected: readonly number[]) {
  const remedy = `remove ${file}`;
  const kept: Record<string, { seconds: number; result: unknown }> = {};
  if (existsSync(file)) {
    const read = KEPT.safeParse(readJson(file, "the demo's results so far", remedy));
    if (!read.success) throw new UserError(`${file}: does not keep the demo's results so far; ${remedy}`);
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
      throw new UserError(`${file}: keeps no result of "${title.trim()}"; ${remedy}`);
    }
    say(title);
    const left = wholeLeft(
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

/** Seconds of each stage, in their order, as two idle cores take them (docs/training.md; src/preflight/work.ts). */
function shares({ ict, pretrain, qa, closedBook }: Config): number[] {
  const training = { ict: 0.11 * ict.steps, pretrain: 0.1 * pretrain.steps, qa: 0.14 * qa.steps };
  return [1, training.ict, 2, training.pretrain, 2, training.qa, 2, 1 + 0.03 * closedBook.steps];
}

/**
 * Seconds that the rest takes, by how long the stages that are done took; undefined before the first that trains.
 * @param expected of all stages, on some machine
 * @param taken of those that are done, on this one
 */
export function wholeLeft(expected: readonly number[], taken: readonly number[]): number | undefined {
  if (taken.length < 2) return undefined;
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  return (sum(taken) / sum(expected.slice(0, taken.length))) * sum(expected.slice(taken.length));
}

/** Retrieval utility over the first and the last tenth of pretraining. */
function utility(run: Run): { first: number; last: number } {
  const log = run.metrics('pretrain');
  const values = records(log).flatMap(({ retrievalUtility }) =>
    typeof retrievalUtility === 'number' ? [retrievalUtility] : [],
  );
  if (values.length === 0)
    throw new UserError(
      `${log}: holds no figures of pretraining to sum the demo up by; remove ${run.dir} to run it again`,
    );
  const n = Math.max(1, Math.floor(values.length / 10));
  return { first: mean(values.slice(0, n)), last: mean(values.slice(-n)) };
}

/** The records of a log; a line that a kill cut short is left out. */
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
 * What a run on generated worlds is given: the packaged settings, where it is new and no others are named.
 * @param data settings of the data's place, which the user's own go before
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

import { existsSync, symlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { z } from 'zod';
import { type Config, loadConfig, saveConfig } from '../config.ts';
import { type AblationTable, ablationTable, type Outcomes, ROWS, type Row } from '../eval/ablation.ts';
import { retrievalRanks } from '../eval/evaluate.ts';
import { mean } from '../eval/statistics.ts';
import { retrieverShapes } from '../model/model.ts';
import { lockRun, type Run, runConfig, runFolder } from '../run/folder.ts';
import type { Stage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { makeFolder, readJson, readText, writeFileAtomic } from '../system/files.ts';
import { duration, say } from '../system/progress.ts';
import { stepsDone } from '../train/checkpoints.ts';
import type { LoopResult } from '../train/loop.ts';
import { generateWorld, worldFiles, writeWorld } from '../world/world.ts';
import { matchingIndex, retrieverBeforeQa } from './build-index.ts';
import {
  announceEngine,
  type Context,
  emptyModel,
  type RunOptions,
  runCorpus,
  stageWeights,
} from './context.ts';
import { worldSettings } from './demo.ts';
import { evalExactMatch } from './evaluate-answers.ts';
import { finetuneQa } from './finetune-qa.ts';
import { checkNeeds, type GatedStage } from './gate.ts';
import { ictWarmup } from './ict-warmup.ts';
import { prepareCorpus } from './prepare.ts';
import { pretrain } from './pretrain.ts';
import { testQuestions } from './questions.ts';

export interface AblateOptions extends RunOptions {
  /** Number of seeds, counting up from the configured one. */
  seeds: number;
  /** Names of rows, separated by commas; undefined: all rows. */
  only?: string;
  /** Starts also what takes days, or more memory than there is. */
  yes?: boolean;
}

/** Name of the folder with what the rows of a seed share. */
const SHARED_FOLDER = 'shared';

/** Best blocks that may contain the answer. */
const RECALL_AT = 5;

/**
 * Measures rows of the paper's Table 2, each in a run folder of its own, `seed-N/ROW`. What rows share is made once and
 * linked: the data and the inverse cloze warm-up of a seed (`seed-N/shared`), and the pretraining of the row realm.
 * Finished rows are kept, and a later call resumes from them.
 * @returns the table of all rows measured with every seed, also by earlier calls; undefined if a signal stopped it
 */
export async function ablate(options: AblateOptions): Promise<AblationTable | undefined> {
  const rows = rowsOf(options.only);
  const top = runFolder(options.run);
  const { settings, save } = topSettings(top, options);
  const seeds = Array.from({ length: options.seeds }, (_, i) => settings.seed + i);
  const engine = await announceEngine(options);

  const opened = new Map<string, { context: Context; release: () => void }>();
  const open = (seed: number, name: string): Context => {
    const run = runFolder(join(top.dir, `seed-${seed}`, name));
    const before = opened.get(run.dir);
    if (before) return before.context;
    const release = lockRun(run, 'ablate');
    saveConfig(run.config, configOf(top, settings, seed, name));
    const context = { run, config: loadConfig(run.config, []), engine };
    opened.set(run.dir, { context, release });
    return context;
  };

  const work = seeds.flatMap((seed) => rows.map((row) => ({ seed, row })));
  const left = work.filter(({ seed, row }) => !existsSync(outcomeFile(top, seed, row.name)));
  if (left.length > 0 && !options.yes) {
    const [{ seed }] = left;
    const shared = runFolder(join(top.dir, `seed-${seed}`, SHARED_FOLDER));
    const release = lockRun(shared, 'ablate');
    await makeCorpus({ run: shared, config: configOf(top, settings, seed, SHARED_FOLDER), engine }, shared);
    // A row's folder has its checkpoints, and gets the corpus later.
    const check = (name: string, stage: GatedStage) => {
      const run = { ...runFolder(join(top.dir, `seed-${seed}`, name)), corpus: shared.corpus };
      return checkNeeds({ run, config: configOf(top, settings, seed, name), engine }, stage);
    };
    await check(SHARED_FOLDER, 'ict-warmup');
    for (const { row } of left) {
      if (row.pretraining !== 'none') await check(row.pretraining === 'own' ? row.name : 'realm', 'pretrain');
      await check(row.name, 'build-index');
      await check(row.name, 'finetune-qa');
    }
    release();
  }
  save();
  const times = rowTimes(work.flatMap(({ seed, row }) => readOutcome(top, seed, row) ?? []));
  for (const [i, { seed, row }] of left.entries()) {
    say(
      `\nrow ${work.length - left.length + i + 1} of ${work.length}  seed ${seed}, ${row.name}: ${row.label}${times.left(left.slice(i).map((l) => l.row))}`,
    );
    const started = performance.now();
    const shared = await sharedStart(open(seed, SHARED_FOLDER), open(seeds[0], SHARED_FOLDER).run);
    if (!shared) return undefined;
    const measured = await measureRow(row, open(seed, row.name), shared, () => open(seed, 'realm'));
    if (!measured) return undefined;
    const outcome: Outcome = {
      ...measured,
      seconds: (performance.now() - started) / 1000,
      pretrained: row.pretraining === 'own',
    };
    writeFileAtomic(outcomeFile(top, seed, row.name), `${JSON.stringify(outcome)}\n`);
    times.add(outcome);
    for (const { release } of opened.values()) release();
    opened.clear();
  }

  const table = ablationTable(ROWS.flatMap((row) => outcomesOf(top, seeds, row) ?? []));
  makeFolder(dirname(top.ablation));
  writeFileAtomic(top.ablation, `${JSON.stringify(table, null, 2)}\n`);
  return table;
}

/** The rows named, in the table's order. */
function rowsOf(only: string | undefined): Row[] {
  if (only === undefined) return [...ROWS];
  const wanted = only.split(',').map((name) => name.trim());
  for (const name of wanted) {
    if (ROWS.some((row) => row.name === name)) continue;
    throw new UserError(
      `--only ${only}: no row "${name}"; there are ${ROWS.map((row) => row.name).join(', ')}`,
    );
  }
  return ROWS.filter((row) => wanted.includes(row.name));
}

/** The settings that rows differ from, not saved yet. Refuses those that differ from the settings a row started with. */
function topSettings(top: Run, options: AblateOptions): { settings: Config; save: () => void } {
  const given = worldSettings(top, options, 'configs/ablation.yaml');
  const check = (settings: Config) => {
    const { documents, train, dev, test } = settings.data;
    if (documents !== null && (train === null || (test ?? dev) === null)) {
      throw new UserError(
        `${top.config}: data.documents names your own documents; name their questions too, with data.train, and with data.test or data.dev`,
      );
    }
    for (const name of [SHARED_FOLDER, ...ROWS.map((row) => row.name)]) {
      for (let seed = settings.seed; seed < settings.seed + options.seeds; seed++) {
        const { config, dir } = runFolder(join(top.dir, `seed-${seed}`, name));
        if (!existsSync(config)) continue;
        const planned = JSON.stringify(configOf(top, settings, seed, name));
        if (JSON.stringify(loadConfig(config, [])) === planned) continue;
        throw new UserError(`${dir}: was started with other settings; choose another folder with --run`);
      }
    }
    lockRun(top, 'ablate');
  };
  return { settings: runConfig(top, given, check, false), save: () => runConfig(top, given) };
}

/** Settings of a row, or of the part that the rows of a seed share. */
function configOf(top: Run, settings: Config, seed: number, name: string): Config {
  const row = ROWS.find((row) => row.name === name);
  const config: Config = {
    ...settings,
    seed,
    data:
      settings.data.documents !== null
        ? settings.data
        : { ...settings.data, ...worldFiles(join(top.dir, `seed-${seed}`, SHARED_FOLDER, 'data')) },
    // Training waits for each index (about 4 s of a row's 2 minutes), so that the table does not depend on how busy the
    // machine is.
    refresh: { ...settings.refresh, mode: 'sync' },
  };
  return row ? row.change(config) : config;
}

/**
 * What every row of a seed starts from: a corpus and the inverse cloze warm-up. If the settings name no documents, the
 * corpus is of a world generated with the seed. The user's own documents are prepared once for all seeds.
 * @param first the shared run folder of the first seed
 */
async function sharedStart(context: Context, first: Run): Promise<Run | undefined> {
  const { run, config } = context;
  await makeCorpus(context, first);
  return (await done(context, 'ict-warmup', config.ict.steps, ictWarmup)) ? run : undefined;
}

/** The corpus of a seed. One whose settings were never saved is of a call that was refused: it is made again. */
async function makeCorpus({ run, config }: Context, first: Run): Promise<void> {
  const isPrepared = () => existsSync(run.corpusManifest) && existsSync(run.config);
  if (isPrepared()) return;
  const data = join(run.dir, 'data');
  const generated = config.data.documents === worldFiles(data).documents;
  if (generated) writeWorld(generateWorld({ seed: config.seed, ...config.world }), data);
  else if (run.dir !== first.dir) share(first, run, corpusOf);
  if (!isPrepared()) await prepareCorpus(run, config);
}

/** Runs a stage unless it is finished. False if a signal stopped it. */
async function done(
  context: Context,
  stage: Stage,
  steps: number,
  train: (context: Context) => Promise<LoopResult>,
): Promise<boolean> {
  if ((stepsDone(context.run.checkpoint(stage)) ?? 0) >= steps) return true;
  const { stopped } = await train(context);
  tf.disposeVariables(); // commands keep their model until the process ends, but here other rows follow
  return !stopped;
}

/** Runs the unfinished stages of a row and measures it; undefined if a signal stopped a stage. */
async function measureRow(
  row: Row,
  context: Context,
  shared: Run,
  realm: () => Context,
): Promise<Pick<Outcome, 'correct' | 'recalled'> | undefined> {
  const { run, config } = context;
  share(shared, run, corpusOf);
  share(shared, run, checkpointOf('ict-warmup'));
  if (row.pretraining !== 'none') {
    const pretrains = row.pretraining === 'own' ? context : realm();
    if (pretrains !== context) {
      share(shared, pretrains.run, corpusOf);
      share(shared, pretrains.run, checkpointOf('ict-warmup'));
    }
    if (!(await done(pretrains, 'pretrain', config.pretrain.steps, pretrain))) return undefined;
    if (pretrains !== context) share(pretrains.run, run, checkpointOf('pretrain'));
  }
  const recalled = await recalledBefore(context);
  if (!(await done(context, 'finetune-qa', config.qa.steps, finetuneQa))) return undefined;
  await evalExactMatch(context);
  tf.disposeVariables();
  return { correct: correctOf(run), recalled };
}

const corpusOf = (run: Run) => run.corpus;
const checkpointOf = (stage: Stage) => (run: Run) => run.checkpoint(stage);

/** Links what one run folder has made into another, under the same path. */
function share(from: Run, to: Run, pathOf: (run: Run) => string): void {
  const link = pathOf(to);
  if (existsSync(link)) return;
  makeFolder(dirname(link));
  // Relative, so that the whole folder can be moved. On Windows such links must be junctions.
  symlinkSync(relative(dirname(link), pathOf(from)), link, 'junction');
}

/** For which questions the retriever finds an answer in its best five blocks, before any fine-tuning, as in the paper. */
async function recalledBefore(context: Context): Promise<boolean[]> {
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const stage = retrieverBeforeQa(context);
  await stageWeights(context, stage, corpus, model, retrieverShapes(model));
  const index = await matchingIndex(context, stage, model, corpus);
  try {
    const questions = await testQuestions(context, corpus);
    const retrieval = { model, corpus, index, config: context.config };
    const ranks = await retrievalRanks(retrieval, questions, RECALL_AT);
    return ranks.map((rank) => rank < RECALL_AT);
  } finally {
    index.close();
    corpus.close();
    tf.disposeVariables();
  }
}

const PREDICTION = z.looseObject({ correct: z.boolean() });

function correctOf({ predictions }: Run): boolean[] {
  return readText(predictions, 'predictions of this row', 'start the command again')
    .trimEnd()
    .split('\n')
    .map((line) => PREDICTION.parse(JSON.parse(line)).correct);
}

/** The stored result of a row with one seed. */
const outcomeSchema = z.object({
  /** For each question: see `Outcomes`. */
  correct: z.array(z.boolean()).min(1),
  recalled: z.array(z.boolean()).min(1),
  /** Wall time of the row in the process that finished it, and whether that includes pretraining. */
  seconds: z.number().nonnegative(),
  pretrained: z.boolean(),
});
type Outcome = z.infer<typeof outcomeSchema>;

function outcomeFile(top: Run, seed: number, name: string): string {
  return join(top.dir, `seed-${seed}`, name, 'outcome.json');
}

/** Undefined if the row is not measured yet. */
function readOutcome(top: Run, seed: number, { name }: Row): Outcome | undefined {
  const path = outcomeFile(top, seed, name);
  if (!existsSync(path)) return undefined;
  const remedy = 'remove it and start the command again';
  const read = outcomeSchema.safeParse(readJson(path, 'outcome of a row', remedy));
  if (read.success && read.data.correct.length === read.data.recalled.length) return read.data;
  throw new UserError(`${path}: is not a valid outcome of a row; ${remedy}`);
}

/** Undefined if a seed is missing. */
function outcomesOf(top: Run, seeds: readonly number[], row: Row): Outcomes | undefined {
  const { name, label, paper } = row;
  const measured = seeds.flatMap((seed) => readOutcome(top, seed, row) ?? []);
  if (measured.length < seeds.length) return undefined;
  return {
    name,
    label,
    paper,
    correct: measured.map((m) => m.correct),
    recalled: measured.map((m) => m.recalled),
  };
}

/** Estimates the time of rows from the rows measured, separately for those with and without pretraining of their own. */
function rowTimes(measured: Outcome[]) {
  const expected = (row: Row) => {
    const similar = measured.filter(({ pretrained }) => pretrained === (row.pretraining === 'own'));
    return mean((similar.length > 0 ? similar : measured).map(({ seconds }) => seconds));
  };
  return {
    add: (outcome: Outcome) => measured.push(outcome),
    left: (rows: readonly Row[]) =>
      measured.length === 0
        ? ''
        : `, about ${duration(rows.reduce((sum, row) => sum + expected(row), 0))} left`,
  };
}

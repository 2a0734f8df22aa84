import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { type Config, loadConfig } from '../config.ts';
import type { QueueState } from '../queue/state.ts';
import { type Run, stepsOf } from '../run/folder.ts';
import { REFRESHED_STAGES, type RefreshedStage, STAGES, type Stage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';
import { readLog } from './log.ts';
import { type Series, series, type Thinned, thinned } from './thin.ts';
import { underWay } from './under-way.ts';

// What a run folder has recorded so far. Everything in it is optional, and invalid records are left out.

export interface StageRecord {
  stage: Stage;
  /** Steps done, and steps of the whole stage if known. */
  steps: number;
  of: number | undefined;
  /** Its metrics over steps, by name. */
  figures: Map<string, Series>;
  /** All numbers of the last line of its metrics that has a loss; undefined while there is none. */
  last: { step: number; figures: Record<string, number> } | undefined;
  /** Metrics on dev questions before its first step, and after its last. */
  evaluated: Evaluated;
}

const numbers = z.record(z.string(), z.number());
const evaluated = z.object({ start: numbers.optional(), end: numbers.optional() }).catch({});
export type Evaluated = z.infer<typeof evaluated>;

/** Indexes that were swapped in. */
export interface RefreshRecord {
  /** Steps at which indexes were swapped in. */
  at: Thinned<number>;
  /** Share of the probes' ten best blocks that the previous index also found. */
  overlap: Series;
}

const found = z.object({ document: z.string().catch(''), title: z.string().catch('') });
const probes = z.object({
  inUseAt: z.number(),
  questions: z.number().optional().catch(undefined),
  recall: z.record(z.string(), z.number()).optional().catch(undefined),
  probes: z
    .array(z.object({ query: z.string(), answer: z.string().catch(''), blocks: z.array(found) }))
    .catch([]),
});

/** What the retriever found for the same queries when an index was swapped in. */
export type Probes = z.infer<typeof probes>;

export interface ProbeRecord {
  records: Thinned<Probes>;
  /** Recall over steps, by k. */
  recall: Map<string, Series>;
  /** Questions that recall was measured on. */
  questions: number;
}

const interval = z.object({ value: z.number(), low: z.number(), high: z.number() });
const measured = z.union([
  z.number().transform((value) => ({ value, low: undefined, high: undefined })),
  interval,
]);
const evaluation = z.object({
  time: z.string().catch(''),
  metric: z.string(),
  stage: z.string().catch(''),
  file: z.string().catch(''),
  questions: z.number().optional().catch(undefined),
  protocol: z.string().optional().catch(undefined),
  heldOut: z.boolean().optional().catch(undefined),
  figures: z.record(z.string(), z.unknown()).transform((figures) =>
    Object.entries(figures).flatMap(([name, value]) => {
      const read = measured.safeParse(value);
      return read.success ? [{ name, ...read.data }] : [];
    }),
  ),
});

/** One evaluation: the newest of those that measured the same. */
export type Evaluation = z.infer<typeof evaluation>;

const prediction = z.object({
  question: z.string(),
  answers: z.array(z.string()).catch([]),
  prediction: z.string(),
  correct: z.boolean(),
  title: z.string().catch(''),
  probability: z.number().optional().catch(undefined),
  passage: z.string().optional().catch(undefined),
  start: z.int().optional().catch(undefined),
  end: z.int().optional().catch(undefined),
});

/** One answered question; `start` and `end` are the prediction's place in the passage, in code points. */
export type Prediction = z.infer<typeof prediction>;

export interface Predictions {
  right: Thinned<Prediction>;
  wrong: Thinned<Prediction>;
}

const spread = z.object({
  mean: z.number(),
  low: z.number().optional().catch(undefined),
  high: z.number().optional().catch(undefined),
  bySeed: z.array(z.number()).catch([]),
});
const order = z
  .object({
    tau: z.number().nullable(),
    pairs: z
      .array(
        z.object({
          better: z.string(),
          worse: z.string(),
          difference: z.object({ mean: z.number(), low: z.number(), high: z.number() }),
        }),
      )
      .catch([]),
  })
  .optional()
  .catch(undefined);
const ablation = z.object({
  seeds: z.union([z.number(), z.array(z.unknown()).transform((list) => list.length)]).catch(0),
  questions: z.number().optional().catch(undefined),
  rows: z.array(
    z.object({
      name: z.string(),
      label: z.string().optional().catch(undefined),
      exactMatch: spread.optional().catch(undefined),
      recall5: spread.optional().catch(undefined),
      /** Per cent, as the paper prints them; all other values are shares. */
      paper: z
        .object({
          exactMatch: z.number().nullable().catch(null),
          recall5: z.number().nullable().catch(null),
        })
        .nullable()
        .catch(null),
    }),
  ),
  order: z.object({ exactMatch: order, recall5: order }).optional().catch(undefined),
});

export type Ablation = z.infer<typeof ablation>;

const share = z.number().optional().catch(undefined);
const summary = z.object({
  seconds: share,
  recall5: z.object({ 'ict-warmup': share, pretrain: share, bm25: share }).partial().catch({}),
  exactMatch: share,
  exactMatchClosedBook: share,
  questions: share,
});

export interface RunRecord {
  dir: string;
  config: Config | undefined;
  /** Files that could not be read, as sentences. */
  troubles: string[];
  /** Time of the newest record, in milliseconds since 1970. */
  written: number | undefined;
  documents: number | undefined;
  blocks: number | undefined;
  stages: StageRecord[];
  refreshes: Map<RefreshedStage, RefreshRecord>;
  probes: Map<RefreshedStage, ProbeRecord>;
  evaluations: Evaluation[];
  /** The demo's summary. */
  summary: z.infer<typeof summary> | undefined;
  predictions: Predictions | undefined;
  ablation: Ablation | undefined;
  /** The shards that workers embed for a process that works in the run now. */
  queue: QueueState | undefined;
}

/** True of a folder that holds anything a report shows. */
export function isRun(run: Run): boolean {
  const metrics = dirname(run.evaluations);
  return [run.config, run.corpus, metrics, run.predictions, run.ablation].some((path) => existsSync(path));
}

/** Reads what the folder has. Memory and the size of the result do not grow with the run's length. */
export function readRun(run: Run): RunRecord {
  const troubles: string[] = [];
  const trying = <T>(read: () => T): T | undefined => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      troubles.push(error.message);
      return undefined;
    }
  };
  const config = existsSync(run.config) ? trying(() => loadConfig(run.config, [])) : undefined;
  const table = <T>(path: string, shape: z.ZodType<T>): T | undefined => {
    if (!existsSync(path)) return undefined;
    const read = shape.safeParse(trying(() => readJson(path, 'record of the run', `remove ${path}`)));
    return read.success ? read.data : undefined;
  };
  const corpus = table(run.corpusManifest, z.object({ documents: z.number(), blocks: z.number() }));
  return {
    dir: run.dir,
    config,
    written: newest([
      ...STAGES.map((stage) => run.metrics(stage)),
      run.evaluations,
      run.predictions,
      run.summary,
      run.ablation,
      run.config,
    ]),
    documents: corpus?.documents,
    blocks: corpus?.blocks,
    stages: STAGES.map((stage) => readStage(run, stage, config)),
    refreshes: byStage((stage) => readRefreshes(run.refreshes(stage))),
    probes: byStage((stage) => readProbes(run.probes(stage))),
    evaluations: readEvaluations(run.evaluations),
    summary: table(run.summary, summary),
    predictions: readPredictions(run.predictions),
    ablation: table(run.ablation, ablation),
    queue: underWay(run)?.queue ?? undefined,
    troubles,
  };
}

function byStage<T>(read: (stage: RefreshedStage) => T | undefined): Map<RefreshedStage, T> {
  const all = new Map<RefreshedStage, T>();
  for (const stage of REFRESHED_STAGES) {
    const record = read(stage);
    if (record !== undefined) all.set(stage, record);
  }
  return all;
}

function newest(files: readonly string[]): number | undefined {
  const times = files.flatMap((path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? []);
  return times.length > 0 ? Math.max(...times) : undefined;
}

/** Metrics of a stage that the report shows. */
const SHOWN_METRICS = [
  'loss',
  'retrievalUtility',
  'nullProbability',
  'indexAgeSteps',
  'stepSeconds',
  'devExactMatch',
] as const;

/** The progress of a stage, and its metrics. */
export function readStage(run: Run, stage: Stage, config: Config | undefined): StageRecord {
  const read = readLog(run.metrics(stage), () => {
    const result: Pick<StageRecord, 'steps' | 'figures' | 'last'> = {
      steps: 0,
      figures: new Map(),
      last: undefined,
    };
    return {
      result,
      take({ step, ...record }) {
        if (!isNumber(step)) return;
        if (isNumber(record.loss)) {
          const numbers = Object.entries(record).filter((entry): entry is [string, number] =>
            isNumber(entry[1]),
          );
          result.last = { step, figures: Object.fromEntries(numbers) };
        }
        result.steps = Math.max(result.steps, step);
        for (const name of SHOWN_METRICS) {
          const value = record[name];
          if (isNumber(value)) into(result.figures, name).add(step, value);
        }
      },
    };
  });
  const saved = checkpointed(run.checkpoint(stage));
  return {
    stage,
    steps: Math.max(read?.steps ?? 0, saved?.step ?? 0),
    of: saved?.steps ?? (config && stepsOf(config, stage)),
    figures: read?.figures ?? new Map(),
    last: read?.last,
    evaluated: saved?.evaluated ?? {},
  };
}

/** What a stage's latest checkpoint records; undefined if there is none, or if it is being removed. */
export function checkpointed(
  root: string,
): { step: number; steps: number; evaluated: Evaluated } | undefined {
  try {
    const name = readFileSync(join(root, 'latest'), 'utf8').trim();
    if (!/^step-\d+$/.test(name)) return undefined;
    const state = JSON.parse(readFileSync(join(root, name, 'state.json'), 'utf8'));
    const { step, steps } = state;
    if (!isNumber(step) || !isNumber(steps)) return undefined;
    return { step, steps, evaluated: evaluated.parse(state.evaluated) };
  } catch {
    return undefined;
  }
}

/** Refreshes that a chart can mark. */
const MAX_REFRESH_MARKS = 40;

function readRefreshes(path: string): RefreshRecord | undefined {
  return readLog(path, () => {
    const result: RefreshRecord = { at: thinned(MAX_REFRESH_MARKS), overlap: series() };
    return {
      result,
      take({ inUseAt, overlap10 }) {
        if (!isNumber(inUseAt)) return;
        result.at.add(inUseAt);
        if (isNumber(overlap10)) result.overlap.add(inUseAt, overlap10);
      },
    };
  });
}

/** Moments at which probes are kept; a table shows fewer. */
const MAX_MOMENTS = 32;
/** Values of k for which recall@k is kept. */
const MAX_KS = 6;

function readProbes(path: string): ProbeRecord | undefined {
  return readLog(path, () => {
    const result: ProbeRecord = { records: thinned(MAX_MOMENTS), recall: new Map(), questions: 0 };
    return {
      result,
      take(line) {
        const read = probes.safeParse(line);
        if (!read.success) return;
        const record = read.data;
        result.records.add(record);
        result.questions = record.questions ?? result.questions;
        for (const [k, value] of Object.entries(record.recall ?? {})) {
          if (!/^\d+$/.test(k) || (!result.recall.has(k) && result.recall.size === MAX_KS)) continue;
          into(result.recall, k).add(record.inUseAt, value);
        }
      },
    };
  });
}

/** Different evaluations of one run that the report shows. */
const MAX_EVALUATIONS = 50;

function readEvaluations(path: string): Evaluation[] {
  const newest = readLog(path, () => {
    const result = new Map<string, Evaluation>();
    return {
      result,
      take(line) {
        const read = evaluation.safeParse(line);
        if (!read.success) return;
        const { metric, stage, file, protocol } = read.data;
        // `realm eval` measures exact match and F1 together, whichever is requested.
        const measures = metric === 'f1' ? 'exact-match' : metric;
        const key = JSON.stringify([measures, stage, file, protocol]);
        if (result.has(key) || result.size < MAX_EVALUATIONS) result.set(key, read.data);
      },
    };
  });
  return [...(newest?.values() ?? [])];
}

/** Predictions of each kind that are kept; a page shows fewer. */
const MAX_PREDICTIONS = 48;

function readPredictions(path: string): Predictions | undefined {
  return readLog(path, () => {
    const result: Predictions = { right: thinned(MAX_PREDICTIONS), wrong: thinned(MAX_PREDICTIONS) };
    return {
      result,
      take(line) {
        const read = prediction.safeParse(line);
        if (read.success) (read.data.correct ? result.right : result.wrong).add(read.data);
      },
    };
  });
}

function into(all: Map<string, Series>, name: string): Series {
  const held = all.get(name) ?? series();
  all.set(name, held);
  return held;
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

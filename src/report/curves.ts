import { REFRESHED_STAGES, type RefreshedStage, STAGES, type Stage } from '../run/stages.ts';
import { type Chart, chart, type Line, type Mark } from './chart.ts';
import { figure, percent, seconds, whole } from './format.ts';
import type { Html } from './html.ts';
import { type NamedRun, STAGE_NAMES } from './named.ts';
import type { Series } from './thin.ts';

// Every metric that training logs, by step, with all runs in one chart.

/** Loss of each stage, and exact match of fine-tuning on dev questions. */
export function lossCharts(runs: readonly NamedRun[]): Html[] {
  return [
    ...STAGES.flatMap((stage) =>
      overlaid(runs, stageSeries(stage, 'loss'), {
        title: `Loss, ${STAGE_NAMES[stage]}`,
        note: 'nats',
        format: figure,
        smooth: true,
        refreshes: isRefreshed(stage) ? refreshesOf(runs, stage) : [],
      }),
    ),
    ...overlaid(runs, stageSeries('finetune-qa', 'devExactMatch'), {
      title: 'Exact match on dev questions',
      note: 'fine-tuning, at each checkpoint',
      format: percent,
      zero: true,
    }),
  ];
}

/** Retrieval utility, recall, and how refreshes change them. */
export function retrievalCharts(runs: readonly NamedRun[]): Html[] {
  return REFRESHED_STAGES.flatMap((stage) => {
    const refreshes = refreshesOf(runs, stage);
    const during = STAGE_NAMES[stage];
    const ks = [
      ...new Set(
        runs.flatMap((run) => [
          ...(run.probes.get(stage)?.recall.keys() ?? []),
          ...(stage === 'pretrain' ? evaluatedRecall(run).map(({ k }) => k) : []),
        ]),
      ),
    ].sort((a, b) => Number(a) - Number(b));
    return [
      ...overlaid(runs, stageSeries(stage, 'retrievalUtility'), {
        title: `Retrieval utility, ${during}`,
        note: 'nats a masked word piece',
        format: figure,
        smooth: true,
        refreshes,
      }),
      ...ks.flatMap((k) =>
        overlaid(
          runs,
          (run) => run.probes.get(stage)?.recall.get(k),
          {
            title: `Recall@${k}, ${during}`,
            note: recallNote(runs, stage, k),
            format: percent,
            zero: true,
            refreshes,
          },
          stage === 'pretrain' ? runs.flatMap((run) => recallMarks(run, k, runs.length > 1)) : [],
        ),
      ),
      ...overlaid(runs, (run) => run.refreshes.get(stage)?.overlap, {
        title: `Blocks kept by a refresh, ${during}`,
        note: "share of a probe's ten best that stayed",
        format: percent,
        zero: true,
      }),
      ...overlaid(runs, stageSeries(stage, 'nullProbability'), {
        title: `Null document probability, ${during}`,
        note: 'p(z|x), mean of the sentences',
        format: percent,
        zero: true,
        smooth: true,
        refreshes,
      }),
    ];
  });
}

/** Age of the index in use, and time of a step. */
export function paceCharts(runs: readonly NamedRun[]): Html[] {
  return [
    ...REFRESHED_STAGES.flatMap((stage) =>
      overlaid(runs, stageSeries(stage, 'indexAgeSteps'), {
        title: `Index age, ${STAGE_NAMES[stage]}`,
        note: 'steps since its snapshot',
        format: whole,
        zero: true,
        refreshes: refreshesOf(runs, stage),
      }),
    ),
    ...STAGES.flatMap((stage) =>
      overlaid(runs, stageSeries(stage, 'stepSeconds'), {
        title: `Time of a step, ${STAGE_NAMES[stage]}`,
        format: seconds,
        zero: true,
        smooth: true,
        refreshes: isRefreshed(stage) ? refreshesOf(runs, stage) : [],
      }),
    ),
  ];
}

/** What the line and the marks of a recall chart were measured on. */
function recallNote(runs: readonly NamedRun[], stage: RefreshedStage, k: string): string {
  const followed = runs.flatMap((run) => {
    const probes = run.probes.get(stage);
    return probes?.recall.has(k) ? [whole(probes.questions)] : [];
  });
  const evaluated = stage === 'pretrain' && runs.some((run) => evaluatedRecall(run).some((e) => e.k === k));
  return [
    followed.length > 0 && `line: ${[...new Set(followed)].join(' or ')} dev questions`,
    evaluated && '◇ evaluations',
  ]
    .filter((part) => part !== false)
    .join('; ');
}

function overlaid(
  runs: readonly NamedRun[],
  find: (run: NamedRun) => Series | undefined,
  options: Omit<Chart, 'lines' | 'marks' | 'letters'>,
  marks: readonly Mark[] = [],
): Html[] {
  const lines = runs.flatMap((run): Line[] => {
    const series = find(run);
    return series ? [{ look: run.look, name: nameOf(run, runs.length > 1), series }] : [];
  });
  if (lines.length + marks.length === 0) return [];
  return [chart({ ...options, lines, marks, letters: runs.length > 1 })];
}

function nameOf({ look, name }: NamedRun, letters: boolean): string {
  return letters ? `${look.letter} ${name}` : name;
}

function stageSeries(stage: Stage, figure: string) {
  return (run: NamedRun) => run.stages.find((s) => s.stage === stage)?.figures.get(figure);
}

function isRefreshed(stage: string): stage is RefreshedStage {
  return (REFRESHED_STAGES as readonly string[]).includes(stage);
}

function refreshesOf(runs: readonly NamedRun[], stage: RefreshedStage) {
  return runs.map((run) => ({ look: run.look, at: run.refreshes.get(stage)?.at.items() ?? [] }));
}

interface MeasuredRecall {
  k: string;
  stage: string;
  value: number;
  low?: number;
  high?: number;
}

/** Evaluated recall of the retriever before any fine-tuning. A demo's summary has recall@5. */
function evaluatedRecall({ evaluations, summary }: NamedRun): MeasuredRecall[] {
  const found = evaluations
    .filter(({ metric }) => metric === 'recall')
    .flatMap(({ stage, figures }) =>
      figures.flatMap(({ name, value, low, high }) => {
        // An evaluation of pretraining's retriever also has the warm-up's recall.
        const [, warmUp, k] = /^(ict-warmup )?recall@(\d+)$/.exec(name) ?? [];
        return k === undefined ? [] : [{ k, stage: warmUp ? 'ict-warmup' : stage, value, low, high }];
      }),
    );
  if (found.length > 0 || !summary) return found;
  return (['ict-warmup', 'pretrain'] as const).flatMap((stage) => {
    const value = summary.recall5[stage];
    return value === undefined ? [] : [{ k: '5', stage, value }];
  });
}

/** The warm-up's retriever is marked at the start of pretraining, pretraining's at its end. */
function recallMarks(run: NamedRun, wanted: string, letters: boolean): Mark[] {
  const end = run.stages.find(({ stage }) => stage === 'pretrain')?.steps ?? 0;
  return evaluatedRecall(run).flatMap(({ k, stage, value, low, high }) =>
    k !== wanted || !(stage === 'ict-warmup' || stage === 'pretrain')
      ? []
      : [
          {
            look: run.look,
            x: stage === 'ict-warmup' ? 0 : end,
            y: value,
            low,
            high,
            name: `${nameOf(run, letters)}, evaluated after ${STAGE_NAMES[stage]}`,
          },
        ],
  );
}

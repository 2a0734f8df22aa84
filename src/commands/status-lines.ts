import { type QueueState, queueSummary } from '../queue/state.ts';
import { beforeAndAfter } from '../report/before-after.ts';
import { figure, whole } from '../report/format.ts';
import type { Evaluated } from '../report/record.ts';
import { type IndexState, type RunStatus, runsIn, type StageState, statusOf } from '../report/status.ts';
import type { UnderWay } from '../report/under-way.ts';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { duration, mebibytes } from '../system/progress.ts';

/** Folder in which runs lie where none is named. */
const RUNS = 'runs';

/** The states of the runs named; of all runs in the folder `runs` if none is. */
export function runStates(dirs: readonly string[]): RunStatus[] {
  if (dirs.length > 0) return dirs.map((dir) => statusOf(runFolder(dir)));
  const runs = runsIn(RUNS);
  if (runs.length === 0) {
    throw new UserError(`${RUNS}: holds no run; name the folder of one, such as "realm status runs/demo"`);
  }
  return runs.map(statusOf);
}

/** One run in full, or a line for each of several. */
export function statusLines(all: readonly RunStatus[], now = Date.now()): string[] {
  return all.length === 1 ? oneRun(all[0], now) : all.map(shortLine);
}

function shortLine({ run, corpus, stages, underWay, next, bytes }: RunStatus): string {
  const finished = stages.filter(({ state }) => state === 'finished').map(({ stage }) => stage);
  const facts = [
    corpus ? `${whole(corpus.blocks)} blocks` : 'not prepared',
    ...(finished.length > 0 ? [`finished: ${finished.join(', ')}`] : []),
    mebibytes(bytes),
    underWay && underWay.alive !== false ? `running: ${underWay.command}` : `next: ${next}`,
  ];
  return `${run}  ${facts.join('; ')}`;
}

function oneRun(state: RunStatus, now: number): string[] {
  const { run, corpus, prepareUnfinished, stages, indexes, evaluations, bytes, trouble, unreadable } = state;
  const row = (name: string, text: string) => `${name.padEnd(12)} ${text}`;
  return [
    row('run', `${run}, ${mebibytes(bytes)} on the disk`),
    row(
      'corpus',
      corpus
        ? `${whole(corpus.documents)} documents, ${whole(corpus.blocks)} blocks`
        : prepareUnfinished
          ? 'prepare is unfinished'
          : 'not prepared',
    ),
    ...stages.filter(isListed).map((stage) => row(stage.stage, stageText(stage, now))),
    ...(indexes.length === 0 ? [row('index', 'none')] : []),
    ...indexes.map((index) => row('index', indexText(index, now))),
    ...evaluations.map(({ metric, stage, file, time, figures }) =>
      row(
        'eval',
        [
          `${metric}${stage ? ` of ${stage}` : ''}${file ? ` on ${file}` : ''}:`,
          figures.map(({ name, value }) => `${name} ${figure(value)}`).join(', '),
          ago(time, now),
        ].join(' '),
      ),
    ),
    '',
    ...workLines(state.underWay, now).map((text) => row('now', text)),
    ...(trouble ? [row('trouble', `${trouble.line} (${trouble.work}${ago(trouble.time, now)})`)] : []),
    ...unreadable.map((sentence) => row('unreadable', sentence)),
    ...(state.next === null ? [] : [row('next', state.next)]),
  ];
}

/** Stages without steps are listed only where they were started, as is that of the baseline. */
const isListed = ({ stage, state, steps }: StageState) =>
  state !== 'not started' ||
  (stage === 'reader-warmup' ? (steps ?? 0) > 0 : stage !== 'closed-book' && steps !== 0);

function stageText(stage: StageState, now: number): string {
  const { state, step, steps, figures, evaluated, best, latest, saved } = stage;
  if (state === 'not started') return `not started${steps === null ? '' : `, ${whole(steps)} steps set`}`;
  const shown = ['loss', 'accuracy', 'retrievalUtility', 'exactMatch']
    .filter((name) => figures[name] !== undefined)
    .map((name) => `${name} ${figure(figures[name])}`);
  return [
    `${state}, step ${whole(step)}${steps === null ? '' : ` of ${whole(steps)}`}`,
    ...(shown.length === 0 ? [] : [`${shown.join(', ')} (on training examples)`]),
    ...devTexts(evaluated),
    ...(latest === null || saved === null ? [] : [`saved ${latest}${ago(saved, now)}`]),
    ...(best === null ? [] : [`best ${best}`]),
  ].join(', ');
}

/** `recall@5 55.6 to 78.8 % on dev questions` */
function devTexts(evaluated: Evaluated): string[] {
  const found = beforeAndAfter(evaluated);
  return found.length === 0
    ? []
    : [`${found.map(({ name, text }) => `${name} ${text}`).join(', ')} (on dev questions)`];
}

function madeBy(stage: IndexState['stage'], step: number): string {
  if (stage === 'initial') return 'the encoder as it was published';
  return stage === 'ict-warmup' ? stage : `${stage} at step ${whole(step)}`;
}

function indexText(
  { name, rows, stage, step, createdAt, bytes, inUse, stepsBehind, ofThisCorpus }: IndexState,
  now: number,
) {
  return [
    `${name}, ${whole(rows)} rows, ${mebibytes(bytes)}`,
    `by ${madeBy(stage, step)}${ago(createdAt, now)}`,
    ...(stepsBehind > 0
      ? [`the latest weights are ${whole(stepsBehind)} steps newer`]
      : ofThisCorpus
        ? ['matches the latest weights']
        : []),
    ...(inUse ? ['in use'] : []),
    ...(ofThisCorpus ? [] : [inUse ? 'of another corpus; run realm build-index' : 'of another corpus']),
  ].join(', ');
}

function workLines(work: UnderWay | null, now: number): string[] {
  if (!work) return ['nothing is running'];
  const { command, pid, host, since, alive, progress, refresher, queue } = work;
  if (alive === false) {
    return [
      `nothing is running; "realm ${command}" (process ${pid}) ended without finishing${ago(since, now, 'started')}`,
    ];
  }
  const who = `"realm ${command}", process ${pid} on ${host}${ago(since, now, 'started')}`;
  return [
    alive
      ? `${who} is running`
      : `${who}; it is on another host, so whether it still runs cannot be seen from here`,
    ...(progress
      ? [
          [
            `${progress.name}: ${progress.unit === 'bytes' ? percent(progress) : `${whole(progress.done)} of ${whole(progress.total)}`}`,
            ...(progress.remark ? [progress.remark] : []),
            ...(progress.rate !== null && progress.unit !== null
              ? [rateText(progress.rate, progress.unit)]
              : []),
            `memory ${mebibytes(progress.memory)}`,
            ...(progress.left === null ? [] : [`about ${duration(progress.left)} left`]),
          ].join(', ') + ago(progress.time, now, 'as of'),
        ]
      : []),
    ...(refresher === null ? [] : [`process ${refresher} builds a new index`]),
    ...(queue === null ? [] : queueLines(queue, now)),
  ];
}

function queueLines(state: QueueState, now: number): string[] {
  return [
    queueSummary(state) + ago(state.time, now, 'as of'),
    ...state.leases.map(
      ({ shard, worker, seconds }) =>
        `shard ${shard} at ${worker}, lease renewed ${duration(seconds)} before`,
    ),
  ];
}

const percent = ({ done, total }: { done: number; total: number }) =>
  `${Math.floor((100 * done) / Math.max(1, total))} %`;

const rateText = (rate: number, unit: string) =>
  unit === 'bytes' ? `${mebibytes(rate)} a second` : `${figure(rate)} ${unit} a second`;

/** `, 3 min 20 s ago`; nothing for a time that is none. */
function ago(time: string, now: number, verb = ''): string {
  const at = Date.parse(time);
  if (Number.isNaN(at)) return '';
  return `, ${verb ? `${verb} ` : ''}${duration(Math.max(0, (now - at) / 1000))} ago`;
}

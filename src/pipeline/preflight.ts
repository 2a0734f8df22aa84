import { existsSync } from 'node:fs';
import { type Config, loadConfig } from '../config.ts';
import { hasFused } from '../engine/fused.ts';
import { cachedFolder } from '../hub/cache.ts';
import {
  type CorpusStatistics,
  statisticsOfCorpus,
  statisticsOfFiles,
} from '../preflight/corpus-statistics.ts';
import { type Diagnosis, measureElementwise, measureKernel, measureProduct } from '../preflight/machine.ts';
import { preflight } from '../preflight/needs.ts';
import { about } from '../preflight/rates.ts';
import {
  DOUBLING,
  SCALE_ASSUMPTIONS,
  type ScaledCores,
  type ScaledIndex,
  type ScaledStage,
  scaledCores,
  scaledIndex,
  scaledStages,
} from '../preflight/scale.ts';
import type { Counts, Machine, Preflight } from '../preflight/types.ts';
import { presets } from '../presets.ts';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { headSettings } from './encoder-head.ts';
import { checkInitial } from './initial-weights.ts';
import { namedWordPiece } from './prepare.ts';

export interface PreflightOptions {
  config?: string;
  set: string[];
  /** A run. If it is prepared its data are counted; without `config` its settings are used. */
  run?: string;
  /** The data are only a sample of a corpus with so many blocks. */
  blocks?: number;
}

/** The estimate, and what it is based on. */
export interface PreflightReport extends Preflight {
  counts: Counts;
  source: string;
  machine: Machine;
  /** With several machines, if that was asked for. */
  scaled?: { indexes: ScaledIndex[]; stages: ScaledStage[] };
  /** On a machine with other numbers of such cores, if that was asked for. */
  byCores?: ScaledCores[];
}

/** How many machines, and how many cores, to estimate for. */
export interface Machines {
  cores?: readonly number[];
  workers?: readonly number[];
  ranks?: readonly number[];
}

/** Settings and counts, read before the machine is measured, so that mistakes are reported at once. */
export async function preflightInput({ config: file, set, run, blocks }: PreflightOptions): Promise<{
  config: Config;
  census: CorpusStatistics;
}> {
  const folder = run === undefined ? undefined : runFolder(run);
  if (file === undefined && folder && !existsSync(folder.config))
    throw new UserError(
      `${folder.dir}: is not a run yet, so it has no settings; pass the settings to estimate with --config: a file, or one of ${presets().join(', ')}`,
    );
  const named = file ?? folder?.config;
  const config = loadConfig(named, [...set, ...headSettings(loadConfig(named, set))]);
  checkInitial(config);
  const prepared = folder && existsSync(folder.corpusManifest);
  const census = await (prepared
    ? statisticsOfCorpus(folder.corpus, config)
    : statisticsOfFiles(config, vocabularyOf(config)));
  return { config, census: blocks === undefined ? census : enlarged(census, blocks) };
}

/** The statistics of a corpus of so many blocks that is like the one counted. */
function enlarged(census: CorpusStatistics, blocks: number): CorpusStatistics {
  const { counts } = census;
  const times = (n: number) => Math.max(1, Math.round((n * blocks) / counts.blocks));
  const source = `${census.source}, as a sample of ${number(blocks)} blocks`;
  const { documents, sentences } = counts;
  return {
    ...census,
    source,
    counts: { ...counts, blocks, documents: times(documents), sentences: times(sentences) },
  };
}

/** The vocabulary that the run will use, if it exists already. */
export function vocabularyOf(config: Config): WordPiece | undefined {
  const { text, model } = config;
  // Only `prepare` downloads a model from the Hub; an estimate does not.
  if (text.vocabulary === null && model.initial !== null && cachedFolder(model.initial) === undefined)
    return undefined;
  return namedWordPiece(config);
}

/** WebAssembly has 32-bit addresses. */
const WASM_MEMORY_BYTES = 2 ** 32;

/** Measures the engine that the diagnosis left active, with matrices of the model's sizes, and estimates the run. */
export async function runPreflight(
  { config, census }: { config: Config; census: CorpusStatistics },
  d: Diagnosis,
  { workers = [], ranks = [], cores = [] }: Machines = {},
): Promise<PreflightReport> {
  const { engine } = d;
  if (!engine)
    throw new UserError(
      'no engine starts on this machine, so nothing can be estimated; run npm ci to install one',
    );
  const { hidden, heads, intermediate } = config.model;
  const tokens = Math.min(config.text.blockTokens, Math.max(8, Math.round(census.counts.body.mean)));
  const onGpu = engine.description.endsWith('on the GPU');
  const machine: Machine = {
    memory: d.memory,
    diskFree: d.disk.free,
    gpuMemory: onGpu ? d.gpus[0]?.memory : undefined,
    engineMemory: engine.name === 'wasm' ? WASM_MEMORY_BYTES : undefined,
    dense: await measureProduct([2048, hidden], [hidden, intermediate]),
    attention: await measureProduct(
      [16 * heads, tokens, hidden / heads],
      [16 * heads, hidden / heads, tokens],
    ),
    elementwise: await measureElementwise(),
    kernel: await measureKernel(),
    fused: hasFused(),
  };
  const { counts } = census;
  const scaled = {
    indexes: workers.map((n) => scaledIndex(config, counts, machine, n)),
    stages: ranks.flatMap((n) => scaledStages(config, counts, machine, n)),
  };
  const estimate = preflight(config, counts, machine);
  const here = d.threads ?? d.cpus.count;
  return {
    ...estimate,
    ...census,
    machine,
    ...(workers.length + ranks.length > 0 && { scaled }),
    ...(cores.length > 0 && { byCores: cores.map((n) => scaledCores(estimate.stages, here, n)) }),
  };
}

// ---------------------------------------------------------------------------------------------------- lines

const size = (bytes: number) =>
  bytes >= 2 ** 30
    ? `${(bytes / 2 ** 30).toFixed(1)} GiB`
    : `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 24 ? 1 : 0)} MiB`;
const millions = (n: number) => `${(n / 1e6).toFixed(n < 1e8 ? 2 : 0)} M`;
const number = (n: number) => n.toLocaleString('en');

export function preflightLines(p: PreflightReport): string[] {
  const { counts, parameters } = p;
  const stages = p.stages.filter(({ steps }) => steps !== 0);
  const row = (name: string, memory: string, disk: string, step: string, time: string) =>
    `  ${name.padEnd(12)} ${memory.padStart(10)} ${disk.padStart(10)} ${step.padStart(9)}   ${time}`;
  const range = ([low, high]: [number, number]) =>
    high < 1 ? about(high) : `${about(low)} to ${about(high)}`;
  return [
    '',
    `Data      ${number(counts.documents)} documents, ${number(counts.blocks)} blocks, ${number(counts.sentences)} sentences, ${number(counts.trainQuestions)} + ${number(counts.testQuestions)} questions (${p.source})`,
    `Model     ${millions(parameters.total)} parameters: retriever ${millions(parameters.retriever)}, reader ${millions(parameters.reader)}, span scorer ${millions(parameters.spanScorer)}; vocabulary ${number(counts.vocabulary)}`,
    '',
    row('stage', 'memory', 'disk', 's a step', 'time'),
    ...stages.map((s) =>
      row(
        s.stage,
        size(s.memory),
        size(s.disk),
        s.stepSeconds === undefined ? '' : number(Number(s.stepSeconds.toPrecision(2))),
        range(s.secondsRange),
      ),
    ),
    row('all', size(Math.max(...stages.map((s) => s.memory))), size(p.disk), '', range(p.secondsRange)),
    '',
    ...p.assumptions.map((line) => `Assumes   ${line}`),
    ...p.warnings.map((line) => `Warning   ${line}`),
    ...(p.warnings.length === 0 ? ['Warnings  none'] : []),
    ...(p.scaled ? scaledLines(p.scaled) : []),
    ...(p.byCores ? coresLines(p.byCores) : []),
  ];
}

function coresLines(byCores: readonly ScaledCores[]): string[] {
  const row = (cells: string[]) =>
    `  ${cells.map((cell, i) => (i === 0 ? cell.padEnd(13) : cell.padStart(12))).join('')}`;
  return [
    '',
    'One machine with so many cores like these',
    row(['cores', ...byCores.map(({ cores }) => String(cores))]),
    ...byCores[0].stages.map(({ stage }, i) =>
      row([stage, ...byCores.map(({ stages }) => about(stages[i].seconds))]),
    ),
    row(['all', ...byCores.map(({ seconds }) => about(seconds))]),
    '',
    `Assumes   each doubling of the cores makes a stage ${DOUBLING} times as fast; machines with more than two cores were not measured`,
  ];
}

function scaledLines({ indexes, stages }: NonNullable<PreflightReport['scaled']>): string[] {
  const table = (rows: string[][]) =>
    rows.map(
      (cells) => `  ${cells.map((cell, i) => (i === 0 ? cell.padEnd(12) : cell.padStart(12))).join('')}`,
    );
  const digits = (n: number) => number(Number(n.toPrecision(2)));
  return [
    ...(indexes.length > 0
      ? [
          '',
          'An index by several workers (realm embed)',
          ...table([
            ['workers', 'embedding', 'folder', 'graph', 'all', 'limit'],
            ...indexes.map(({ workers, embedding, folder, graph, seconds, limit }) => [
              String(workers),
              ...[embedding, folder, graph, seconds].map(about),
              limit,
            ]),
          ]),
        ]
      : []),
    ...(stages.length > 0
      ? [
          '',
          'Steps by several ranks (mpiexec)',
          ...table([
            ['stage', 'ranks', 's a step', 's the sum', 'all steps', 'limit'],
            ...stages.map(({ stage, ranks, step, sum, seconds, limit }) => [
              stage,
              String(ranks),
              ...(step === undefined ? ['-', '-', '-'] : [digits(step), digits(sum!), about(seconds!)]),
              limit,
            ]),
          ]),
        ]
      : []),
    '',
    ...SCALE_ASSUMPTIONS.map((line) => `Assumes   ${line}`),
  ];
}

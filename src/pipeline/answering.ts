import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { type Config, loadConfig } from '../config.ts';
import { findInstalled } from '../engine/installed.mjs';
import { processMemory, totalBytes } from '../preflight/memory.ts';
import { parametersOf } from '../preflight/parameters.ts';
import { encoderWork } from '../preflight/work.ts';
import { runFolder } from '../run/folder.ts';
import { startProcesses } from '../serve/processes.ts';
import { memoryFree } from '../system/memory.ts';
import { say } from '../system/progress.ts';
import { announceEngine, type RunOptions } from './context.ts';
import { type AnsweredQuestion, openQaSession, type QaSession } from './qa-session.ts';

/** What computes a server's answers. */
export interface Answering {
  /** Opens the run's current model. */
  open(): Promise<QaSession>;
  close(): Promise<void>;
}

/** Processes that answer side by side. 1: the server itself answers. */
export interface Sharing {
  processes: number;
  threads: number | undefined;
}

type Options = Pick<RunOptions, 'run' | 'engine' | 'threads'>;

/**
 * Operations of reading one question's blocks that are worth a thread: about 20 ms of its time. Threads that share smaller
 * products wait for each other more than they save.
 */
const OPERATIONS_OF_THREAD = 2e9;

/** Most processes. The server itself takes a sixth of the time that an answer of a small model does, so more would wait for it. */
const MOST_PROCESSES = 8;

/** The share of the free memory that the processes may take. */
const SHARE_OF_MEMORY = 0.5;

/**
 * How the answers to questions are shared among processes. A small model gains nothing from a second thread, so a process with
 * one thread for each core answers the most questions; a large one gets all threads, so that a single question is answered soon.
 */
export function sharing(
  { model, qa, text }: Config,
  { engine, threads }: Pick<Options, 'engine' | 'threads'>,
  machine: { cores: number; free: number } = { cores: availableParallelism(), free: memoryFree() },
): Sharing {
  const alone = { processes: 1, threads };
  const isNative = engine === 'tensorflow' || engine === 'auto';
  if (!isNative || findInstalled()?.variant !== 'cpu') return alone;
  const cores = threads ?? machine.cores;
  const { dense, attention } = encoderWork(model, true, qa.readerBlocks, qa.readerTokens, text.blockTokens);
  const each = Math.ceil((dense + attention) / OPERATIONS_OF_THREAD);
  const { total, reader } = parametersOf(model, text.vocabularySize);
  // Twice the weights: while a newer model is opened, both are in memory.
  const bytes = totalBytes(processMemory({ weights: 2 * 4 * (total + reader) }));
  const processes = Math.min(
    Math.floor(cores / each),
    Math.floor((SHARE_OF_MEMORY * machine.free) / bytes),
    MOST_PROCESSES,
  );
  return processes < 2 ? alone : { processes, threads: Math.floor(cores / processes) };
}

/** Starts what answers; the line about the engine is printed. */
export async function startAnswering(options: Options, { processes, threads }: Sharing): Promise<Answering> {
  const { run: runDir } = options;
  if (processes > 1) {
    const entry = fileURLToPath(new URL('./answering-process.ts', import.meta.url));
    const start = { runDir, engine: options.engine, threads: threads! };
    const all = await startProcesses<AnsweredQuestion>(entry, processes, start, say);
    say(`${all.engine}, ${processes} processes of ${threads === 1 ? '1 thread' : `${threads} threads`}`);
    return all;
  }
  const engine = await announceEngine(options);
  const run = runFolder(runDir);
  return {
    open: async () => openQaSession({ run, config: loadConfig(run.config, []), engine }),
    close: async () => {},
  };
}

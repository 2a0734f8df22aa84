import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, hostname } from 'node:os';
import { UserError } from '../system/errors.ts';
import { silence } from '../system/quiet.ts';
import { Abandoned, pause } from '../system/stop.ts';
import { findInstalled, mpiDigest, mpiFolder } from './installed.mjs';

// Data-parallel training: N processes ("ranks", the term of MPI) that a launcher such as mpiexec or srun has started with the
// same command. Each computes the gradients of its part of a batch; sums over all ranks make them the gradients of the whole
// batch, so that all ranks have the same weights after each step. Rank 0 alone writes files and reports.

/**
 * This process among the others that train with it. All ranks call the functions in the same order, but for `abandon`.
 * Every call first waits until all ranks have come to it, without using a processor meanwhile.
 */
export interface Ranks {
  /** Number of this process, from 0. */
  readonly rank: number;
  readonly size: number;
  /** Whether the native engine can add up tensors where they are (`fusedRankSum`). */
  readonly native: boolean;
  /** True on all ranks if it is true on one. */
  any(flag: boolean): Promise<boolean>;
  /** Sums over all ranks, in place; of the same length on each. Throws `AbandonedElsewhere`, as do all but `abandon`. */
  sum(values: Float32Array | Float64Array): Promise<void>;
  /** Gives every rank the values of rank 0, in place; of the same length on each. */
  broadcast(values: Float32Array | Float64Array | Uint8Array): Promise<void>;
  /**
   * This rank has given up the work that it shares with the others: whatever they wait for, they give it up too. To be
   * called once by each rank that gave up on its own, and then not before the others are together again.
   */
  abandon(): Promise<void>;
}

/** Another rank has abandoned the work that this one shares with it. */
export class AbandonedElsewhere extends Abandoned {}

/** Another rank has failed, and has said why: this one has nothing to add. */
export class FailedElsewhere extends Error {}

/** The only rank, in a process that no launcher started. */
export const alone: Ranks = {
  rank: 0,
  size: 1,
  native: false,
  any: async (flag) => flag,
  sum: async () => {},
  broadcast: async () => {},
  abandon: async () => {},
};

// ---------------------------------------------------------------------------------------------- on any ranks

/** Waits for all ranks. */
export async function meet(ranks: Ranks): Promise<void> {
  await ranks.any(false);
}

/** The result of work that only rank 0 does, on every rank; it must be what JSON can hold, or undefined. */
export async function onFirst<T>(ranks: Ranks, work: () => T | Promise<T>): Promise<T> {
  const value = ranks.rank === 0 ? await work() : undefined;
  if (ranks.size === 1) return value as T;
  const mine = value === undefined ? new Uint8Array(0) : new TextEncoder().encode(JSON.stringify(value));
  const length = Float64Array.of(mine.length);
  await ranks.broadcast(length);
  const bytes = ranks.rank === 0 ? mine : new Uint8Array(length[0]);
  await ranks.broadcast(bytes);
  if (ranks.rank === 0) return value as T;
  return bytes.length === 0 ? (undefined as T) : JSON.parse(new TextDecoder().decode(bytes));
}

/** Work that every rank does and that may make files: rank 0 comes first, so that the others find them. */
export async function firstBeforeOthers<T>(ranks: Ranks, work: () => T | Promise<T>): Promise<T> {
  if (ranks.rank > 0) await meet(ranks);
  const result = await work();
  if (ranks.rank === 0) await meet(ranks);
  return result;
}

/** One number of each rank, by rank. */
export async function gather(ranks: Ranks, value: number): Promise<Float64Array> {
  const all = new Float64Array(ranks.size);
  all[ranks.rank] = value;
  await ranks.sum(all);
  return all;
}

/** One value of each rank, by rank; it must be what JSON can hold. */
export async function gatherValues<T>(ranks: Ranks, value: T): Promise<T[]> {
  if (ranks.size === 1) return [value];
  const mine = new TextEncoder().encode(JSON.stringify(value));
  const ends = Array.from(await gather(ranks, mine.length));
  for (let rank = 1; rank < ranks.size; rank++) ends[rank] += ends[rank - 1];
  const all = new Float32Array(ends.at(-1)!); // a byte each, and zeros of the other ranks: sums are exact
  all.set(mine, ends[ranks.rank] - mine.length);
  await ranks.sum(all);
  const bytes = Uint8Array.from(all);
  const decoder = new TextDecoder();
  return ends.map((end, rank) => JSON.parse(decoder.decode(bytes.subarray(ends[rank - 1] ?? 0, end))));
}

// ------------------------------------------------------------------------------------------------------ MPI

/** What mpi.cc exports. */
interface Mpi {
  start(library: string): { rank: number; size: number; library: string };
  beginCount(number: number): void;
  counted(): number | undefined;
  addUp(values: Float32Array | Float64Array): void;
  spread(values: Float32Array | Float64Array | Uint8Array): void;
  sumAddress(): bigint;
  finish(): void;
  abort(code: number): void;
}

/** MPI in this process, from `joinRanks` to `leaveRanks`. */
let joined: { mpi: Mpi; rank: number } | undefined;

/** What each rank adds to the count before each call: 0, or why the call must not happen. */
const ABANDONED = 1;
const FAILED = 1 << 12;
const FIRST_FAILED = 1 << 24;

/**
 * Joins the ranks of this process's launcher; `alone` if there is none. Afterwards nothing in this process's environment
 * shows the launcher: a child process would take itself for a rank. Ranks other than 0 print nothing but errors from then on.
 * @returns also the name and version of the MPI library
 */
export async function joinRanks(): Promise<{ ranks: Ranks; library?: string }> {
  const launched = launchedRanks(process.env);
  if (launched <= 1) return { ranks: alone };
  const mpi = loadAddon();
  // UCX, by which MPICH talks, rewrites the C library's mmap in memory while Node's threads call it: 3 starts of 100 crashed.
  process.env.UCX_MEM_EVENTS ??= 'n';
  const { rank, size, library } = startMpi(mpi);
  for (const name of Object.keys(process.env)) if (OF_LAUNCHER.test(name)) delete process.env[name];
  joined = { mpi, rank };
  process.on('exit', endRanks);
  if (size !== launched)
    throw new UserError(
      `MPI: the launcher started ${launched} processes, but each takes itself for one of ${size}; start them with the mpiexec of the same MPI library (${firstLine(library)}), or with srun --mpi=pmi2`,
    );
  if (rank > 0) silence();
  const together = async () => {
    const sum = await count(mpi, 0);
    if (sum >= FAILED) throw new FailedElsewhere();
    if (sum > 0) throw new AbandonedElsewhere();
  };
  const ranks: Ranks = {
    rank,
    size,
    native: true,
    async any(flag) {
      await together();
      const flags = Float64Array.of(flag ? 1 : 0);
      mpi.addUp(flags);
      return flags[0] > 0;
    },
    async sum(values) {
      await together();
      mpi.addUp(values);
    },
    async broadcast(values) {
      await together();
      mpi.spread(values);
    },
    async abandon() {
      if ((await count(mpi, ABANDONED)) >= FAILED) throw new FailedElsewhere();
    },
  };
  return { ranks, library: firstLine(library) };
}

/** The function by which native code adds up over the ranks that this process has joined. */
export const sumAddress = (): bigint | undefined => joined?.mpi.sumAddress();

const firstLine = (text: string) => text.split('\n')[0].replace(/\s+/g, ' ');

/** Milliseconds that a rank which has failed waits for the others to hear of it. */
const FAREWELL = 2000;

/**
 * The end of this process's work with the other ranks. If it has failed, they end too: quietly, if they soon wait for this
 * one, else by `endRanks`.
 * @returns whether this rank is to say why it failed: not if rank 0, which has its messages on top, has failed too
 */
export async function leaveRanks(failed: boolean): Promise<boolean> {
  if (!joined) return true;
  const { mpi, rank } = joined;
  let speaks = true;
  if (failed) {
    const sum = await Promise.race([count(mpi, rank === 0 ? FIRST_FAILED : FAILED), delay(FAREWELL)]);
    if (sum === undefined) return true;
    speaks = rank === 0 || sum < FIRST_FAILED;
  }
  while ((await count(mpi, 0)) >= FAILED);
  joined = undefined;
  mpi.finish();
  return speaks;
}

/** Ends this process and all other ranks at once, if it has not left them; also when it exits, however that came. */
export function endRanks(code: number): void {
  joined?.mpi.abort(code || 1);
}

/** Number of processes that a launcher has started; 1 without one. */
export function launchedRanks(env: NodeJS.ProcessEnv): number {
  // MPICH and its relatives; Open MPI; srun, in its own steps only (SLURM_NTASKS is there in a batch script too).
  const size = env.PMI_SIZE ?? env.OMPI_COMM_WORLD_SIZE ?? env.SLURM_STEP_NUM_TASKS;
  return Number(size ?? 1) || 1;
}

/** Variables by which MPI and its launchers know a rank; those of a Slurm job stay. */
const OF_LAUNCHER =
  /^(PMI|PMIX|HYDI|HYDRA|MPI|MPIR|MPIEXEC|OMPI|PRTE|PALS)_|^SLURM_(STEP|PMI|MPI|PROCID|LOCALID)/;

function loadAddon(): Mpi {
  const addon = findInstalled()?.mpi;
  if (addon?.source !== mpiDigest())
    throw new UserError(
      'MPI: this process is one of several, and training by several needs the native engine; install it with: realm engine install --mpi',
    );
  return createRequire(import.meta.url)(addon.file) as Mpi;
}

/** The library that REALM_MPI names, or the installed one. */
function startMpi(mpi: Mpi): ReturnType<Mpi['start']> {
  const named = process.env.REALM_MPI;
  const library = named ?? `${mpiFolder()}/lib/libmpi_abi.so.1`;
  if (!existsSync(library) && (named === undefined || named.includes('/')))
    throw new UserError(
      `${library}: no MPI library there; ${named === undefined ? 'install it with: realm engine install --mpi, or name that of this cluster (libmpi_abi.so.1) with' : 'correct'} REALM_MPI`,
    );
  try {
    return mpi.start(library);
  } catch (error) {
    throw new UserError(
      `${library}: cannot be used as the MPI library (${(error as Error).message}); name another with REALM_MPI`,
    );
  }
}

/** Milliseconds of waiting during which this process looks again at once, and then every millisecond. */
const AT_ONCE = 5;
const EVERY_MILLISECOND = 500;

/**
 * The sum of the numbers that all ranks have given, once they have come. A wait may be long, as that for a checkpoint: it
 * must not take a processor from rank 0.
 */
async function count(mpi: Mpi, mine: number): Promise<number> {
  mpi.beginCount(mine);
  const since = performance.now();
  for (;;) {
    const sum = mpi.counted();
    if (sum !== undefined) return sum;
    const waited = performance.now() - since;
    await (waited < AT_ONCE ? pause() : delay(waited < EVERY_MILLISECOND ? 1 : 20));
  }
}

function delay(milliseconds: number): Promise<undefined> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds, undefined));
}

/** Processor threads for this rank: its share where ranks may use the same processors. */
export async function threadsOf(ranks: Ranks): Promise<number> {
  const all = availableParallelism();
  if (ranks.size === 1) return all;
  return Math.max(1, Math.floor(all / (await sharing(ranks, `${hostname()} ${allowedProcessors()}`))));
}

/** How many ranks are on this machine, with this one. */
export const ranksHere = (ranks: Ranks): Promise<number> => sharing(ranks, hostname());

/** How many ranks say the same. */
async function sharing(ranks: Ranks, place: string): Promise<number> {
  const own = hash(place);
  return (await gather(ranks, own)).filter((other) => other === own).length;
}

/** The processors that this process may use, as Linux lists them: launchers may give each rank its own. */
function allowedProcessors(): string {
  try {
    return /^Cpus_allowed_list:.*$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[0] ?? '';
  } catch {
    return '';
  }
}

/** 32 bits of a text (FNV-1a). */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

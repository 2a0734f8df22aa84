import type { Shard } from '../retrieval/shards.ts';
import { UserError } from '../system/errors.ts';

/** What the command line says about the shard. */
export interface ShardOptions {
  /** `3/8`. */
  shard?: string;
  /** How many there are, where a scheduler says only which one. */
  shards?: number;
}

const EXAMPLE = 'say which with --shard, such as --shard 3/8';

/**
 * The shard of this process: `--shard`, else the task of a Slurm array or the index of a Kubernetes job.
 * Slurm: without `--shards` the array is the whole division and may start at any number; with it a task's number is the
 * shard's, so that some of them can be made again. Kubernetes counts from 0, and does not say how many there are.
 */
export function whichShard({ shard, shards }: ShardOptions, env: NodeJS.ProcessEnv = process.env): Shard {
  if (shard !== undefined) return parsed(shard, shards);
  const { SLURM_ARRAY_TASK_ID: task, JOB_COMPLETION_INDEX: index } = env;
  if (task !== undefined) {
    const number = whole('SLURM_ARRAY_TASK_ID', task);
    if (shards !== undefined)
      return checked({ number, of: shards }, `SLURM_ARRAY_TASK_ID ${task} with --shards ${shards}`);
    const [count, first, last] = ['COUNT', 'MIN', 'MAX'].map((name) =>
      whole(`SLURM_ARRAY_TASK_${name}`, env[`SLURM_ARRAY_TASK_${name}`]),
    );
    if (last - first + 1 !== count)
      throw new UserError(
        `SLURM_ARRAY_TASK_COUNT: the array has ${count} tasks from ${first} to ${last}, so some numbers are left out; say with --shards how many shards there are, numbered from 1`,
      );
    return checked({ number: number - first + 1, of: count }, `SLURM_ARRAY_TASK_ID ${task}`);
  }
  if (index !== undefined) {
    if (shards === undefined)
      throw new UserError(
        `JOB_COMPLETION_INDEX: Kubernetes does not say how many indexes there are; add --shards with the number in spec.completions`,
      );
    const number = whole('JOB_COMPLETION_INDEX', index) + 1;
    return checked({ number, of: shards }, `JOB_COMPLETION_INDEX ${index} with --shards ${shards}`);
  }
  throw new UserError(
    `--shard: is missing, and this is no task of a Slurm array or Kubernetes job with indexes; ${EXAMPLE}`,
  );
}

function parsed(text: string, shards: number | undefined): Shard {
  const [, number, of] = /^(\d{1,9})\/(\d{1,9})$/.exec(text) ?? [];
  if (of === undefined) throw new UserError(`--shard ${text}: is not a shard; ${EXAMPLE}`);
  if (shards !== undefined && shards !== Number(of))
    throw new UserError(
      `--shard ${text}: names another number of shards than --shards ${shards}; leave out --shards`,
    );
  return checked({ number: Number(number), of: Number(of) }, `--shard ${text}`);
}

function checked(shard: Shard, what: string): Shard {
  if (shard.number >= 1 && shard.number <= shard.of) return shard;
  throw new UserError(`${what}: the shards are numbered from 1 to ${shard.of}; ${EXAMPLE}`);
}

function whole(name: string, value: string | undefined): number {
  if (value !== undefined && /^\d{1,9}$/.test(value)) return Number(value);
  throw new UserError(
    `${name}: ${value === undefined ? 'is not set' : `"${value}" is not a whole number`}; ${EXAMPLE}`,
  );
}

import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { UserError } from '../system/errors.ts';
import { PASSWORD } from './address.ts';
import { doneSchema, type ShardJob } from './jobs.ts';

// The worker's side of the process that embeds: `realm embed`, one process a shard. The worker's own event loop stays free to
// renew the lease, and a crash or a full memory ends the shard and not the worker.

const REALM = fileURLToPath(new URL('../../bin/realm', import.meta.url));
const IDENTITY = fileURLToPath(new URL('./engine-identity.ts', import.meta.url));

/** The variable by which `realm embed` knows that a worker has started it, and wants signs of life. */
export const BY_WORKER = 'REALM_BY_WORKER';

/** The engine that a worker computes with. */
export interface WorkerEngine {
  engine: string;
  threads?: number;
}

/** A process that embeds is silent for so long only if it hangs: it sends a sign of life between two batches. In milliseconds. */
const SILENCE = 120_000;

/** `engineIdentity` of the processes that will embed; a `UserError` if the engine does not start. */
export async function askIdentity(engine: string): Promise<string> {
  const child = fork(IDENTITY, [], {
    execArgv: ['--import', import.meta.resolve('../typescript.mjs')],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  child.send({ engine });
  const [answer, killed] = await Promise.race([once(child, 'message'), once(child, 'exit')]);
  const { identity, message } = z
    .object({ identity: z.string(), message: z.string() })
    .partial()
    .catch({})
    .parse(answer);
  if (identity !== undefined) return identity;
  const why = killed === null ? 'does not start' : `the process that tried it was ended by ${killed}`;
  throw new UserError(message ?? `engine ${engine}: ${why}; free memory, or choose another --engine`);
}

/**
 * Embeds the shard of a job.
 * @param signal ends the process
 * @returns SHA-256 of its file
 */
export async function embedInChild(
  job: ShardJob,
  { engine, threads }: WorkerEngine,
  signal: AbortSignal,
): Promise<string> {
  const child = spawn(
    process.execPath,
    [
      REALM,
      ...['embed', '--run', job.run, '--snapshot', job.snapshot, '--shard', `${job.number}/${job.of}`],
      ...['--engine', engine, ...(threads === undefined ? [] : ['--threads', String(threads)]), '--json'],
    ],
    // With a channel to this process, it notices when this one is gone (see `reportToWorker` in pipeline/embed.ts).
    {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, [BY_WORKER]: '1', [PASSWORD]: undefined },
    },
  );
  let out = '';
  let err = '';
  child.stdout!.on('data', (piece) => {
    out += piece;
  });
  child.stderr!.on('data', (piece) => {
    process.stderr.write(piece);
    err = `${err}${piece}`.slice(-4000);
  });
  const stop = () => child.kill('SIGTERM');
  signal.addEventListener('abort', stop);
  const leave = () => child.kill('SIGKILL');
  process.on('exit', leave);
  const watch = watchSilence(child);
  try {
    const [code, killed] = await ended(child);
    const why = watch.hung() ? `no sign of life for ${SILENCE / 1000} s` : undefined;
    if (code !== 0) throw new Error(why ?? lastLine(err) ?? `ended with ${killed ?? `exit code ${code}`}`);
    return doneSchema.parse(JSON.parse(out)).sha256;
  } finally {
    watch.end();
    signal.removeEventListener('abort', stop);
    process.off('exit', leave);
  }
}

async function ended(child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> {
  const failed = once(child, 'error').then(([error]) => {
    throw error;
  });
  return Promise.race([once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>, failed]);
}

/** Ends a process that sends no message for too long. */
function watchSilence(child: ChildProcess) {
  let hung = false;
  let timer: NodeJS.Timeout;
  const restart = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      hung = true;
      child.kill('SIGKILL');
    }, SILENCE);
  };
  child.on('message', restart);
  restart();
  return { hung: () => hung, end: () => clearTimeout(timer) };
}

/** The sentence that a command printed last, without its name. */
function lastLine(text: string): string | undefined {
  return (
    text
      .trim()
      .split('\n')
      .at(-1)
      ?.replace(/^realm: /, '') || undefined
  );
}

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { UserError } from '../src/system/errors.ts';
import { processMemory } from './process-memory.ts';

/** What one command of realm took. */
export interface Took {
  seconds: number;
  /** Highest resident bytes of its process; 0 where the system does not tell. */
  peak: number;
}

const POLL_MILLISECONDS = 100;
/** `onTime` is called this often. */
const TELL_MILLISECONDS = 5000;

/**
 * Runs `bin/realm` to its end, as a user does; what it says is printed. A stop signal is passed on, and the command saves what it has.
 * Throws if it ends with another code than 0.
 * @param given for its standard input
 * @param onTime called every few seconds with what it has taken so far
 */
export async function realm(
  args: readonly string[],
  given?: string,
  onTime?: (took: Took) => void,
): Promise<Took & { out: string }> {
  const started = performance.now();
  // In a group of its own: else a Ctrl-C would reach it twice, which stops it without saving.
  const child = spawn(process.execPath, [join(import.meta.dirname, '../bin/realm'), ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  const pass = (signal: NodeJS.Signals) => void child.kill(signal);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, pass);
  let peak = 0;
  const took = () => ({ seconds: (performance.now() - started) / 1000, peak });
  const poll = setInterval(() => {
    if (child.pid !== undefined) peak = Math.max(peak, processMemory(child.pid, 'VmHWM') ?? 0);
  }, POLL_MILLISECONDS);
  const tell = setInterval(() => onTime?.(took()), TELL_MILLISECONDS);
  try {
    child.stdin.on('error', () => {}); // a command that has ended early says why
    child.stdin.end(given);
    const ended = new Promise<string | number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => resolve(signal ?? code));
    });
    const [out, end] = await Promise.all([text(child.stdout), ended]);
    if (end !== 0)
      throw new UserError(`realm ${args[0]} ended with ${end}; run the same command again to resume`);
    return { ...took(), out };
  } finally {
    clearInterval(poll);
    clearInterval(tell);
    onTime?.(took());
    for (const signal of signals) process.off(signal, pass);
  }
}

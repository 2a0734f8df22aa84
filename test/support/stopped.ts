import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import type { LoopResult } from '../../src/train/loop.ts';

/** The result of `run` if this process gets SIGTERM once the file `metrics` has this many lines; 0: once it exists. */
export async function stopAfter<T>(lines: number, metrics: string, run: () => Promise<T>): Promise<T> {
  const logged = () => (existsSync(metrics) ? readFileSync(metrics, 'utf8').split('\n').length - 1 : -1);
  const watch = setInterval(() => {
    if (logged() < lines) return;
    clearInterval(watch); // a second signal would end the process
    process.emit('SIGTERM');
  }, 1);
  try {
    return await run();
  } finally {
    clearInterval(watch);
  }
}

/** Runs a stage that gets SIGTERM once its `metrics` have this many lines, and checks that it stopped. */
export async function stoppedAfter(
  lines: number,
  metrics: string,
  run: () => Promise<LoopResult>,
): Promise<void> {
  const { stopped } = await stopAfter(lines, metrics, run);
  assert.equal(stopped, true);
}

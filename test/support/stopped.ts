import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import type { LoopResult } from '../../src/train/loop.ts';

/** Runs a stage that is sent SIGTERM once its `metrics` hold so many lines, and that must have stopped by it. */
export async function stoppedAfter(
  lines: number,
  metrics: string,
  run: () => Promise<LoopResult>,
): Promise<void> {
  const logged = () => (existsSync(metrics) ? readFileSync(metrics, 'utf8').split('\n').length - 1 : 0);
  const stop = setInterval(() => {
    if (logged() >= lines) process.emit('SIGTERM');
  }, 1);
  const cut = await run();
  clearInterval(stop);
  assert.equal(cut.stopped, true);
}

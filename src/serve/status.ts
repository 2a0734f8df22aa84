import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { loadConfig } from '../config.ts';
import { errorCode } from '../errors.ts';
import type { Run, Stage } from '../run.ts';

/** How far a stage has come by its log. */
export interface StageStatus {
  stage: Stage;
  step: number;
  steps: number;
  figures: Record<string, number>;
}

/** The stages of a run that have logged a step, with their last figures. */
export function runStatus(run: Run): { run: string; stages: StageStatus[] } {
  const { ict, pretrain, qa, closedBook } = loadConfig(run.config, []);
  const steps = { ict, pretrain, qa, 'closed-book': closedBook };
  const stages = (Object.keys(steps) as Stage[]).flatMap((stage): StageStatus[] => {
    const last = lastStep(run.metrics(stage));
    return last ? [{ stage, ...last, steps: steps[stage].steps }] : [];
  });
  return { run: basename(resolve(run.dir)), stages };
}

/** Bytes of a log's end that are read: a line has a few hundred. */
const TAIL = 1 << 16;

/** The last line of a log that tells its step; what a kill cut short, or an evaluation wrote, is passed over. */
function lastStep(path: string): Pick<StageStatus, 'step' | 'figures'> | undefined {
  for (const line of tail(path).split('\n').reverse()) {
    try {
      const { step, loss, ...rest } = JSON.parse(line);
      if (!Number.isSafeInteger(step) || typeof loss !== 'number') continue;
      const figures = Object.entries<unknown>({ loss, ...rest }).filter(
        (entry): entry is [string, number] => typeof entry[1] === 'number',
      );
      return { step, figures: Object.fromEntries(figures) };
    } catch {}
  }
  return undefined;
}

function tail(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return '';
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(Math.min(size, TAIL));
    const n = readSync(fd, bytes, 0, bytes.length, size - bytes.length);
    return bytes.toString('utf8', 0, n);
  } finally {
    closeSync(fd);
  }
}

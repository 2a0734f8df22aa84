import { basename, resolve } from 'node:path';
import { loadConfig } from '../config.ts';
import { readStage } from '../report/record.ts';
import { type UnderWay, underWay } from '../report/under-way.ts';
import { type Run, stepsOf } from '../run/folder.ts';
import { STAGES, type Stage } from '../run/stages.ts';

/** Progress of a stage, from its log. */
export interface StageStatus {
  stage: Stage;
  step: number;
  steps: number;
  figures: Record<string, number>;
}

/** The stages of a run that have logged a step, with their last metrics, and the command that is running in it. */
export function runStatus(run: Run): { run: string; stages: StageStatus[]; underWay?: UnderWay } {
  const config = loadConfig(run.config, []);
  const stages = STAGES.flatMap((stage): StageStatus[] => {
    const { last } = readStage(run, stage, config);
    return last ? [{ stage, ...last, steps: stepsOf(config, stage) }] : [];
  });
  const working = underWay(run);
  return { run: basename(resolve(run.dir)), stages, ...(working && { underWay: working }) };
}

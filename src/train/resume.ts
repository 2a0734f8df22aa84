import { isGroup, withoutPaths } from '../config.ts';
import { UserError } from '../system/errors.ts';
import type { Checkpoint, State } from './checkpoints.ts';

// What a stage does with an existing checkpoint, by the number of steps requested:
//   no more than are done, or fewer than a finished stage has   refused
//   fewer than it was started for, but more than are done       an unfinished stage is shortened
//   as many                                                     it resumes; if all are done, there is nothing to do
//   more                                                        it is extended, finished or not

/** Whether all steps of the checkpoint's stage are done; imported weights have no steps. */
export function isFinished(state: State, steps: number): boolean {
  return state.step > 0 && state.step >= steps;
}

/**
 * A `UserError` if a stage cannot continue from `state`: steps that are done cannot be undone by fewer steps, and settings
 * of a finished stage cannot be changed afterwards.
 * @param root folder of the stage's checkpoints
 * @param setting name of the setting for the number of steps
 */
export function needResumable(
  root: string,
  state: State,
  steps: number,
  settings: Record<string, unknown>,
  setting = 'the number of steps',
): void {
  if (steps <= state.step && state.step < state.steps)
    throw new UserError(
      `${root}: ${state.step} of ${state.steps} steps of this stage are done, and ${setting} is ${steps} now; ` +
        `set ${setting} to at least ${state.step + 1}, or train it again with --resume none`,
    );
  if (steps < state.step)
    throw new UserError(
      `${root}: this stage was trained for ${state.steps} steps (${state.step} are done), and ${setting} is ${steps} now; ` +
        `set ${setting} to ${state.steps}, or to more to extend it, or train it again with --resume none`,
    );
  if (!isFinished(state, steps)) return;
  const changed = changes(state.settings, settings);
  if (changed.length > 0)
    throw new UserError(
      `${root}: this stage is finished, and these settings have changed since: ${changed.join(', ')}; ` +
        `set them back, raise ${setting} to extend it with them, or train it again with --resume none`,
    );
}

/**
 * A `UserError` if an unfinished stage would continue with another corpus. A finished one may: with more steps it equals no
 * undisturbed training in any case.
 */
export function needSameCorpus(root: string, { dir, state }: Checkpoint, corpusSha256: string): void {
  if (state.corpusSha256 === corpusSha256 || state.step >= state.steps) return;
  throw new UserError(
    `${dir}: was trained on a different corpus; prepare that corpus again to resume, or remove ${root} to train the stage again`,
  );
}

/**
 * `qa.batch 4, before 2` for every setting that differs. Paths are left out, since a run may be moved; so are settings
 * that an older version did not record.
 */
export function changes(before: Record<string, unknown>, now: Record<string, unknown>): string[] {
  return differences(withoutPaths(before), withoutPaths(now), '');
}

function differences(before: Record<string, unknown>, now: Record<string, unknown>, path: string): string[] {
  return Object.keys(now).flatMap((key) => {
    const [was, is] = [before[key], now[key]];
    if (was === undefined) return [];
    if (isGroup(was) && isGroup(is)) return differences(was, is, `${path}${key}.`);
    const [a, b] = [JSON.stringify(was), JSON.stringify(is)];
    return a === b ? [] : [`${path}${key} ${b}, before ${a}`];
  });
}

import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { outcome } from './leavings.ts';
import { newFolder, STAGES, type StageCommand, settings, startStage } from './world.ts';

export const COMMANDS = [...STAGES, 'eval exact-match'] as const;
export type Command = StageCommand | 'eval exact-match';

/** An undisturbed run. */
export interface Reference {
  set: string[];
  /** Copies of the run folder before each command. */
  before: Record<Command, string>;
  outcome: Record<Command, Record<string, string>>;
  /** Seconds of each command, including the start of the process. */
  seconds: Record<Command, number>;
}

const held = new Map<string, Promise<Reference>>();

/** Runs all commands one after the other with the usual settings and `more`; once for each `more`. */
export function reference(more: readonly string[] = []): Promise<Reference> {
  const key = more.join(' ');
  const made = held.get(key) ?? make(more);
  held.set(key, made);
  return made;
}

async function make(more: readonly string[]): Promise<Reference> {
  const dir = newFolder('reference');
  mkdirSync(dir);
  const set = settings({ more });
  const result = { set, before: {}, outcome: {}, seconds: {} } as Reference;
  for (const command of COMMANDS) {
    result.before[command] = newFolder(`before-${command.replace(' ', '-')}`);
    copyRun(dir, result.before[command]);
    const started = startStage(command, dir, set);
    const { code, seconds } = await started.ended;
    if (code !== 0)
      throw new Error(`the undisturbed run failed in ${command} (code ${code}):\n${started.stderr()}`);
    result.seconds[command] = seconds;
    result.outcome[command] = outcome(dir, command);
  }
  return result;
}

/** Copies a run folder without its lock, which belongs to the process that holds it. */
export function copyRun(from: string, to: string): void {
  cpSync(from, to, {
    recursive: true,
    force: true,
    filter: (path) => path !== join(from, 'lock'),
  });
}

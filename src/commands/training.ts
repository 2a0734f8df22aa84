import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Config } from '../config.ts';
import type { CommonOptions, Context } from '../pipeline/context.ts';
import type { Run } from '../run/folder.ts';
import type { Stage } from '../run/stages.ts';
import { say } from '../system/progress.ts';
import { STOPPED, stopMeans } from '../system/stop.ts';
import type { Which } from '../train/checkpoints.ts';
import type { LoopResult } from '../train/loop.ts';
import { GROUPS } from './help.ts';
import { runOptions, settingsOptions, yesOption } from './options.ts';
import { print, printNext, valueLines } from './print.ts';

export interface TrainingOptions extends CommonOptions {
  resume: Which | 'none';
  yes: boolean;
}

/** A stage that trains: the part of its command that is the same for all. */
export interface TrainingCommand<O extends TrainingOptions> {
  stage: Exclude<Stage, 'closed-book'>;
  description: string;
  load(): Promise<(context: Context) => Promise<LoopResult>>;
  /** Adds the options that only this stage has. */
  own?(command: Command): void;
  /** Settings that the stage's own options stand for, as `--set` has them. */
  settings?(options: O): string[];
}

/** Registers the command of a stage. @param exitWith called with the exit code of a stage that was stopped */
export function trainingCommand<O extends TrainingOptions>(
  program: Command,
  exitWith: (code: number) => void,
  { stage, description, load, own, settings }: TrainingCommand<O>,
): Command {
  const command = program.command(stage).helpGroup(GROUPS.train).description(description);
  own?.(command);
  command.addOption(
    new Option(
      '--resume <checkpoint>',
      'checkpoint to resume from: latest, best, a step, or none to start over',
    )
      .argParser(checkpoint)
      .default('latest'),
  );
  runOptions(settingsOptions(yesOption(command)));
  return command.action(async (options: O) => {
    const { goBack, needDivisible, needStage, openRunForWork } = await import('../pipeline/context.ts');
    const { joinRanks } = await import('../engine/ranks.ts');
    const { ranks, library } = await joinRanks();
    if (library) say(`MPI: ${library}`);
    const train = await load();
    const set = [...options.set, ...(settings?.(options) ?? [])];
    const { checkNeeds } = await import('../pipeline/gate.ts');
    const checks = {
      settings(run: Run, config: Config) {
        needDivisible(config, stage, ranks);
        needStage(run, config, stage, options.resume);
      },
      needs: options.yes
        ? undefined
        : (context: Context, ranksHere: number) =>
            checkNeeds(context, stage, { again: options.resume === 'none', ranksHere }),
    };
    const context = await openRunForWork({ ...options, set }, stage, checks, ranks);
    if (ranks.rank === 0) goBack(context, stage, options.resume);
    stopMeans('what was saved is kept, and the same command resumes from it');
    const result = await train(context);
    if (result.stopped) {
      exitWith(STOPPED);
      const next = result.step > 0 ? `resumes from step ${result.step}` : 'starts the stage again';
      print(options, result, [`stopped and saved; the same command ${next}`]);
    } else {
      print(options, result, resultLines(result));
      await printNext(context, stage);
    }
  });
}

/** Metrics of the last steps, labelled: they look like an evaluation, but are of examples that the stage trains on. */
export function resultLines({ metrics, seconds }: LoopResult): string[] {
  const measured = Object.keys(metrics).length > 0;
  return [
    ...(measured ? ['measured on training examples, means over the last steps:'] : []),
    ...valueLines({ ...metrics, seconds }),
  ];
}

function checkpoint(value: string): Which | 'none' {
  if (value === 'latest' || value === 'best' || value === 'none') return value;
  if (!/^\d{1,15}$/.test(value))
    throw new InvalidArgumentError('expected latest, best, none, or the step of a checkpoint');
  return Number(value);
}

import { Command, CommanderError } from 'commander';
import { registerAblate } from './commands/ablate.ts';
import { registerAsk } from './commands/ask.ts';
import { registerBuildIndex } from './commands/build-index.ts';
import { registerConfig } from './commands/config.ts';
import { registerData } from './commands/data.ts';
import { registerDemo } from './commands/demo.ts';
import { registerDoctor } from './commands/doctor.ts';
import { registerEmbed } from './commands/embed.ts';
import { registerEngine } from './commands/engine.ts';
import { registerEval } from './commands/eval.ts';
import { registerExport } from './commands/export.ts';
import { registerFinetuneQa } from './commands/finetune-qa.ts';
import { argumentDescription, FOOTER, GROUPS, optionDescription } from './commands/help.ts';
import { registerIctWarmup } from './commands/ict-warmup.ts';
import { registerImport } from './commands/import.ts';
import { registerInit } from './commands/init.ts';
import { examples } from './commands/options.ts';
import { registerPrepare } from './commands/prepare.ts';
import { registerPretrain } from './commands/pretrain.ts';
import { registerReaderWarmup } from './commands/reader-warmup.ts';
import { registerReport } from './commands/report.ts';
import { registerServe } from './commands/serve.ts';
import { registerStatus } from './commands/status.ts';
import { registerWorker } from './commands/worker.ts';
import { endRanks, FailedElsewhere, leaveRanks } from './engine/ranks.ts';
import { explainSystemError, UserError } from './system/errors.ts';
import { releaseLocks } from './system/lock.ts';
import { complain } from './system/progress.ts';
import { stopMeans, stopNames } from './system/stop.ts';
import { VERSION } from './system/version.ts';

/** The program with all its commands. A command loads its code, and TensorFlow with it, when it runs and not before. */
export function realm(exitWith: (code: number) => void): Command {
  const program = new Command('realm')
    .description('Retrieval-augmented language model pre-training (REALM) on your own corpus')
    .version(VERSION, '-V, --version', 'show the version')
    .helpOption('-h, --help', 'show this help')
    .configureHelp({ optionDescription, argumentDescription, subcommandTerm: (command) => command.name() })
    .exitOverride();
  registerInit(program);
  registerData(program);
  registerConfig(program);
  registerDoctor(program);
  registerEngine(program, exitWith);

  registerDemo(program, exitWith);
  registerPrepare(program);
  registerIctWarmup(program, exitWith);
  registerBuildIndex(program);
  registerEmbed(program);
  registerWorker(program);
  registerReaderWarmup(program, exitWith);
  registerPretrain(program, exitWith);
  registerFinetuneQa(program, exitWith);
  registerImport(program);

  registerEval(program);
  registerAblate(program, exitWith);
  registerStatus(program);
  registerReport(program);

  registerAsk(program);
  registerServe(program);
  registerExport(program);
  program.commandsGroup(GROUPS.use).helpCommand('help [command]', 'Show the help of a command');
  examples(program, 'demo', 'ask --run runs/demo', 'eval exact-match --help').addHelpText('after', FOOTER);
  return program;
}

/** Runs one command line; the result is the exit code: 0 done, 2 the user's mistake, 1 a bug, 130 stopped by a signal. */
export async function main(argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  let failed = false;
  const program = realm((code) => {
    exitCode = code;
  });
  program.hook('preAction', (_, action) => {
    stopNames(fullName(action).replace('realm ', ''));
    stopMeans('the same command starts again');
  });
  for (const command of commandsOf(program)) command.showHelpAfterError(`(see ${fullName(command)} --help)`);

  try {
    await program.parseAsync(argv as string[]);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has printed it already
    // The launcher returns the exit code of the rank that has failed.
    if (error instanceof FailedElsewhere) return 0;
    failed = true;
    const sentence = error instanceof UserError ? error.message : explainSystemError(error);
    const speaks = await leaveRanks(true);
    const bug = 'realm: this is a bug; please report it with the lines above';
    if (speaks)
      complain(sentence === undefined ? `${(error as Error)?.stack ?? error}\n${bug}` : `realm: ${sentence}`);
    exitCode = sentence === undefined ? 1 : 2;
    return exitCode;
  } finally {
    if (!failed) await leaveRanks(false);
    releaseLocks();
    endRanks(exitCode);
  }
}

/** A command and all below it. */
export function commandsOf(command: Command): Command[] {
  return [command, ...command.commands.flatMap(commandsOf)];
}

/** A command's whole name, such as `realm data get`. */
export function fullName(command: Command): string {
  return command.parent ? `${fullName(command.parent)} ${command.name()}` : command.name();
}

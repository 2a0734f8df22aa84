import { type Command, InvalidArgumentError, Option } from 'commander';
import { UserError } from '../system/errors.ts';

// Options that several commands have, one description and one check for each. TensorFlow is not loaded here.

const COMMON = 'Common options:';

/** `--config` and `--seed`, for a command that may start a run or train in it. */
export function settingsOptions(command: Command): Command {
  return command
    .optionsGroup(COMMON)
    .option(
      '--config <file>',
      'settings of a new run: a YAML file, or the name of one that comes with realm, such as squad-open',
    )
    .option('--seed <n>', 'seed of all random numbers', wholeNumber);
}

/** `--run`, `--set` and the options of the machine. @param run folder of the run where none is named */
export function runOptions(command: Command, run = 'runs/default'): Command {
  runOption(command, run).option('--set <path=value>', 'change one setting; repeatable', collect, []);
  return jsonOption(engineOptions(command));
}

export function runOption(command: Command, run?: string): Command {
  return command.optionsGroup(COMMON).option('--run <dir>', 'folder of the run', run);
}

export function engineOptions(command: Command): Command {
  const engine = new Option('--engine <name>', 'compute backend')
    .choices(['auto', 'tensorflow', 'webgpu', 'wasm', 'cpu'])
    .default('auto');
  const choose = engine.parseArg!;
  engine.argParser((value, previous) => {
    if (['cuda', 'gpu'].includes(value))
      throw new InvalidArgumentError(
        'NVIDIA GPUs belong to tensorflow, installed with: realm engine install --cuda',
      );
    return choose(value, previous as string);
  });
  return command
    .optionsGroup(COMMON)
    .addOption(engine)
    .option('--threads <n>', 'processor threads to compute with (default: all)', atLeastOne);
}

export function jsonOption(command: Command): Command {
  return command
    .optionsGroup(COMMON)
    .option('--json', 'print one JSON document on stdout; everything else goes to stderr', false)
    .addHelpOption(new Option('-h, --help', 'show this help').helpGroup(COMMON));
}

/** `--queue`, for a command that makes indexes. */
export function queueOption(command: Command): Command {
  return command.option(
    '--queue <url>',
    'Redis server whose workers (realm worker) embed the blocks, such as redis://host:6379; not saved with the run (default: refresh.queue)',
  );
}

export function yesOption(command: Command): Command {
  return command.option('--yes', 'start even if it takes days or needs more memory than there is', false);
}

/** `--stage`: the stage that a command works with. */
export function stageOption<S extends string>(
  command: Command,
  description: string,
  choices: readonly S[],
  chosen?: S,
): Command {
  const option = new Option('--stage <stage>', description).choices(choices);
  if (chosen !== undefined) option.default(chosen);
  const choose = option.parseArg!;
  option.argParser((value, previous) => {
    const now = { ict: 'ict-warmup', qa: 'finetune-qa' }[value];
    if (now !== undefined) throw new UserError(`--stage ${value}: has a new name; use --stage ${now}`);
    return choose(value, previous as string);
  });
  return command.addOption(option);
}

/** Refuses an option that has another name now. @param use what to write instead */
export function renamedOption(command: Command, old: string, use: string): Command {
  const option = new Option(`${old} [value]`).hideHelp().argParser(() => {
    throw new UserError(`${old}: has a new name; use ${use}`);
  });
  option.preset(''); // also without a value
  return command.addOption(option);
}

/** The examples at the end of a command's help. @param lines command lines, without `realm` */
export function examples(command: Command, ...lines: readonly string[]): Command {
  return command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  realm ${line}`).join('\n')}`);
}

export function collect(value: string, all: string[]): string[] {
  return [...all, value];
}

export function wholeNumber(value: string): number {
  const n = Number(value);
  if (!/^\d+$/.test(value) || !Number.isSafeInteger(n))
    throw new InvalidArgumentError('expected a whole number');
  return n;
}

export function atLeastOne(value: string): number {
  const n = wholeNumber(value);
  if (n < 1) throw new InvalidArgumentError('expected 1 or more');
  return n;
}

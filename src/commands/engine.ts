import { Argument, type Command, Option } from 'commander';
import { UserError } from '../system/errors.ts';
import { GROUPS } from './help.ts';
import { examples } from './options.ts';

export function registerEngine(program: Command, exitWith: (code: number) => void): void {
  const command = program
    .command('engine')
    .helpGroup(GROUPS.setUp)
    .description('Install the native engine, check it, or remove it from this machine')
    .addArgument(
      new Argument('[action]', 'what to do').choices(['install', 'status', 'remove']).default('status'),
    )
    .addOption(new Option('--cuda', 'install the one that computes on an NVIDIA GPU').conflicts('cpu'))
    .option('--cpu', 'go back to the one that computes on the processor')
    .option('--mpi', 'also install MPI (MPICH), with which several processes train together');
  examples(command, 'engine', 'engine install', 'engine install --cuda', 'engine install --mpi');
  command.action(async (action: string, options: { cuda?: true; cpu?: true; mpi?: true }) => {
    const { runEngineScript } = await import('../engine/install.ts');
    const flags = (['cuda', 'cpu', 'mpi'] as const)
      .filter((name) => options[name])
      .map((name) => `--${name}`);
    if (flags.length > 0 && action !== 'install')
      throw new UserError(
        `engine ${action}: takes no ${flags[0]}; did you mean "realm engine install ${flags[0]}"?`,
      );
    exitWith(await runEngineScript(action, ...flags));
  });
}

import type { Command } from 'commander';
import { GROUPS } from './help.ts';
import { examples, jsonOption, runOption } from './options.ts';
import { print } from './print.ts';

export function registerStatus(program: Command): void {
  const command = program
    .command('status')
    .helpGroup(GROUPS.measure)
    .description('Show what a run has, what is running in it, and what to run next')
    .argument('[runs...]', 'folders of runs (default: the one of --run, else all runs in the folder runs)');
  jsonOption(runOption(command));
  examples(command, 'status', 'status --run runs/mine', 'status runs/a runs/b');
  command.action(async (runs: string[], options: { run?: string; json: boolean }) => {
    const { runStates, statusLines } = await import('./status-lines.ts');
    const named = runs.length > 0 || options.run === undefined ? runs : [options.run];
    const states = runStates(named);
    print(options, named.length === 1 ? states[0] : states, statusLines(states));
  });
}

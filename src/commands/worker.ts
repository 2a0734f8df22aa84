import type { Command } from 'commander';
import type { WorkerCommand } from '../pipeline/worker.ts';
import { GROUPS } from './help.ts';
import { engineOptions, examples } from './options.ts';

export function registerWorker(program: Command): void {
  const command = program
    .command('worker')
    .helpGroup(GROUPS.train)
    .description('Embed shards for trainers on other machines, until it is stopped')
    .requiredOption(
      '--queue <url>',
      'Redis server that trainers use too, such as redis://host:6379; a password is better in the variable REALM_QUEUE_PASSWORD',
    );
  engineOptions(command);
  examples(command, 'worker --queue redis://host:6379', 'worker --queue rediss://host:6380 --threads 8');
  command.action(async (options: WorkerCommand) => {
    const { runWorker } = await import('../pipeline/worker.ts');
    // A signal is the ordinary end of a worker, with nothing lost: exit code 0.
    await runWorker(options);
  });
}

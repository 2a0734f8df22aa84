import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions } from './options.ts';
import { print } from './print.ts';

export function registerExport(program: Command): void {
  const command = program
    .command('export')
    .helpGroup(GROUPS.use)
    .description('Write the trained models as folders that Hugging Face transformers loads')
    .requiredOption('--to <dir>', 'folder to write');
  runOptions(command);
  examples(command, 'export --run runs/mine --to exported');
  command.action(async (options: CommonOptions & { to: string }) => {
    const { openRun } = await import('../pipeline/context.ts');
    const { exportRealm } = await import('../pipeline/export.ts');
    const parts = await exportRealm(await openRun(options, 'export'), options.to);
    print(
      options,
      parts,
      parts.map(({ folder, loadedBy }) => `${folder.padEnd(32)} ${loadedBy}`),
    );
  });
}

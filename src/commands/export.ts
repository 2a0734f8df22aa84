import { type Command, Option } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions } from './options.ts';
import { print } from './print.ts';

export function registerExport(program: Command): void {
  const command = program
    .command('export')
    .helpGroup(GROUPS.use)
    .description(
      'Write the trained models as folders that Hugging Face transformers or sentence-transformers loads',
    )
    .requiredOption('--to <dir>', 'folder to write')
    .addOption(
      new Option(
        '--format <name>',
        'realm: all models, for the REALM classes; or the retriever as a sentence encoder',
      )
        .choices(['realm', 'sentence-transformers'])
        .default('realm'),
    );
  runOptions(command);
  examples(
    command,
    'export --run runs/mine --to exported',
    'export --run runs/mine --to encoder --format sentence-transformers',
  );
  command.action(async (options: CommonOptions & { to: string; format: string }) => {
    const { openRun } = await import('../pipeline/context.ts');
    const { exportRealm } = await import('../pipeline/export.ts');
    const { exportSentenceTransformers } = await import('../pipeline/export-sentence-encoder.ts');
    const write = options.format === 'realm' ? exportRealm : exportSentenceTransformers;
    const parts = await write(await openRun(options, 'export'), options.to);
    print(
      options,
      parts,
      parts.map(({ folder, loadedBy }) => `${folder.padEnd(32)} ${loadedBy}`),
    );
  });
}

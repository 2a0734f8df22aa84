import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions, settingsOptions } from './options.ts';
import { print, printNext, valueLines } from './print.ts';

export function registerPrepare(program: Command): void {
  const command = program
    .command('prepare')
    .helpGroup(GROUPS.train)
    .description(
      'Turn your documents into a prepared corpus: vocabulary, blocks, sentences with salient spans',
    );
  runOptions(settingsOptions(command));
  examples(
    command,
    'prepare --config realm.yaml --run runs/mine',
    'prepare --config squad-open --set data.documents=documents.jsonl --run runs/squad',
  );
  command.action(async (options: CommonOptions) => {
    const { openNewRun, prepareCorpus } = await import('../pipeline/prepare.ts');
    const { run, config } = await openNewRun(options);
    const prepared = await prepareCorpus(run, config);
    const { leftOutKinds: _, ...counts } = prepared; // stderr has the kinds
    print(options, prepared, valueLines(counts));
    await printNext({ run, config }, 'prepare');
  });
}

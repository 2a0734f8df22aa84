import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { STOPPED } from '../system/stop.ts';
import { GROUPS } from './help.ts';
import { atLeastOne, examples, runOptions, settingsOptions, yesOption } from './options.ts';
import { print } from './print.ts';

interface AblateOptions extends CommonOptions {
  seeds: number;
  only?: string;
  yes: boolean;
}

export function registerAblate(program: Command, exitWith: (code: number) => void): void {
  const command = program
    .command('ablate')
    .helpGroup(GROUPS.measure)
    .description("Measure what each part of the method is worth: the paper's Table 2 on generated corpora")
    .option('--seeds <n>', 'number of seeds, counting up from the configured one', atLeastOne, 3)
    .option('--only <rows>', 'rows to measure, separated by commas (default: all)');
  runOptions(settingsOptions(yesOption(command)), 'runs/ablation');
  examples(command, 'ablate', 'ablate --seeds 1 --only realm,baseline --run runs/two-rows');
  command.action(async (options: AblateOptions) => {
    const { ablate } = await import('../pipeline/ablate.ts');
    const { ablationLines } = await import('../eval/ablation.ts');
    const table = await ablate(options);
    if (table === undefined) {
      exitWith(STOPPED);
      print(options, { stopped: true }, ['stopped and saved; the same command resumes from here']);
      return;
    }
    const { report } = await import('../pipeline/report.ts');
    const { file } = report([options.run]); // the figure
    print(options, table, [...ablationLines(table), '', `figure: ${file}`]);
  });
}

import type { Command } from 'commander';
import { UserError } from '../system/errors.ts';
import { GROUPS } from './help.ts';
import { atLeastOne, collect, examples, jsonOption } from './options.ts';
import { print } from './print.ts';

interface DoctorOptions {
  config?: string;
  set: string[];
  run?: string;
  blocks?: number;
  cores?: number[];
  workers?: number[];
  ranks?: number[];
  json: boolean;
}

export function registerDoctor(program: Command): void {
  const command = program
    .command('doctor')
    .helpGroup(GROUPS.setUp)
    .description('Show what this machine offers and, given settings, what a run will need')
    .option(
      '--config <file>',
      'settings (YAML) of a run to estimate: parameters, memory, disk and time of each stage',
    )
    .option('--set <path=value>', 'change one setting; repeatable', collect, [])
    .option('--run <dir>', 'run folder, for free disk space and, once prepared, data counts')
    .option('--blocks <n>', 'number of blocks to estimate for, where the data are only a sample', atLeastOne)
    .option('--cores <n,...>', 'also estimate for a machine with so many cores like these', numbers)
    .option('--workers <n,...>', 'also estimate an index that so many machines embed', numbers)
    .option('--ranks <n,...>', 'also estimate steps that so many machines train together', numbers);
  jsonOption(command);
  examples(
    command,
    'doctor',
    'doctor --config realm.yaml',
    'doctor --run runs/mine --set pretrain.steps=5000',
    'doctor --config realm.yaml --cores 8,32',
    'doctor --config realm.yaml --workers 8,64 --ranks 1,2,4',
  );
  command.action(async (options: DoctorOptions) => {
    const { doctor, formatDiagnosis } = await import('../preflight/machine.ts');
    const { preflightInput, preflightLines, runPreflight } = await import('../pipeline/preflight.ts');
    const { cores, workers, ranks, blocks } = options;
    if ((cores ?? workers ?? ranks ?? blocks) !== undefined && !options.config && !options.run)
      throw new UserError(
        'doctor: --cores, --workers, --ranks and --blocks need settings; name them with --config or --run',
      );
    const wantsEstimate = options.config !== undefined || options.set.length > 0 || options.run !== undefined;
    const input = wantsEstimate ? await preflightInput(options) : undefined;
    const diagnosis = await doctor(options.run);
    const estimate = input && (await runPreflight(input, diagnosis, options));
    print(options, { ...diagnosis, preflight: estimate }, [
      ...formatDiagnosis(diagnosis),
      ...(estimate ? preflightLines(estimate) : []),
    ]);
  });
}

/** One number or several, as `8,64`. */
function numbers(value: string): number[] {
  return value.split(',').map(atLeastOne);
}

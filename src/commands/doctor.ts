import type { Command } from 'commander';
import { GROUPS } from './help.ts';
import { collect, examples, jsonOption } from './options.ts';
import { print } from './print.ts';

interface DoctorOptions {
  config?: string;
  set: string[];
  run?: string;
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
    .option('--run <dir>', 'run folder, for free disk space and, once prepared, data counts');
  jsonOption(command);
  examples(
    command,
    'doctor',
    'doctor --config realm.yaml',
    'doctor --run runs/mine --set pretrain.steps=5000',
  );
  command.action(async (options: DoctorOptions) => {
    const { doctor, formatDiagnosis } = await import('../preflight/machine.ts');
    const { preflightInput, preflightLines, runPreflight } = await import('../pipeline/preflight.ts');
    const wantsEstimate = options.config !== undefined || options.set.length > 0 || options.run !== undefined;
    const input = wantsEstimate ? await preflightInput(options) : undefined;
    const diagnosis = await doctor(options.run);
    const estimate = input && (await runPreflight(input, diagnosis));
    print(options, { ...diagnosis, preflight: estimate }, [
      ...formatDiagnosis(diagnosis),
      ...(estimate ? preflightLines(estimate) : []),
    ]);
  });
}

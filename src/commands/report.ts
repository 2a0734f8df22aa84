import type { Command } from 'commander';
import { GROUPS } from './help.ts';
import { examples, jsonOption, runOption } from './options.ts';
import { print } from './print.ts';

interface ReportOptions {
  run: string;
  to?: string;
  json: boolean;
}

export function registerReport(program: Command): void {
  const command = program
    .command('report')
    .helpGroup(GROUPS.measure)
    .description(
      'Write one HTML page about one or several runs: curves, evaluations, retrieved blocks, examples',
    )
    .argument('[runs...]', 'folders of runs, drawn over one another (default: the one of --run)')
    .option('--to <file>', 'page to write (default: report.html in the first run)');
  jsonOption(runOption(command, 'runs/default'));
  examples(command, 'report --run runs/mine', 'report runs/a runs/b --to compared.html');
  command.action(async (runs: string[], options: ReportOptions) => {
    const { report } = await import('../pipeline/report.ts');
    const { file, bytes } = report(runs.length > 0 ? runs : [options.run], options.to);
    print(options, { file, bytes }, [`${file} (${(bytes / 1024).toFixed(0)} KiB)`]);
  });
}

import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { STOPPED } from '../system/stop.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions, settingsOptions, yesOption } from './options.ts';
import { print, printNext } from './print.ts';

export function registerDemo(program: Command, exitWith: (code: number) => void): void {
  const command = program
    .command('demo')
    .helpGroup(GROUPS.train)
    .description('Run every stage on a small generated corpus, in minutes');
  runOptions(settingsOptions(yesOption(command)), 'runs/demo');
  examples(command, 'demo', 'demo --seed 2 --run runs/demo-2');
  command.action(async (options: CommonOptions & { yes: boolean }) => {
    const { demo, demoLines } = await import('../pipeline/demo.ts');
    const result = await demo(options);
    if (result === undefined) {
      exitWith(STOPPED);
      print(options, { stopped: true }, ['stopped and saved; the same command resumes from here']);
      return;
    }
    print(options, result, demoLines(result));
    const { runFolder } = await import('../run/folder.ts');
    const { loadConfig } = await import('../config.ts');
    const run = runFolder(options.run);
    await printNext({ run, config: loadConfig(run.config, []) }, 'demo');
  });
}

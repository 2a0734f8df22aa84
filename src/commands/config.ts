import type { Command } from 'commander';
import { GROUPS } from './help.ts';
import { examples, jsonOption } from './options.ts';
import { print } from './print.ts';

export function registerConfig(program: Command): void {
  const command = program
    .command('config')
    .helpGroup(GROUPS.setUp)
    .description('Show all settings with meaning, unit, default and source, or what a run has changed')
    .argument('[name]', 'one setting, or a group of settings such as qa')
    .option('--run <dir>', 'run folder: show which of its settings differ from the defaults');
  jsonOption(command);
  examples(command, 'config', 'config qa', 'config qa.steps', 'config --run runs/mine');
  command.action(async (name: string | undefined, options: { run?: string; json: boolean }) => {
    const { describedSettings, runSettingLines, runSettings, settingLines } = await import(
      './config-lines.ts'
    );
    if (options.run === undefined) {
      const settings = describedSettings(name);
      return print(options, settings, settingLines(settings));
    }
    const names = new Set(describedSettings(name).map((setting) => setting.name));
    const changed = runSettings(options.run).filter((setting) => names.has(setting.name));
    print(options, changed, runSettingLines(changed));
  });
}

/** npm run docs:settings: writes docs/settings.md from the schema of the settings. A test compares the two. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isSetting, settingsReference } from '../src/settings.ts';
import { writeFileAtomic } from '../src/system/files.ts';

const HEAD = `<!-- Made by "npm run docs:settings" from src/settings.ts: change that file, not this one. -->

# Settings

A run reads its settings from a YAML file (\`--config FILE\`) and from \`--set NAME=VALUE\`; it keeps them in its \`config.yaml\`.
A file holds only what differs from the defaults below. \`extends: other.yaml\` at its top takes all other settings from another
file (relative to its own folder; \`realm:configs/world.yaml\` is one that comes with realm). Paths in a file are relative to its
folder, those of \`--set\` to the current folder; \`realm:\` stands for the folder of the package.

\`realm config\` prints this list as a settings file, \`realm config qa\` one group, \`realm config qa.steps\` one setting, and
\`realm config --run RUN\` what differs from the defaults in a run.

Sources: "paper" is [Guu et al. 2020](https://arxiv.org/abs/2002.08909); \`language/...\` is a path in
[google-research/language](https://github.com/google-research/language). A setting without a source has a default of our own.
`;

const TABLE = [
  '| setting | default | values | unit | meaning | source |',
  '| --- | --- | --- | --- | --- | --- |',
];

const row = (...cells: string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;

/** The text of docs/settings.md. */
export function settingsPage(): string {
  const lines = [HEAD];
  lines.push(...TABLE);
  for (const entry of settingsReference()) {
    if (isSetting(entry)) {
      const { name, values, unit = '', description, source = '' } = entry;
      lines.push(row(`\`${name}\``, `\`${entry.default}\``, values, unit, description, source));
    } else if (entry.name.includes('.'))
      lines.push(row(`**${entry.name}**`, '', '', '', entry.description, ''));
    else lines.push('', `## ${entry.name}`, '', entry.description, '', ...TABLE);
  }
  return `${lines.join('\n')}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  writeFileAtomic(join(import.meta.dirname, '../docs/settings.md'), settingsPage());

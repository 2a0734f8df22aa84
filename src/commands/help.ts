import type { Argument, Help, Option } from 'commander';

/** The groups of commands in `realm --help`. */
export const GROUPS = { setUp: 'Set up:', train: 'Train:', measure: 'Measure:', use: 'Use:' } as const;

/** Printed below `realm --help`. */
export const FOOTER = `
Exit codes:
  0    done
  1    a bug in realm
  2    wrong input: the command line, a setting or a file; the message says what to do
  130  stopped by a signal; what was saved is kept, and the same command resumes

"realm COMMAND --help" shows the options of a command and examples.`;

/** The description of an option, with the values to choose from and the default; a default of nothing is left out. */
export function optionDescription(this: Help, { description, argChoices, defaultValue }: Option): string {
  return withValues(description, argChoices, defaultValue);
}

/** The same for an argument. */
export function argumentDescription(this: Help, { description, argChoices, defaultValue }: Argument): string {
  return withValues(description, argChoices, defaultValue);
}

function withValues(description: string, choices: readonly string[] | undefined, value: unknown): string {
  const hasDefault = typeof value === 'string' || typeof value === 'number';
  const more = [
    ...(choices ? [`choices: ${choices.join(', ')}`] : []),
    ...(hasDefault ? [`default: ${value}`] : []),
  ];
  return more.length > 0 ? `${description} (${more.join('; ')})` : description;
}

import type { Context } from '../pipeline/context.ts';
import type { Done } from '../pipeline/next-command.ts';
import { isQuiet } from '../system/quiet.ts';

/** Prints a result on stdout: one JSON document with `json`, else the lines a person reads. */
export function print(options: { json: boolean }, result: unknown, lines: readonly string[]): void {
  if (isQuiet()) return;
  process.stdout.write(
    options.json ? `${JSON.stringify(result)}\n` : lines.map((line) => `${line}\n`).join(''),
  );
}

/** Prints the command that comes next on stderr: stdout is for the result alone. */
export async function printNext({ run, config }: Pick<Context, 'run' | 'config'>, done: Done): Promise<void> {
  if (isQuiet()) return;
  const { nextCommands } = await import('../pipeline/next-command.ts');
  for (const line of nextCommands(run, config, done)) process.stderr.write(`next: ${line}\n`);
}

/** One line for each value of a result, its name in words. */
export function valueLines(values: object): string[] {
  return Object.entries(values).map(([name, value]) => {
    const words = name.replace(/[A-Z]/g, (c) => ` ${c.toLowerCase()}`);
    return `${words.padEnd(20)} ${typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(4) : value}`;
  });
}

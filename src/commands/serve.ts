import { type Command, InvalidArgumentError } from 'commander';
import type { ServeOptions } from '../pipeline/serve.ts';
import { GROUPS } from './help.ts';
import { engineOptions, examples, jsonOption, runOption, wholeNumber } from './options.ts';
import { print } from './print.ts';

export function registerServe(program: Command): void {
  const command = program
    .command('serve')
    .helpGroup(GROUPS.use)
    .description("Serve a run's report in the browser, kept up to date, with a box for questions")
    .option(
      '--host <address>',
      'address to bind; any but loopback lets other machines in, which then need a token',
      '127.0.0.1',
    )
    .option('--port <n>', 'port to bind; 0: any free one', port, 8080)
    .option(
      '--token <token>',
      'token that every request needs (default: REALM_TOKEN; else, if others can reach the server, a new one that is printed). Other users of this machine may see it in the list of processes: prefer the variable REALM_TOKEN',
    )
    .option('--no-auth', 'need no token: everyone who can reach the server is let in')
    .option(
      '--origin <url>',
      'public address of the server behind a proxy, such as https://realm.example; a token is then needed',
    )
    .option(
      '--rate-limit <n>',
      'requests a minute of one client; 0: no limit (default: 600 if others can reach the server, else no limit)',
      wholeNumber,
    )
    .option(
      '--recent-answers <n>',
      'answers that are kept, so that the same question is not computed again; 0: none',
      wholeNumber,
      1000,
    );
  jsonOption(engineOptions(runOption(command, 'runs/default')));
  examples(command, 'serve --run runs/mine', 'serve --run runs/mine --host 0.0.0.0 --port 80');
  command.action(async (options: ServeOptions & { json: boolean }) => {
    const { serve } = await import('../pipeline/serve.ts');
    // A signal is the ordinary end of a server, with nothing left undone: 0, where a stage that it stops gives 130.
    await serve(options, (url) => print(options, { url }, [`${options.run} at ${url}; Ctrl-C stops`]));
  });
}

function port(value: string): number {
  const n = wholeNumber(value);
  if (n > 65_535) throw new InvalidArgumentError('expected 0 to 65535');
  return n;
}

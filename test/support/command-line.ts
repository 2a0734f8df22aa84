import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { after } from 'node:test';

export interface End {
  code: number | null;
  out: string;
  err: string;
}

/**
 * Runs command lines of `realm` to their end, one after another in the same process, because loading the code takes most
 * of a command's time.
 * @param cwd folder in which the first call starts that process
 */
export function commandLine(cwd?: string): (...args: string[]) => Promise<End> {
  let kept: ReturnType<typeof fork> | undefined;
  after(() => kept?.disconnect());
  return async (...args) => {
    kept ??= fork(join(import.meta.dirname, 'cli-process.ts'), [], {
      cwd,
      execArgv: ['--import', import.meta.resolve('tsx')],
    });
    kept.send(args);
    const [end] = await once(kept, 'message');
    return end;
  };
}

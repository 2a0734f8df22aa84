import { readFileSync, writeFileSync } from 'node:fs';
import { main } from '../../../src/cli.ts';
import { makeStates } from './runs.ts';

// CHILD-PROCESS ENTRY. Runs command lines for the parent, one after another, and reports how each ended. It is a separate
// process because a corrupted file may crash it.

export type ToWorker = { type: 'make'; root: string } | { type: 'run'; dir: string; argv: string[] };
export type FromWorker =
  | { type: 'made' }
  /** Peak bytes of memory beyond those held before. */
  | { type: 'ended'; code: number; said: string; grown: number };

let said = '';
const write = process.stderr.write.bind(process.stderr);
function listen(on: boolean): void {
  said = '';
  process.stderr.write = on
    ? (((text: string | Uint8Array) => {
        said += text;
        return true;
      }) as typeof process.stderr.write)
    : write;
}

/** Memory of this process in bytes, now or at the peak since `forgetPeak`. */
function memory(line: 'VmRSS' | 'VmHWM'): number {
  if (process.platform !== 'linux') return process.memoryUsage.rss();
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(new RegExp(`${line}:\\s+(\\d+)`).exec(status)![1]);
}

function forgetPeak(): void {
  if (process.platform === 'linux') writeFileSync('/proc/self/clear_refs', '5');
}

process.on('message', async (message: ToWorker) => {
  if (message.type === 'make') {
    listen(true);
    try {
      await makeStates(message.root);
    } catch (error) {
      write(said);
      throw error;
    }
    process.send!({ type: 'made' } satisfies FromWorker);
    return;
  }
  process.chdir(message.dir);
  listen(true);
  const before = memory('VmRSS');
  forgetPeak();
  const code = await main(['node', 'realm', ...message.argv]);
  const ended: FromWorker = { type: 'ended', code, said, grown: memory('VmHWM') - before };
  listen(false);
  process.chdir('/');
  process.send!(ended);
});
process.on('disconnect', () => process.exit(0));

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A Python process that answers requests, a line of JSON each. */
export interface PythonPeer {
  /** undefined once the process has ended. */
  ask(request: object): Promise<Record<string, unknown> | undefined>;
  end(): void;
}

/** JSON replacer: typed arrays of word pieces as plain arrays. */
function plain(_: string, value: unknown): unknown {
  return value instanceof Int32Array ? [...value] : value;
}

/** @param errors what becomes of its messages */
export function startPython(
  python: string,
  script: string,
  threads: number,
  errors: 'ignore' | 'inherit',
): PythonPeer {
  const env = { ...process.env, OMP_NUM_THREADS: String(threads), HF_HUB_OFFLINE: '1' };
  const child = spawn(python, [script], { env, stdio: ['pipe', 'pipe', errors] });
  const waiting: ((answer?: Record<string, unknown>) => void)[] = [];
  let ended = false;
  const end = () => {
    ended = true;
    for (const answer of waiting.splice(0)) answer();
  };
  child.on('error', end);
  child.on('exit', end);
  child.stdin!.on('error', () => {}); // the `exit` event reports it
  createInterface({ input: child.stdout! }).on('line', (line) => waiting.shift()?.(JSON.parse(line)));
  return {
    ask: (request) =>
      new Promise((resolve) => {
        if (ended) return resolve(undefined);
        waiting.push(resolve);
        child.stdin!.write(`${JSON.stringify(request, plain)}\n`);
      }),
    end: () => child.stdin!.end(),
  };
}

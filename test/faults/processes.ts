import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

// Real bin/realm processes and what Linux reports about them. Children inherit a mark in the environment, which finds all
// processes of one command, even those without their parent.

const ROOT = join(import.meta.dirname, '..', '..');
const BIN = join(ROOT, 'bin', 'realm');
const MARK = 'REALM_FAULTS_MARK';

export interface End {
  code: number | null;
  signal: NodeJS.Signals | null;
  seconds: number;
}

export interface Started {
  pid: number;
  /** Resolves when the command's own process has ended, even if its child has not. */
  ended: Promise<End>;
  running(): boolean;
  stdout(): string;
  stderr(): string;
  /** The running refresher children, with or without their trainer. */
  refreshers(): number[];
  /** All running processes that it has started, and those that they have. */
  children(): number[];
  /** Those of them that are `realm embed`. */
  embedding(): number[];
  /** Like Ctrl-C in a terminal: to the command and its children. */
  signalGroup(signal: NodeJS.Signals): void;
}

const living = new Set<number>();
process.on('exit', () => {
  for (const pid of living) endGroup(pid, 'SIGKILL');
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

let marks = 0;

/** Starts `realm` with these arguments in a process group of its own. */
export function startRealm(args: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
  return startProgram(process.execPath, [BIN, ...args], env);
}

/** Starts any program in a process group of its own. */
export function startProgram(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
  const mark = `${process.pid}.${++marks}`;
  const began = performance.now();
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...env, [MARK]: mark },
  });
  const pid = child.pid!;
  living.add(pid);
  let said = '';
  let result = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    result += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  let running = true;
  let seconds = 0;
  // The refresher also holds the trainer's stderr open, so `exit` is for the trainer only.
  const ended = new Promise<End>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      running = false;
      living.delete(pid);
      seconds = (performance.now() - began) / 1000;
      setTimeout(() => resolve({ code, signal, seconds }), 20); // the last of what it said is still on its way
    });
  });
  return {
    pid,
    ended,
    running: () => running,
    stdout: () => result,
    stderr: () => said,
    refreshers: () => processesWith(mark).filter((p) => p !== pid && isRefresher(p)),
    children: () => processesWith(mark).filter((p) => p !== pid),
    embedding: () => processesWith(mark).filter((p) => procFile(p, 'cmdline').split('\0').includes('embed')),
    signalGroup: (signal) => endGroup(pid, signal),
  };
}

/** Runs `realm` to its end. */
export async function runRealm(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const started = startRealm(args, env);
  return { ...(await started.ended), stdout: started.stdout(), stderr: started.stderr() };
}

function endGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {} // gone already
}

/** Sends a signal; false when the process is gone. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}

function processesWith(mark: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => procFile(Number(pid), 'environ').split('\0').includes(`${MARK}=${mark}`))
    .map(Number);
}

/** The refreshers whose parent is `pid`. */
export function refreshersOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((p) => new RegExp(`^PPid:\\s+${pid}$`, 'm').test(procFile(p, 'status')) && isRefresher(p));
}

function isRefresher(pid: number): boolean {
  return /refresher\/child\.ts/.test(procFile(pid, 'cmdline'));
}

/** A file of /proc/PID; empty when the process is gone, or is a zombie. */
function procFile(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

/** Memory in use (resident set) in MiB. */
export function residentMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(procFile(pid, 'status'))?.[1] ?? NaN) / 1024;
}

/** Processor time of a process so far, in seconds; 0 when it is gone. */
function processorSeconds(pid: number): number {
  const stat = procFile(pid, 'stat');
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13);
  return (Number(user ?? 0) + Number(system ?? 0)) / 100; // ticks of 10 ms
}

/** Processor time, and wall time, in which a child must notice that its trainer is gone, in seconds. */
const OUTLIVES = { processor: 3, all: 300 };

/**
 * Waits until no refresher of an ended command is left, and ends those that stay. A busy machine lets a nice process wait
 * for long, so its processor time counts.
 * @returns seconds that it took, and a complaint if it took too long
 */
export async function nobodyLeft(started: Started): Promise<{ seconds: number; complaint?: string }> {
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  const before = new Map(started.refreshers().map((pid) => [pid, processorSeconds(pid)]));
  for (;;) {
    const left = started.refreshers();
    if (left.length === 0) return { seconds: seconds() };
    const taken = Math.max(...left.map((pid) => processorSeconds(pid) - (before.get(pid) ?? 0)));
    if (taken > OUTLIVES.processor || seconds() > OUTLIVES.all) {
      for (const pid of left) signal(pid, 'SIGKILL');
      const long = `${seconds().toFixed(1)} s (${taken.toFixed(1)} s of processor time)`;
      return { seconds: seconds(), complaint: `a refresher outlives its trainer by ${long}` };
    }
    await sleep(20);
  }
}

/** Address space in bytes. */
export function virtualBytes(pid: number): number {
  return Number(/VmSize:\s+(\d+) kB/.exec(procFile(pid, 'status'))?.[1] ?? NaN) * 1024;
}

/** The open handles of a process: paths, pipes and sockets. */
export function openFiles(pid: number): string[] {
  const dir = `/proc/${pid}/fd`;
  try {
    return readdirSync(dir).flatMap((fd) => {
      try {
        return [readlinkSync(join(dir, fd))];
      } catch {
        return []; // closed between the two calls
      }
    });
  } catch {
    return [];
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** On any machine, however busy, an awaited event happens within this time unless something hangs. */
export const NET = 600;

/** Waits until `happened`, checking every few milliseconds; false if the time is over first. */
export async function until(happened: () => boolean, seconds = NET, every = 5): Promise<boolean> {
  const deadline = performance.now() + seconds * 1000;
  while (!happened()) {
    if (performance.now() > deadline) return false;
    await sleep(every);
  }
  return true;
}

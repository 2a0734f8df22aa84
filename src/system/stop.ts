import { Worker } from 'node:worker_threads';
import { note } from './journal.ts';

// SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal closed) end a command with one sentence and exit code 130, from its
// first line on (bin/realm listens until this file is loaded). Work that can save itself handles the first signal, with
// `onStop`; a second one leaves at once.

export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Exit code of a command that a signal ended. */
export const STOPPED = 130;

/** Handlers of the work under way; the newest one is called. */
const handlers: (() => void)[] = [];
let listening = false;
let command = 'realm';
let consequence = (): string => 'run the same command again';

/** Listens from now on, for the rest of the process. */
export function listenForSignals(): void {
  if (listening) return;
  listening = true;
  for (const name of SIGNALS) process.on(name, received);
  // A terminal that is gone takes no more lines; that must not turn the stop into a crash.
  process.on('SIGHUP', () => {
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  });
}

/** Names the command that a stop would end, for the sentence. */
export function stopNames(name: string): void {
  command = `realm ${name}`;
}

/** Says what a stop from now on leaves, and what the same command does next, as the end of a sentence. */
export function stopMeans(text: string | (() => string)): void {
  consequence = typeof text === 'string' ? () => text : text;
}

/**
 * Lets work handle a signal, until the function that it returns is called. The handler is called at every signal, and
 * calls `leave` when it wants to end at once.
 */
export function onStop(handler: () => void): () => void {
  handlers.push(handler);
  const alone = !listening; // a test, or another program, that uses a stage as a library
  if (alone) for (const name of SIGNALS) process.on(name, handler);
  return () => {
    handlers.splice(handlers.lastIndexOf(handler), 1);
    if (alone) for (const name of SIGNALS) process.off(name, handler);
  };
}

/** Ends the process now, with the sentence. Locks are given back as the process exits. */
export function leave(what = consequence()): never {
  const sentence = `${command}: stopped; ${what}`;
  process.stderr.write(`\n${sentence}\n`);
  note(sentence, 'note');
  process.exit(STOPPED);
}

function dispatch(): void {
  const handler = handlers.at(-1);
  if (handler) handler();
  else leave();
}

// ------------------------------------------------------------------------------------ while the event loop is blocked

// Node calls a signal's handler between two turns of its event loop, and one pass of a large model is a single turn of
// minutes. So a thread listens too and counts signals in shared memory, and `obey` looks there before each kernel. A
// second signal that nothing obeys within `PATIENCE` kills the process.

/** Milliseconds that a second signal waits before the process is killed. */
const PATIENCE = 1500;
/** Milliseconds that a step may take to end by itself after the first signal, before it is abandoned. */
const GRACE = 1000;

/** Signals that the thread has heard, and that this process has handled. */
const counts = new Int32Array(new SharedArrayBuffer(8));
const [HEARD, HANDLED] = [0, 1];
let threadListens = false;

const THREAD = `
process.noDeprecation = true; // a thread has no other way to a signal than Node's own binding
const { parentPort, workerData } = require('node:worker_threads');
const { writeSync } = require('node:fs');
const { Signal } = process.binding('signal_wrap');
const { counts, numbers, patience } = workerData;
for (const number of numbers) {
  const signal = new Signal();
  signal.onsignal = () => {
    parentPort.postMessage('signal');
    if (Atomics.add(counts, 0, 1) === 0) return;
    setTimeout(() => {
      try { writeSync(2, '\\nrealm: killed, since a long computation did not end; what was saved last is kept\\n'); } catch {}
      process.kill(process.pid, 'SIGKILL');
    }, patience);
  };
  if (signal.start(number) !== 0) throw new Error('no signals in a thread');
}
parentPort.postMessage('ready');
`;

/**
 * Starts the thread. Node 24 and later give a thread no signals: there the event loop alone hears them.
 * @returns whether the thread listens
 */
export async function listenWhileBlocked(): Promise<boolean> {
  if (!listening || threadListens) return threadListens;
  const { constants } = await import('node:os');
  const thread = new Worker(THREAD, {
    eval: true,
    execArgv: [], // no loader of modules
    workerData: { counts, numbers: SIGNALS.map((name) => constants.signals[name]), patience: PATIENCE },
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
  });
  thread.unref();
  await new Promise<void>((resolve) => {
    thread.on('message', (message) => {
      if (message === 'ready') {
        threadListens = true;
        resolve();
      } else handleHeard();
    });
    thread.on('error', () => {
      threadListens = false;
      resolve();
    });
    thread.on('exit', () => resolve());
    thread.ref();
  });
  thread.unref();
  return threadListens;
}

function handleHeard(): void {
  while (counts[HANDLED] < Atomics.load(counts, HEARD)) {
    counts[HANDLED]++;
    dispatch();
  }
}

/** The event loop's own handler: the thread's message follows where it listens. */
function received(): void {
  if (!threadListens) dispatch();
}

/** A step that was given up in its middle, because a signal asked for a stop. */
export class Abandoned extends Error {}

let abandonable: { signal: AbortSignal; since?: number } | undefined;

/**
 * For long work that gives the event loop no turn, before each kernel or small piece: handles signals that came meanwhile,
 * and throws `Abandoned` where a step takes too long to end.
 */
export function obey(): void {
  if (counts[HANDLED] < Atomics.load(counts, HEARD)) handleHeard();
  if (!abandonable?.signal.aborted) return;
  abandonable.since ??= performance.now();
  if (performance.now() - abandonable.since > GRACE) throw new Abandoned();
}

/** Runs work that changes nothing until it is done: once `signal` is aborted it ends soon, or `Abandoned` is thrown. */
export async function orAbandon<T>(signal: AbortSignal, work: () => T | Promise<T>): Promise<T> {
  const mine = { signal };
  abandonable = mine;
  try {
    return await work();
  } finally {
    if (abandonable === mine) abandonable = undefined;
  }
}

/** Lets signals, messages and timers in between two pieces of long work. */
export function pause(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Milliseconds of small pieces of work between two pauses. */
const WORK = 100;

/** For a loop over small pieces of work: gives a pause to wait for now and then, else undefined. */
export function pauses(): () => Promise<void> | undefined {
  let last = performance.now();
  return () => {
    if (performance.now() - last < WORK) return undefined;
    return pause().then(() => {
      last = performance.now();
    });
  };
}

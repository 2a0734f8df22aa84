import { note } from './journal.ts';
import { isQuiet } from './quiet.ts';

// SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) end a command with one sentence and exit code 130, from
// its start (bin/realm listens until this file is loaded). Work that can save its state handles the first signal with
// `onStop`; a second signal ends the process at once.

export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Exit code of a command that a signal ended. */
export const STOPPED = 130;

/** Handlers of the work in progress; the last one is called. */
const handlers: (() => void)[] = [];
let listening = false;
let command = 'realm';
let consequence = (): string => 'run the same command again';

/**
 * Listens from now on.
 * @returns a function that stops listening: if nothing else listens, signals have their default effect again
 */
export function listenForSignals(): () => void {
  if (!listening) for (const name of SIGNALS) process.on(name, receive);
  // A closed terminal accepts no more lines; that must not turn the stop into a crash.
  if (!listening) process.on('SIGHUP', ignoreOutputErrors);
  listening = true;
  return () => {
    listening = false;
    for (const name of SIGNALS) process.off(name, receive);
    process.off('SIGHUP', ignoreOutputErrors);
    native?.stop();
    native = undefined;
    counts = new Int32Array(2);
    delivered = handled = 0;
  };
}

function ignoreOutputErrors(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
}

/** Sets the command that the sentence names. */
export function stopNames(name: string): void {
  command = `realm ${name}`;
}

/** Sets the end of the sentence for a stop from now on: what is kept, and what the same command does next. */
export function stopMeans(text: string | (() => string)): void {
  consequence = typeof text === 'string' ? () => text : text;
}

/**
 * Lets work handle signals until the returned function is called. The handler is called for every signal, and calls
 * `leave` to end the process at once.
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

/** Ends the process now, with the sentence. Locks are released when the process exits. */
export function leave(what = consequence()): never {
  const sentence = `${command}: stopped; ${what}`;
  if (!isQuiet()) process.stderr.write(`\n${sentence}\n`);
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
// minutes. So an addon (signals.cc) counts signals in a thread, and `obey` looks at the count before each kernel. The
// addon ends the process if a second signal is not handled within `PATIENCE`. Without the addon, only the event loop
// hears signals.

/** Milliseconds that a second signal may stay unhandled before the addon ends the process. */
const PATIENCE = 1500;
/** Milliseconds after its start in which a step may end by itself when a signal comes; a longer one is abandoned. */
const GRACE = 1000;

/** What signals.cc exports. */
export interface SignalCounter {
  /** Counts signals in two int32: those heard, from `before` on, and those handled, which we write. */
  start(before: number, patience: number): ArrayBuffer;
  stop(): void;
}

let native: SignalCounter | undefined;
let counts = new Int32Array(2);
const [HEARD, HANDLED] = [0, 1];
/** Signals that the event loop has delivered. The addon counts the same ones, before or after. */
let delivered = 0;
let handled = 0;

/** Counts signals with the addon, from now until the process stops listening. Does nothing in a process that does not listen. */
export function listenWhileBlocked(addon: SignalCounter): void {
  if (!listening || native) return;
  counts = new Int32Array(addon.start(handled, PATIENCE));
  native = addon;
}

/** The event loop's own handler. */
function receive(): void {
  delivered++;
  handleReceived();
}

/** Handles each signal once, whether the event loop or the addon was first to see it. */
function handleReceived(): void {
  while (handled < Math.max(delivered, Atomics.load(counts, HEARD))) {
    handled++;
    dispatch();
    // Only now: if leaving the process hangs, the addon must still end it.
    Atomics.store(counts, HANDLED, handled);
  }
}

/** A step was abandoned in the middle because of a signal. */
export class Abandoned extends Error {}

let abandonable: { signal: AbortSignal; since: number } | undefined;

/**
 * Long work that gives the event loop no turn calls this before each kernel or small piece. Handles signals that came
 * meanwhile, and throws `Abandoned` if a step takes too long to end.
 */
export function obey(): void {
  if (handled < Atomics.load(counts, HEARD)) handleReceived();
  if (!abandonable?.signal.aborted) return;
  if (performance.now() - abandonable.since > GRACE) throw new Abandoned();
}

/** Runs work that changes nothing until it is done. When `signal` is aborted, the work ends soon or `Abandoned` is thrown. */
export async function orAbandon<T>(signal: AbortSignal, work: () => T | Promise<T>): Promise<T> {
  const mine = { signal, since: performance.now() };
  abandonable = mine;
  try {
    return await work();
  } finally {
    if (abandonable === mine) abandonable = undefined;
  }
}

/** Lets the event loop handle signals, messages and timers between two pieces of long work. */
export function pause(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Milliseconds of work between two pauses. */
const PAUSE_INTERVAL = 100;

/** For a loop over small pieces of work: returns a pause to await now and then, else undefined. */
export function pauses(): () => Promise<void> | undefined {
  let last = performance.now();
  return () => {
    if (performance.now() - last < PAUSE_INTERVAL) return undefined;
    return pause().then(() => {
      last = performance.now();
    });
  };
}

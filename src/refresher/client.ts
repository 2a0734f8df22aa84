import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { readManifest } from '../retrieval/manifest.ts';
import { runFolder } from '../run/folder.ts';

// The parent side of the asynchronous refresher, and the messages of both sides. The trainer sends a request and
// continues; the child (child.ts) embeds all blocks with the snapshot's weights, publishes an index and reports it.

/** The first message: what the child needs to start. */
export interface RefresherStart {
  runDir: string;
  /** Name of the tensor engine the child starts. */
  engine: string;
  /** 0 to 19, as for `nice`. */
  nice: number;
  threads: number;
  /** Address of a Redis server whose workers embed the blocks, perhaps with a password; null: the child does. */
  queue: string | null;
}

export interface RefreshRequest {
  /** Folder with the weights to embed with; the index's folder gets the same name. */
  snapshot: string;
  /** Training step of those weights. */
  step: number;
}

export interface Published {
  /** Folder of the new index in the run's index folder. */
  name: string;
  step: number;
  seconds: number;
  rows: number;
}

export type ToRefresher =
  | ({ type: 'start' } & RefresherStart)
  | ({ type: 'refresh' } & RefreshRequest)
  | { type: 'stop' };

const fromRefresher = z.discriminatedUnion('type', [
  /** The engine has started; requests may be sent. */
  z.strictObject({ type: z.literal('ready') }),
  z.strictObject({
    type: z.literal('progress'),
    done: z.int().nonnegative(),
    total: z.int().nonnegative(),
  }),
  /** Heartbeat: work continues without visible progress; the child may be silent for `quiet` seconds more than usual. */
  z.strictObject({ type: z.literal('alive'), quiet: z.number().min(0).max(86_400) }),
  /** A sentence for the user. */
  z.strictObject({ type: z.literal('note'), sentence: z.string().max(2000) }),
  z.strictObject({
    type: z.literal('published'),
    name: z.string().regex(/^(finetune-qa-)?step-\d+$/),
    step: z.int().nonnegative(),
    seconds: z.number().nonnegative(),
    rows: z.int().positive(),
  }),
  /** This refresh failed, but the child is alive; another request with the same snapshot would fail again. */
  z.strictObject({ type: z.literal('failed'), message: z.string(), stack: z.string().optional() }),
]);

export type FromRefresher = z.infer<typeof fromRefresher>;

export interface RefresherOptions extends Omit<RefresherStart, 'runDir'> {
  /** Rows and dimensions that every index must have. */
  rows: number;
  dimensions: number;
  /** After so many deaths in a row, without a published index in between, the child is not restarted. */
  maxFailures: number;
  onPublished(published: Published): void;
  onProgress?(done: number, total: number): void;
  onNote?(sentence: string): void;
  /** A refresh failed, or the child died. Training can continue with the current index. */
  onFailure(message: string): void;
  /** The child will not be restarted; by default reported like other failures. */
  onGivenUp?(message: string): void;
}

export interface Refresher {
  /** Whether a request is in progress or waiting. */
  readonly busy: boolean;
  /**
   * Requests a new index; this request replaces one that is still waiting.
   * @returns the request that will not be processed: the replaced one, or this one if the child will not be restarted
   */
  request(request: RefreshRequest): RefreshRequest | undefined;
  /** Asks the child to stop and kills it after a grace period; resolves when it has ended. */
  stop(): Promise<void>;
}

/** Times, replaced only by tests; in milliseconds. */
export interface RefresherTimes {
  /** A busy child that is silent for so long counts as hanging. */
  silence: number;
  /** After a further silence it is killed. */
  secondLook: number;
  /** First wait before a dead child is restarted; doubled each time. */
  backOff: number;
  /** From the stop message to the kill. */
  grace: number;
}

const TIMES: RefresherTimes = { silence: 120_000, secondLook: 2000, backOff: 1000, grace: 10_000 };

/** Longest wait before a dead child is restarted, in milliseconds. */
const MAX_BACK_OFF = 60_000;

/** After so many messages that violate the protocol or are false, a child is killed. */
const MAX_INVALID_MESSAGES = 3;

const ENTRY = fileURLToPath(new URL('./child.ts', import.meta.url));

/**
 * Starts the refresher child. A child that dies or hangs is reported by `onFailure` and restarted after a growing wait,
 * with the newest request; it never blocks or stops the training process.
 * @param entry another child script; for tests, as is `times`
 */
export function startRefresher(
  runDir: string,
  options: RefresherOptions,
  entry: string = ENTRY,
  times: RefresherTimes = TIMES,
): Refresher {
  const { engine, nice, threads, queue, maxFailures } = options;
  const indexes = runFolder(runDir).index;
  let child: ChildProcess | undefined;
  let ready = false;
  let inProgress: RefreshRequest | undefined;
  let waiting: RefreshRequest | undefined;
  let deaths = 0; // since the last index published
  let stopping: Promise<void> | undefined;
  let gone: (() => void) | undefined; // called when the child that is being stopped has ended
  let restart: NodeJS.Timeout | undefined;
  let alarm: NodeJS.Timeout | undefined;
  let invalidMessages = 0; // from this child
  let killedFor: string | undefined; // why we have killed it

  function start(): void {
    ready = false;
    invalidMessages = 0;
    killedFor = undefined;
    const started = fork(entry, [], {
      execArgv: ['--import', import.meta.resolve('../typescript.mjs')],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // stdout belongs to the command's result
    });
    child = started;
    let ended = false;
    // A child that cannot be started only emits `error`, one that ran emits `exit`.
    const end = (why: string, advice = '') => {
      if (ended) return;
      ended = true;
      died(why, advice);
      gone?.();
    };
    started.on('message', (value) => {
      if (child === started) receive(value);
    });
    started.on('error', (error) => {
      if (started.pid === undefined) end(error.message);
    });
    started.on('exit', (code, signal) => {
      if (signal) end(`killed by ${signal}`, OUT_OF_MEMORY.includes(signal) ? MEMORY_ADVICE : '');
      else end(`exit code ${code}`);
    });
    send(started, { type: 'start', runDir, engine, nice, threads, queue });
    watch();
  }

  function receive(value: unknown): void {
    if (stopping || killedFor) return;
    const { data: message } = fromRefresher.safeParse(value);
    if (!message || !isPlausible(message)) {
      countInvalid();
      return;
    }
    let quiet = 0;
    switch (message.type) {
      case 'ready':
        ready = true;
        break;
      case 'progress':
        options.onProgress?.(message.done, message.total);
        break;
      case 'note':
        options.onNote?.(message.sentence);
        break;
      case 'alive':
        quiet = message.quiet;
        break;
      case 'published': {
        const { name, step, seconds, rows } = message;
        deaths = 0;
        inProgress = undefined;
        options.onPublished({ name, step, seconds, rows });
        break;
      }
      case 'failed':
        inProgress = undefined;
        options.onFailure(message.stack ?? message.message);
        break;
    }
    next();
    watch(quiet);
  }

  /** Whether a message can be right: it belongs to the request, and its index exists with the required size. */
  function isPlausible(message: FromRefresher): boolean {
    if (message.type === 'ready' || message.type === 'alive') return true;
    if (message.type !== 'published') return inProgress !== undefined;
    if (message.step !== inProgress?.step) return false;
    try {
      const { step, rows, dimensions } = readManifest(join(indexes, message.name));
      return (
        step === message.step &&
        rows === message.rows &&
        rows === options.rows &&
        dimensions === options.dimensions
      );
    } catch {
      return false;
    }
  }

  /** Counts an invalid message, which does not reset the alarm. */
  function countInvalid(): void {
    invalidMessages++;
    if (invalidMessages >= MAX_INVALID_MESSAGES) kill(`${invalidMessages} invalid messages`);
  }

  function kill(why: string): void {
    killedFor = why;
    child?.kill('SIGKILL');
  }

  /** Sends the waiting request to the child, if it is idle. */
  function next(): void {
    if (!child || !ready || inProgress || !waiting || stopping) return;
    inProgress = waiting;
    waiting = undefined;
    send(child, { type: 'refresh', ...inProgress });
    watch(); // from now on; an idle child is not watched
  }

  /**
   * Every valid message resets the alarm; a starting child is watched like a busy one. A training step may block this
   * process for longer than the allowed silence, so the alarm may fire before messages that have arrived are read: hence
   * the second look, after another turn of the event loop.
   * @param quiet additional seconds that the child may be silent
   */
  function watch(quiet = 0): void {
    clearTimeout(alarm);
    const watched = child;
    if (!watched || stopping || (ready && !inProgress)) return;
    alarm = setTimeout(
      () => {
        alarm = setTimeout(() => {
          if (child === watched)
            kill(`no heartbeat for ${Number((times.silence / 1000 + quiet).toFixed(1))} s`);
        }, times.secondLook);
      },
      times.silence + 1000 * quiet,
    );
  }

  function died(why: string, advice: string): void {
    const reason = killedFor ?? why;
    clearTimeout(alarm);
    child = undefined;
    waiting ??= inProgress; // a waiting request is newer than the one in progress
    inProgress = undefined;
    if (stopping) return;
    deaths++;
    const hint = killedFor ? '' : advice;
    if (deaths >= maxFailures) {
      waiting = undefined;
      (options.onGivenUp ?? options.onFailure)(
        `the refresher died ${deaths} times without a new index (${reason}); it is not restarted${hint}`,
      );
      return;
    }
    const wait = Math.min(MAX_BACK_OFF, times.backOff * 2 ** (deaths - 1));
    restart = setTimeout(start, wait);
    options.onFailure(`the refresher died (${reason}); it restarts in ${wait / 1000} s${hint}`);
  }

  /** If the trainer exits without stopping the child, the child is killed. */
  const leave = () => child?.kill('SIGKILL');
  process.on('exit', leave);

  function stopChild(): Promise<void> {
    clearTimeout(alarm);
    clearTimeout(restart);
    waiting = undefined;
    inProgress = undefined;
    const last = child;
    if (!last) {
      process.off('exit', leave);
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const kill = setTimeout(() => last.kill('SIGKILL'), times.grace);
      gone = () => {
        clearTimeout(kill);
        process.off('exit', leave);
        resolve();
      };
      send(last, { type: 'stop' });
    });
  }

  start();
  return {
    get busy() {
      return inProgress !== undefined || waiting !== undefined;
    },
    request(request) {
      if (stopping || deaths >= maxFailures) return request;
      const replaced = waiting;
      waiting = request;
      next();
      return replaced;
    },
    stop() {
      stopping ??= stopChild();
      return stopping;
    },
  };
}

/** Signals with which the system, or Node itself, ends a process that ran out of memory. */
const OUT_OF_MEMORY = ['SIGKILL', 'SIGABRT'];

const MEMORY_ADVICE = '; if memory ran out, lower index.tokensPerBatch';

/** Errors of sending are ignored: if the child has died, its `exit` event reports it. */
function send(child: ChildProcess, message: ToRefresher): void {
  child.send(message, () => {});
}

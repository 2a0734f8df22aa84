import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { readManifest } from '../retrieval/manifest.ts';
import { runFolder } from '../run/folder.ts';

// The parent side of the asynchronous refresher, and the messages both sides exchange. The trainer asks and goes on;
// the child (child.ts) embeds all blocks with the snapshot's weights, publishes an index and says so.

/** What the child needs to know before anything else. */
export interface RefresherStart {
  runDir: string;
  /** Name of the tensor engine the child starts. */
  engine: string;
  /** 0 to 19, as `nice` takes it. */
  nice: number;
  threads: number;
}

export interface RefreshRequest {
  /** Folder with the weights to embed with; the index's takes its name. */
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
  /** The engine is up; requests may come. */
  z.strictObject({ type: z.literal('ready') }),
  z.strictObject({
    type: z.literal('progress'),
    done: z.int().nonnegative(),
    total: z.int().nonnegative(),
  }),
  /** The work goes on, though it has nothing to show; it may be silent for `quiet` seconds more than usual. */
  z.strictObject({ type: z.literal('alive'), quiet: z.number().min(0).max(86_400) }),
  z.strictObject({
    type: z.literal('published'),
    name: z.string().regex(/^(qa-)?step-\d+$/),
    step: z.int().nonnegative(),
    seconds: z.number().nonnegative(),
    rows: z.int().positive(),
  }),
  /** This refresh failed, the child lives; asking again with the same snapshot would fail again. */
  z.strictObject({ type: z.literal('failed'), message: z.string(), stack: z.string().optional() }),
]);

export type FromRefresher = z.infer<typeof fromRefresher>;

export interface RefresherOptions extends Omit<RefresherStart, 'runDir'> {
  /** Rows and dimensions that every index must have. */
  rows: number;
  dimensions: number;
  /** Deaths in a row, without an index published in between, after which the child is not started again. */
  maxFailures: number;
  onPublished(published: Published): void;
  onProgress?(done: number, total: number): void;
  /** A refresh failed, or the child died. Training can go on with the index it has. */
  onFailure(message: string): void;
  /** The child will not be started again; by default a failure like the others. */
  onGivenUp?(message: string): void;
}

export interface Refresher {
  /** Whether a request is being worked on or waits. */
  readonly busy: boolean;
  /**
   * Asks for a new index; a request that still waits gives way to this one.
   * @returns the request that will not be worked on: the one that gave way, or this one once the child is given up
   */
  request(request: RefreshRequest): RefreshRequest | undefined;
  /** Asks the child to stop and ends it after a grace time; resolves when it is gone. */
  stop(): Promise<void>;
}

/** Times, replaced only by tests; in milliseconds. */
export interface RefresherTimes {
  /** Silence of a busy child that counts as hanging. */
  silence: number;
  /** A second silence, after which it is killed. */
  secondLook: number;
  /** First wait before a dead child is started again; doubled each time. */
  backOff: number;
  /** From the stop message to the kill. */
  grace: number;
}

const TIMES: RefresherTimes = { silence: 120_000, secondLook: 2000, backOff: 1000, grace: 10_000 };

/** Longest wait before a dead child is started again, in milliseconds. */
const LONGEST_BACK_OFF = 60_000;

/** Messages that are not of the protocol, or not true, after which a child is ended. */
const MAX_NONSENSE = 3;

const ENTRY = fileURLToPath(new URL('./child.ts', import.meta.url));

/**
 * Starts the refresher child. A child that dies or hangs is reported by `onFailure` and started again with a growing
 * wait, with the newest request; the training process is never blocked and never brought down by it.
 * @param entry another child script; for tests, as is `times`
 */
export function startRefresher(
  runDir: string,
  options: RefresherOptions,
  entry: string = ENTRY,
  times: RefresherTimes = TIMES,
): Refresher {
  const { engine, nice, threads, maxFailures } = options;
  const indexes = runFolder(runDir).index;
  let child: ChildProcess | undefined;
  let ready = false;
  let inWork: RefreshRequest | undefined;
  let waiting: RefreshRequest | undefined;
  let deaths = 0; // since the last index published
  let stopping: Promise<void> | undefined;
  let gone: (() => void) | undefined; // told when the child that is being stopped has ended
  let restart: NodeJS.Timeout | undefined;
  let alarm: NodeJS.Timeout | undefined;
  let nonsense = 0; // heard from this child
  let killedFor: string | undefined; // why we have killed it

  function start(): void {
    ready = false;
    nonsense = 0;
    killedFor = undefined;
    const started = fork(entry, [], {
      execArgv: ['--import', import.meta.resolve('../typescript.mjs')],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // stdout belongs to the command's result
    });
    child = started;
    let ended = false;
    // A child that cannot be started tells by `error` alone, one that ran by `exit`.
    const end = (why: string, advice = '') => {
      if (ended) return;
      ended = true;
      died(why, advice);
      gone?.();
    };
    started.on('message', (said) => {
      if (child === started) heard(said);
    });
    started.on('error', (error) => {
      if (started.pid === undefined) end(error.message);
    });
    started.on('exit', (code, signal) => {
      if (signal) end(`killed by ${signal}`, OUT_OF_MEMORY.includes(signal) ? MEMORY_ADVICE : '');
      else end(`exit code ${code}`);
    });
    tell(started, { type: 'start', runDir, engine, nice, threads });
    watch();
  }

  function heard(said: unknown): void {
    if (stopping || killedFor) return;
    const { data: message } = fromRefresher.safeParse(said);
    if (!message || !isTrue(message)) {
      doubt();
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
      case 'alive':
        quiet = message.quiet;
        break;
      case 'published': {
        const { name, step, seconds, rows } = message;
        deaths = 0;
        inWork = undefined;
        options.onPublished({ name, step, seconds, rows });
        break;
      }
      case 'failed':
        inWork = undefined;
        options.onFailure(message.stack ?? message.message);
        break;
    }
    next();
    watch(quiet);
  }

  /** Whether a message can be meant so: its index is there, as it was asked for and as it must be. */
  function isTrue(message: FromRefresher): boolean {
    if (message.type === 'ready' || message.type === 'alive') return true;
    if (message.type !== 'published') return inWork !== undefined;
    if (message.step !== inWork?.step) return false;
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

  /** Takes note of a message that makes no sense, which is no sign of life either. */
  function doubt(): void {
    nonsense++;
    if (nonsense >= MAX_NONSENSE) kill(`${nonsense} messages that make no sense`);
  }

  function kill(why: string): void {
    killedFor = why;
    child?.kill('SIGKILL');
  }

  /** Hands the child what waits, if it has nothing in work. */
  function next(): void {
    if (!child || !ready || inWork || !waiting || stopping) return;
    inWork = waiting;
    waiting = undefined;
    tell(child, { type: 'refresh', ...inWork });
    watch(); // from now on; a request that only waits is no sign of life
  }

  /**
   * Every message puts the alarm off; a child that starts up is watched as one that works. A training step may block
   * this process for longer than the silence allowed, so that the alarm goes before messages long arrived are read:
   * hence the second look, after the event loop has been round once more.
   * @param quiet seconds that it may be silent for besides
   */
  function watch(quiet = 0): void {
    clearTimeout(alarm);
    const watched = child;
    if (!watched || stopping || (ready && !inWork)) return;
    alarm = setTimeout(
      () => {
        alarm = setTimeout(() => {
          if (child === watched)
            kill(`no sign of life for ${Number((times.silence / 1000 + quiet).toFixed(1))} s`);
        }, times.secondLook);
      },
      times.silence + 1000 * quiet,
    );
  }

  function died(why: string, advice: string): void {
    const reason = killedFor ?? why;
    clearTimeout(alarm);
    child = undefined;
    waiting ??= inWork; // a request that waits is newer than the one in work
    inWork = undefined;
    if (stopping) return;
    deaths++;
    const hint = killedFor ? '' : advice;
    if (deaths >= maxFailures) {
      waiting = undefined;
      (options.onGivenUp ?? options.onFailure)(
        `the refresher died ${deaths} times without a new index (${reason}); it is not started again${hint}`,
      );
      return;
    }
    const wait = Math.min(LONGEST_BACK_OFF, times.backOff * 2 ** (deaths - 1));
    restart = setTimeout(start, wait);
    options.onFailure(`the refresher died (${reason}); it is started again in ${wait / 1000} s${hint}`);
  }

  /** A trainer that leaves without stopping the child takes it along. */
  const leave = () => child?.kill('SIGKILL');
  process.on('exit', leave);

  function stopChild(): Promise<void> {
    clearTimeout(alarm);
    clearTimeout(restart);
    waiting = undefined;
    inWork = undefined;
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
      tell(last, { type: 'stop' });
    });
  }

  start();
  return {
    get busy() {
      return inWork !== undefined || waiting !== undefined;
    },
    request(request) {
      if (stopping || deaths >= maxFailures) return request;
      const gaveWay = waiting;
      waiting = request;
      next();
      return gaveWay;
    },
    stop() {
      stopping ??= stopChild();
      return stopping;
    },
  };
}

/** What the system, or Node itself, ends a process with for want of memory. */
const OUT_OF_MEMORY = ['SIGKILL', 'SIGABRT'];

const MEMORY_ADVICE = '; if memory ran out, lower index.tokensPerBatch';

/** A child may die between two lines of ours: its `exit` tells, not this. */
function tell(child: ChildProcess, message: ToRefresher): void {
  child.send(message, () => {});
}

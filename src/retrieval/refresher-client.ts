import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

// The parent side of the asynchronous refresher, and the messages both sides exchange. The trainer asks and goes on;
// the child (refresher.ts) embeds all blocks with the snapshot's weights, publishes an index and says so.

/** What the child needs to know before anything else. */
export interface RefresherStart {
  runDir: string;
  /** Name of the tensor engine the child starts. */
  engine: string;
  /** 0 to 19, as `nice` takes it. */
  niceness: number;
  threads: number;
}

export interface RefreshRequest {
  /** Folder with the weights to embed with. */
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

export type FromRefresher =
  /** The engine is up; requests may come. */
  | { type: 'ready' }
  | { type: 'progress'; done: number; total: number }
  | ({ type: 'published' } & Published)
  /** This refresh failed, the child lives; asking again with the same snapshot would fail again. */
  | { type: 'failed'; message: string; stack?: string };

export interface RefresherOptions extends Omit<RefresherStart, 'runDir'> {
  onPublished(published: Published): void;
  onProgress?(done: number, total: number): void;
  /** A refresh failed, or the child died, or will not be started again. Training can go on with the index it has. */
  onFailure(message: string): void;
}

export interface Refresher {
  /** Whether a request is being worked on or waits. */
  readonly busy: boolean;
  /** Asks for a new index; a request that still waits gives way to this one. Nothing happens once the child is given up. */
  request(request: RefreshRequest): void;
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

/** Deaths without an index published in between, after which the child is not started again. */
const MAX_FAILURES = 5;

const ENTRY = fileURLToPath(new URL('./refresher.ts', import.meta.url));

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
  const { engine, niceness, threads } = options;
  let child: ChildProcess | undefined;
  let ready = false;
  let inWork: RefreshRequest | undefined;
  let waiting: RefreshRequest | undefined;
  let deaths = 0; // since the last index published
  let stopping: Promise<void> | undefined;
  let gone: (() => void) | undefined; // told when the child that is being stopped has ended
  let restart: NodeJS.Timeout | undefined;
  let alarm: NodeJS.Timeout | undefined;
  let hung = false; // the alarm killed it

  function start(): void {
    ready = false;
    const started = fork(entry, [], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // stdout belongs to the command's result
    });
    child = started;
    let ended = false;
    // A child that cannot be started tells by `error` alone, one that ran by `exit`.
    const end = (why: string) => {
      if (ended) return;
      ended = true;
      died(why);
      gone?.();
    };
    started.on('message', (message) => heard(message as FromRefresher));
    started.on('error', (error) => {
      if (started.pid === undefined) end(error.message);
    });
    started.on('exit', (code, signal) => end(signal ? `killed by ${signal}` : `exit code ${code}`));
    tell(started, { type: 'start', runDir, engine, niceness, threads });
    watch();
  }

  function heard(message: FromRefresher): void {
    if (stopping) return;
    switch (message.type) {
      case 'ready':
        ready = true;
        break;
      case 'progress':
        options.onProgress?.(message.done, message.total);
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
  }

  /** Hands the child what waits, if it has nothing in work. */
  function next(): void {
    if (child && ready && !inWork && waiting && !stopping) {
      inWork = waiting;
      waiting = undefined;
      tell(child, { type: 'refresh', ...inWork });
    }
    watch();
  }

  /**
   * Every message puts the alarm off; a child that starts up is watched as one that works. A training step may block
   * this process for longer than the silence allowed, so that the alarm goes before messages long arrived are read:
   * hence the second look, after the event loop has been round once more.
   */
  function watch(): void {
    clearTimeout(alarm);
    const watched = child;
    if (!watched || stopping || (ready && !inWork)) return;
    alarm = setTimeout(() => {
      alarm = setTimeout(() => {
        hung = true;
        watched.kill('SIGKILL');
      }, times.secondLook);
    }, times.silence);
  }

  function died(why: string): void {
    const reason = hung ? `no sign of life for ${times.silence / 1000} s` : why;
    clearTimeout(alarm);
    hung = false;
    child = undefined;
    waiting ??= inWork; // a request that waits is newer than the one in work
    inWork = undefined;
    if (stopping) return;
    deaths++;
    if (deaths > MAX_FAILURES) {
      waiting = undefined;
      options.onFailure(
        `the refresher died ${deaths} times without a new index (${reason}); it is not started again`,
      );
      return;
    }
    const wait = times.backOff * 2 ** (deaths - 1);
    restart = setTimeout(start, wait);
    options.onFailure(`the refresher died (${reason}); it is started again in ${wait / 1000} s`);
  }

  function stopChild(): Promise<void> {
    clearTimeout(alarm);
    clearTimeout(restart);
    waiting = undefined;
    inWork = undefined;
    const last = child;
    if (!last) return Promise.resolve();
    return new Promise((resolve) => {
      const kill = setTimeout(() => last.kill('SIGKILL'), times.grace);
      gone = () => {
        clearTimeout(kill);
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
      if (stopping || deaths > MAX_FAILURES) return;
      waiting = request;
      next();
    },
    stop() {
      stopping ??= stopChild();
      return stopping;
    },
  };
}

/** A child may die between two lines of ours: its `exit` tells, not this. */
function tell(child: ChildProcess, message: ToRefresher): void {
  child.send(message, () => {});
}

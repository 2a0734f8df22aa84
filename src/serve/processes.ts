import { type ChildProcess, fork } from 'node:child_process';
import { UserError } from '../system/errors.ts';
import { Busy } from './batches.ts';

// Processes that answer questions side by side, each with the model in its memory: this side, and the messages of both
// sides. A process works on one call after another. One that ends is replaced.

/** The first call: what a process needs to start its engine. Its result is the line that says which engine it is. */
export interface Start {
  runDir: string;
  engine: string;
  threads: number;
}

export type Call =
  | ({ type: 'start'; quiet: boolean } & Start)
  /** Opens the run's current model under a number. The result is the fingerprint of what was opened. */
  | { type: 'open'; model: number }
  | { type: 'ask'; model: number; questions: readonly string[]; documents?: readonly object[] }
  | { type: 'close'; model: number };

export type ToProcess = Call & { call: number };

export type FromProcess = { call: number } & (
  | { result: unknown }
  /** A `UserError` has no stack. */
  | { error: { message: string; stack?: string } }
);

/** A model that is open in every process. */
export interface OpenedInAll<Answer> {
  ask(questions: readonly string[], options?: { documents?: readonly object[] }): Promise<Answer[]>;
  close(): Promise<void>;
}

export interface Processes<Answer> {
  /** The line of the first process about its engine. */
  engine: string;
  /** Opens the run's current model in every process. Throws a `UserError` if it cannot be opened. */
  open(): Promise<OpenedInAll<Answer>>;
  /** Ends all processes; resolves when they have ended. */
  close(): Promise<void>;
}

/** Times, replaced only by tests; in milliseconds. */
export interface ProcessTimes {
  /** First wait before a process that ended is replaced; doubled for each that ended since a question was answered. */
  backOff: number;
  /** From the order to end until a process is killed. */
  grace: number;
}

const TIMES: ProcessTimes = { backOff: 500, grace: 5000 };

/** Longest wait before a process that ended is replaced, in milliseconds. */
const MAX_BACK_OFF = 60_000;

interface Member {
  child: ChildProcess;
  place: number;
  /** Calls without a reply yet, by their numbers. */
  calls: Map<number, { resolve(result: unknown): void; reject(error: unknown): void }>;
  /** Whether the engine has started. */
  ready: boolean;
  /** Numbers of the models that it has opened. */
  models: Set<number>;
}

/**
 * Starts `count` processes; resolves when all of their engines have started.
 * @param entry the file that each of them runs
 * @param say prints a line for the user
 */
export async function startProcesses<Answer>(
  entry: string,
  count: number,
  start: Start,
  say: (line: string) => void,
  times: ProcessTimes = TIMES,
): Promise<Processes<Answer>> {
  /** Those that run now, at most one in each place. */
  const members = new Map<number, Member>();
  /** The models that are open, by number, with the fingerprints of what was opened. */
  const open = new Map<number, string>();
  const ended: Promise<void>[] = [];
  const restarts = new Set<NodeJS.Timeout>();
  let calls = 0;
  let models = 0;
  /** In each place, how many processes ended since one answered questions. */
  const deaths = new Map<number, number>();
  let running = false;
  let closing = false;

  const call = (member: Member, what: Call): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const message: ToProcess = { ...what, call: ++calls };
      member.calls.set(calls, { resolve, reject });
      member.child.send(message, () => {}); // if the process has ended, its `exit` rejects the call
    });

  /** Starts a process in a place; resolves with the line about its engine. */
  async function add(place: number): Promise<string> {
    const child = fork(entry, [], {
      execArgv: ['--import', import.meta.resolve('../typescript.mjs')],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // stdout belongs to the command's result
    });
    const member: Member = { child, place, calls: new Map(), ready: false, models: new Set() };
    members.set(place, member);
    child.on('message', (message: FromProcess) => {
      const waiting = member.calls.get(message.call);
      member.calls.delete(message.call);
      if ('result' in message) waiting?.resolve(message.result);
      else waiting?.reject(errorOf(message.error));
    });
    ended.push(
      new Promise((resolve) => {
        const end = (why: string) => {
          if (members.get(place) !== member) return; // a process that cannot be started has no `exit`
          members.delete(place);
          for (const { reject } of member.calls.values())
            reject(new Busy(`the process that worked on the answer ended (${why})`, { cause: why }));
          if (running && !closing) replace(place, why);
          resolve();
        };
        child.on('error', (error) => child.pid === undefined && end(error.message));
        child.on('exit', (code, signal) => end(signal ? `killed by ${signal}` : `exit code ${code}`));
      }),
    );
    const engine = (await call(member, { type: 'start', quiet: place > 0, ...start })) as string;
    member.ready = true;
    return engine;
  }

  function replace(place: number, why: string): void {
    const before = deaths.get(place) ?? 0;
    deaths.set(place, before + 1);
    const wait = Math.min(MAX_BACK_OFF, times.backOff * 2 ** before);
    say(`a process that answers questions ended (${why}); it is replaced in ${wait / 1000} s`);
    const restart = setTimeout(() => {
      restarts.delete(restart);
      const starts = add(place);
      const member = members.get(place)!;
      starts.then(
        () => catchUp(member),
        (error) => {
          if (!(error instanceof Busy)) say(`a process that answers questions: ${error.message}`);
          member.child.kill('SIGKILL');
        },
      );
    }, wait);
    restarts.add(restart);
  }

  /**
   * Opens in a process what is open in the others. If the run has another model by now, or none that can be opened, the process
   * answers from the next model on, which is opened in all.
   */
  async function catchUp(member: Member): Promise<void> {
    for (const [model, fingerprint] of open) {
      if (member.models.has(model)) continue;
      const found = await call(member, { type: 'open', model }).catch(() => undefined);
      if (found === fingerprint && open.has(model)) member.models.add(model);
      else await call(member, { type: 'close', model }).catch(() => {});
    }
  }

  const everywhere = (what: Call) =>
    Promise.allSettled(
      [...members.values()].filter(({ ready }) => ready).map((member) => call(member, what)),
    );

  const ask = async (
    model: number,
    questions: readonly string[],
    documents?: readonly object[],
  ): Promise<Answer[]> => {
    const able = [...members.values()].filter((member) => member.models.has(model));
    if (able.length === 0) throw new Busy('the processes that answer questions are being replaced');
    // The first of those with the least to do: a question alone finds one whose code and data are in the caches.
    const idlest = able.reduce((a, b) => (b.calls.size < a.calls.size ? b : a));
    const answers = (await call(idlest, { type: 'ask', model, questions, documents })) as Answer[];
    deaths.delete(idlest.place);
    return answers;
  };

  /** If this process exits without closing them, they are killed. */
  const kill = () => {
    for (const { child } of members.values()) child.kill('SIGKILL');
  };
  process.on('exit', kill);

  const close = async () => {
    closing = true;
    for (const restart of restarts) clearTimeout(restart);
    for (const { child } of members.values()) child.disconnect();
    const late = setTimeout(kill, times.grace);
    await Promise.all(ended);
    clearTimeout(late);
    process.off('exit', kill);
  };

  const starting = await Promise.allSettled(Array.from({ length: count }, (_, place) => add(place)));
  const failed = starting.find((one) => one.status === 'rejected');
  if (failed?.status === 'rejected') {
    await close();
    if (!(failed.reason instanceof Busy)) throw failed.reason;
    throw new UserError(
      `a process that answers questions ended when it started (${failed.reason.cause}); if memory is short, use --threads 1`,
    );
  }
  running = true;
  const [engine] = starting.map((one) => (one as PromiseFulfilledResult<string>).value);

  return {
    engine,
    async open() {
      const model = ++models;
      const ready = [...members.values()].filter((member) => member.ready);
      const outcomes = await Promise.allSettled(
        ready.map((member) => call(member, { type: 'open', model }) as Promise<string>),
      );
      const fingerprints = new Set<string>();
      let failure: unknown = new Busy('the processes that answer questions are being replaced');
      outcomes.forEach((outcome, i) => {
        if (outcome.status === 'rejected') failure = outcome.reason;
        else {
          ready[i].models.add(model);
          fingerprints.add(outcome.value);
        }
      });
      // A process that ended meanwhile is being replaced; the others can answer.
      const whole = outcomes.every((one) => one.status === 'fulfilled' || one.reason instanceof Busy);
      if (fingerprints.size !== 1 || !whole) {
        await everywhere({ type: 'close', model });
        throw fingerprints.size > 1 ? new UserError('the run changed while its model was opened') : failure;
      }
      const [fingerprint] = fingerprints;
      open.set(model, fingerprint);
      for (const member of members.values())
        if (member.ready && !member.models.has(model)) void catchUp(member);
      return {
        ask: (questions, { documents } = {}) => ask(model, questions, documents),
        async close() {
          open.delete(model);
          for (const member of members.values()) member.models.delete(model);
          await everywhere({ type: 'close', model });
        },
      };
    },
    close,
  };
}

function errorOf({ message, stack }: { message: string; stack?: string }): Error {
  return stack === undefined ? new UserError(message) : Object.assign(new Error(message), { stack });
}

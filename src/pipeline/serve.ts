import { existsSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import { loadConfig } from '../config.ts';
import { reportBody, reportPage, SCRIPT, STYLE } from '../report/page.ts';
import { recordsFingerprint } from '../run/fingerprints.ts';
import { refuseOldRun, runFolder } from '../run/folder.ts';
import { inBatches } from '../serve/batches.ts';
import { isLoopback, publicOrigin } from '../serve/hosts.ts';
import { liveSession } from '../serve/live-session.ts';
import { withRecentAnswers } from '../serve/recent-answers.ts';
import { createServer, LIMITS, type Question } from '../serve/server.ts';
import { runStatus } from '../serve/status.ts';
import { checkedToken, newToken } from '../serve/token.ts';
import { errorCode, UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { leave, onStop } from '../system/stop.ts';
import { type Answering, sharing, startAnswering } from './answering.ts';
import type { RunOptions } from './context.ts';
import type { QaSession } from './qa-session.ts';

export interface ServeOptions extends Pick<RunOptions, 'run' | 'engine' | 'threads'> {
  host: string;
  port: number;
  /** What every request must carry; undefined: the variable REALM_TOKEN, or a new one where others can reach the server. */
  token?: string;
  /** False lets everyone in who can reach the server. */
  auth: boolean;
  /** The public address, where a proxy stands in front. */
  origin?: string;
  /** Requests a minute of one client; 0: no limit; undefined: `RATE` where others can reach the server, else none. */
  rateLimit?: number;
  /** Answers of the model in use that are kept for the same question; 0: none. */
  recentAnswers: number;
}

/** Requests a minute of one client: a page asks for 6, and a program gets an answer every 100 ms. */
const RATE = 600;

/** Questions that a process answers at once: more make no answer sooner on two cores. */
const BATCH = 16;
/** Questions that may wait for them. */
const WAITING = 256;
/** Milliseconds that a stop gives to what is being answered. */
const GRACE = 10_000;

/**
 * Serves a run's report and answers until a signal asks for a stop. Only reads the run folder, and takes no lock: a stage may be
 * at work in it.
 * @param started called with the address once it listens
 */
export async function serve(options: ServeOptions, started: (url: string) => void): Promise<void> {
  const run = runFolder(options.run);
  if (options.host.trim() === '') {
    // Node would listen at every address.
    throw new UserError('--host: is empty; leave it out, or name an address of this machine');
  }
  if (!existsSync(run.config)) {
    throw new UserError(`${run.config}: is missing, so there is no run to serve; name its folder with --run`);
  }
  refuseOldRun(run);
  const config = loadConfig(run.config, []);
  const origin = options.origin === undefined ? undefined : publicOrigin(options.origin);
  // Behind a proxy others come in by loopback.
  const isPrivate = isLoopback(options.host) && origin === undefined;
  const { token, made } = accessToken(options, isPrivate);
  const shared = sharing(config, options);
  let starting: Promise<Answering> | undefined;
  const answering = () => (starting ??= startAnswering(options, shared));
  const live = liveSession(run, async () => (await answering()).open(), say);
  const answer = withRecentAnswers(options.recentAnswers, (session: QaSession, questions) =>
    session.ask(questions),
  );
  const questions = inBatches(
    async (batch: Question[]) => {
      const session = await live.get();
      const texts = batch.map(({ question }) => question);
      const [{ documents }] = batch;
      return documents ? session.ask(texts, { documents }) : answer(session, texts);
    },
    {
      atOnce: shared.processes,
      most: BATCH,
      waiting: WAITING,
      alone: ({ documents }) => documents !== undefined,
    },
  );
  const server = await createServer(
    {
      page: () => reportPage([run], { live: true, logout: token !== undefined }),
      body: () => reportBody([run]),
      fingerprint: () => recordsFingerprint(run),
      script: SCRIPT,
      style: STYLE,
      status() {
        const missing = live.missing();
        return {
          ...runStatus(run),
          answers: missing === undefined ? { ready: true } : { ready: false, missing },
        };
      },
      ask: (question, signal) => questions.run(question, signal),
      failed: (error) => say(`realm serve: ${error instanceof Error ? error.stack : error}`),
    },
    { host: options.host, token, origin },
    { ...LIMITS, requests: options.rateLimit ?? (isPrivate ? 0 : RATE) },
  );
  const stop = stopSignal();
  const url = await listen(server, options);
  try {
    // A name such as localhost may stand for any address.
    const others = server.addresses().find((one) => typeof one === 'object' && !isLoopback(one.address));
    if (typeof others === 'object' && isPrivate && token === undefined && options.auth) {
      throw new UserError(
        `--host ${options.host}: stands for ${others.address} on this machine, which other machines may reach; set REALM_TOKEN, or use --host 127.0.0.1`,
      );
    }
    await answering();
    started(url);
    if (made)
      say(`token: ${token}\nThis is the only time it is printed. Set REALM_TOKEN to choose your own.`);
    if (!isPrivate && token === undefined) {
      say(
        `warning: --no-auth: everyone who can reach ${options.host} can read this run's report and ask its model`,
      );
    }
    await stop;
  } finally {
    await close(server);
    const started = await starting;
    await Promise.all([live.close(), started?.close()]);
  }
}

/** The token in use, and whether it was made here; the `UserError`s never repeat it. */
function accessToken(
  { token, auth }: ServeOptions,
  isPrivate: boolean,
): { token: string | undefined; made: boolean } {
  const variable = process.env.REALM_TOKEN;
  delete process.env.REALM_TOKEN; // nothing that this process starts needs it
  process.title = 'realm serve'; // in place of the command line, which holds --token, for whoever lists the processes
  if (!auth) {
    if (token === undefined && variable === undefined) return { token: undefined, made: false };
    throw new UserError(
      '--no-auth: a token is given too, by --token or the variable REALM_TOKEN; leave out one of the two',
    );
  }
  if (token !== undefined) return { token: checkedToken(token, '--token'), made: false };
  if (variable !== undefined) return { token: checkedToken(variable, 'REALM_TOKEN'), made: false };
  return isPrivate ? { token: undefined, made: false } : { token: newToken(), made: true };
}

async function listen(server: FastifyInstance, { host, port }: ServeOptions): Promise<string> {
  try {
    return `${await server.listen({ host, port })}/`;
  } catch (error) {
    const why = {
      EADDRINUSE: 'is in use by another program; choose another with --port',
      EACCES: 'is not for every user to listen at; choose one above 1023 with --port',
      EADDRNOTAVAIL: 'is no address of this machine; name one of its own with --host',
      ENOTFOUND: 'is no address of this machine; name one of its own with --host',
    }[errorCode(error) ?? ''];
    throw why === undefined ? error : new UserError(`${host}, port ${port}: ${why}`);
  }
}

/** Resolves at the first signal that asks for a stop; a second one leaves at once. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let asked = false;
    onStop(() => {
      if (asked) leave('questions in progress were not answered');
      asked = true;
      say('stopping once the current questions are answered; press again to leave at once');
      resolve();
    });
  });
}

/** Takes no more connections and lets what is being answered be answered, for a while. */
async function close(server: FastifyInstance): Promise<void> {
  const late = setTimeout(() => server.server.closeAllConnections(), GRACE);
  await server.close();
  clearTimeout(late);
}

import { existsSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import { loadConfig } from '../config.ts';
import { errorCode, UserError } from '../errors.ts';
import { say } from '../progress.ts';
import { reportBody, reportPage, SCRIPT, STYLE } from '../report/page.ts';
import { runFolder } from '../run.ts';
import { inBatches } from '../serve/batches.ts';
import { isLoopback } from '../serve/hosts.ts';
import { liveAsking } from '../serve/live-asking.ts';
import { createServer, type Question } from '../serve/server.ts';
import { runStatus } from '../serve/status.ts';
import { recordsStamp } from '../stamps.ts';
import { openAsking } from './asking.ts';
import { announceEngine, type CommonOptions } from './context.ts';

export interface ServeOptions extends Pick<CommonOptions, 'run' | 'engine' | 'threads'> {
  host: string;
  port: number;
}

/** Questions answered at once: more make no answer sooner on two cores. */
const BATCH = 16;
/** Questions that may wait for them. */
const WAITING = 256;
/** Milliseconds that a stop gives to what is being answered. */
const GRACE = 10_000;

/**
 * Serves a run's report and answers until SIGINT or SIGTERM. Only reads the run folder, and takes no lock: a stage may be
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
  loadConfig(run.config, []);
  let starting: ReturnType<typeof announceEngine> | undefined;
  const engine = () => (starting ??= announceEngine(options));
  const live = liveAsking(
    run,
    async () => openAsking({ run, config: loadConfig(run.config, []), engine: await engine() }),
    say,
  );
  const questions = inBatches(
    async (batch: Question[]) => {
      const asking = await live.get();
      const [{ openBook }] = batch;
      return asking.ask(
        batch.map(({ question }) => question),
        openBook && { openBook },
      );
    },
    { most: BATCH, waiting: WAITING, alone: ({ openBook }) => openBook !== undefined },
  );
  const server = await createServer(
    {
      page: () => reportPage([run], { live: true }),
      body: () => reportBody([run]),
      stamp: () => recordsStamp(run),
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
    options.host,
  );
  const stop = stopSignal();
  const url = await listen(server, options);
  try {
    await engine();
    started(url);
    if (!isLoopback(options.host)) {
      say(
        `warning: whoever can reach ${options.host} can read this run's report and ask its model; there is no password`,
      );
    }
    await stop;
  } finally {
    await close(server);
    await live.close();
  }
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

/** Resolves at the first SIGINT or SIGTERM; a second one leaves at once. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let asked = false;
    const stop = (_signal: NodeJS.Signals, number: number) => {
      if (asked) process.exit(128 + number);
      asked = true;
      say('stopping once the questions at hand are answered; press again to leave at once');
      resolve();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
  });
}

/** Takes no more connections and lets what is being answered be answered, for a while. */
async function close(server: FastifyInstance): Promise<void> {
  const late = setTimeout(() => server.server.closeAllConnections(), GRACE);
  await server.close();
  clearTimeout(late);
}

import { loadConfig } from '../config.ts';
import { type EngineName, startEngine } from '../engine.ts';
import { modelFingerprint } from '../run/fingerprints.ts';
import { type Run, runFolder } from '../run/folder.ts';
import type { FromProcess, Start, ToProcess } from '../serve/processes.ts';
import { UserError } from '../system/errors.ts';
import { silence } from '../system/quiet.ts';
import { engineLine } from './context.ts';
import { openQaSession, type QaSession } from './qa-session.ts';

// CHILD-PROCESS ENTRY. One of the processes of `realm serve` that answer questions: it opens models and asks them, one call
// after another, until the server says so or is gone.

let run: Run;
let engine: EngineName;
let threads: number;
const sessions = new Map<number, QaSession>();

async function start(given: Start): Promise<string> {
  run = runFolder(given.runDir);
  threads = given.threads;
  const started = await startEngine(given.engine as 'auto' | EngineName, { threads });
  engine = started.name;
  return engineLine(started);
}

async function open(model: number): Promise<string> {
  const fingerprint = modelFingerprint(run);
  const config = loadConfig(run.config, []);
  sessions.set(model, await openQaSession({ run, config, engine, threads }));
  return fingerprint;
}

async function close(model: number): Promise<void> {
  const session = sessions.get(model);
  sessions.delete(model);
  await session?.close();
}

function answer(message: ToProcess): unknown {
  switch (message.type) {
    case 'start':
      if (message.quiet) silence(); // else every process would print the same
      return start(message);
    case 'open':
      return open(message.model);
    case 'ask': {
      const session = sessions.get(message.model);
      if (!session) throw new Error(`model ${message.model} is not open`);
      return session.ask(message.questions, { documents: message.documents as [] | undefined });
    }
    case 'close':
      return close(message.model);
  }
}

/** If the server is gone, `disconnect` reports it. */
function send(message: FromProcess): void {
  process.send?.(message, undefined, undefined, () => {});
}

process.title = 'realm serve: answers';
let last: Promise<unknown> = Promise.resolve();
process.on('message', (message: ToProcess) => {
  const { call } = message;
  last = last.then(async () => {
    try {
      send({ call, result: (await answer(message)) ?? null });
    } catch (error) {
      const { message: reason, stack } = error as Error;
      send({ call, error: { message: reason, ...(!(error instanceof UserError) && { stack }) } });
    }
  });
});
// Signals may reach all processes of the server at once. It first lets the questions in progress be answered.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
process.on('disconnect', () => process.exit(0));

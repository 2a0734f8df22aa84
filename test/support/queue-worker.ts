import { work } from '../../src/queue/worker.ts';

// CHILD-PROCESS ENTRY. A worker with other times than `realm worker`, which it is otherwise: its arguments are the address, the
// engine, and the times as JSON.

const [url, engine, times] = process.argv.slice(2);
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
const ended = await work(
  { url: new URL(url), engine, say: (line) => process.stderr.write(`${line}\n`) },
  stop.signal,
  JSON.parse(times),
);
if (!ended) process.exit();

// npm run bench:serve -- --run RUN: serves a fine-tuned run in a separate process and sends it its test questions,
// repeatedly, over 32 connections at once on loopback; every answer is compared with the answer to the question expected.
// First every question is computed (`--recent-answers 0`), then by default all answers are kept that were given before.
import { spawn } from 'node:child_process';
import { Agent, request } from 'node:http';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadConfig } from '../src/config.ts';
import { readQuestions } from '../src/datasets/questions.ts';
import { runFolder } from '../src/run/folder.ts';
import { difference } from '../test/support/answer-difference.ts';
import { familyMemory } from './process-memory.ts';

const { values: options } = parseArgs({
  options: {
    run: { type: 'string', default: 'runs/demo' },
    questions: { type: 'string', default: '10000' },
    concurrency: { type: 'string', default: '32' },
  },
});
/** Largest difference of a probability or a score in nats that a different order of summation can cause. */
const ROUNDING = 1e-3;

const total = Number(options.questions);
const concurrency = Number(options.concurrency);

const { data } = loadConfig(runFolder(options.run).config, []);
const file = data.test ?? data.dev;
if (file === null) throw new Error(`${options.run}: the settings have no file of test questions`);
const questions = (await readQuestions(file, data.answers)).map(({ question }) => question);
console.log(`${questions.length} questions on ${availableParallelism()} cores`);

await measure('every question computed', '--recent-answers', '0');
await measure('only questions answered before');

async function measure(title: string, ...more: string[]): Promise<void> {
  console.log(`\n${title}`);
  const server = spawn(
    process.execPath,
    [
      join(import.meta.dirname, '../bin/realm'),
      ...['serve', '--run', options.run, '--port', '0', '--json', ...more],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const ended = new Promise<number | null>((resolve) => server.on('close', resolve));
  try {
    const url = await new Promise<string>((resolve, reject) => {
      server.stdout.once('data', (line) => resolve(`${JSON.parse(line).url}api/ask`));
      void ended.then((code) => reject(new Error(`the server ended with code ${code}`)));
    });
    await load(url);
    const peak = familyMemory(server.pid!, 'VmHWM');
    console.log(`peak RSS    ${peak === undefined ? 'unknown' : `${(peak / 2 ** 20).toFixed(0)} MiB`}`);
  } finally {
    server.kill('SIGTERM');
    const code = await ended;
    if (code !== 0) {
      console.log(`the server ended with code ${code}`);
      process.exitCode = 1;
    }
  }
}

async function load(url: string): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const expected: unknown[] = [];
  for (const question of questions) expected.push(JSON.parse((await ask(url, agent, question)).body));

  const milliseconds: number[] = [];
  const failures: string[] = [];
  let largestDistance = 0;
  let next = 0;
  const startTime = performance.now();
  const askRepeatedly = async () => {
    while (next < total) {
      const n = next++ % questions.length;
      const sent = performance.now();
      const { status, body } = await ask(url, agent, questions[n]).catch((error) => ({
        status: 0,
        body: `${error}`,
      }));
      milliseconds.push(performance.now() - sent);
      const distance = status === 200 ? difference(JSON.parse(body), expected[n]) : Number.POSITIVE_INFINITY;
      if (distance > ROUNDING) failures.push(`"${questions[n]}" gave ${status} ${body}`);
      else largestDistance = Math.max(largestDistance, distance);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, askRepeatedly));
  const seconds = (performance.now() - startTime) / 1000;
  agent.destroy();

  milliseconds.sort((a, b) => a - b);
  const at = (share: number) => `${milliseconds[Math.ceil(share * milliseconds.length) - 1].toFixed(1)} ms`;
  console.log(
    `answered    ${milliseconds.length} over ${concurrency} connections in ${seconds.toFixed(1)} s`,
  );
  console.log(`per second  ${(milliseconds.length / seconds).toFixed(0)}`);
  console.log(`latency     p50 ${at(0.5)}, p95 ${at(0.95)}, p99 ${at(0.99)}, longest ${at(1)}`);
  console.log(
    `different   ${failures.length} from the answers to the questions asked one at a time; probabilities of the others by at most ${largestDistance.toExponential(1)}`,
  );
  for (const failure of failures.slice(0, 5)) console.log(`  ${failure.slice(0, 300)}`);
  if (failures.length > 0) process.exitCode = 1;
}

function ask(url: string, agent: Agent, question: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const body = JSON.stringify({ question });
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const sent = request(url, { method: 'POST', agent, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece) => (text += piece));
      response.on('end', () => resolve({ status: response.statusCode!, body: text }));
      response.on('error', reject);
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

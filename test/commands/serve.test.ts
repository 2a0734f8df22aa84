import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { sharing } from '../../src/pipeline/answering.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { finetuneQa } from '../../src/pipeline/finetune-qa.ts';
import { ictWarmup } from '../../src/pipeline/ict-warmup.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { type AnsweredQuestion, openQaSession } from '../../src/pipeline/qa-session.ts';
import { lockRun, runConfig, runFolder } from '../../src/run/folder.ts';
import { releaseLocks } from '../../src/system/lock.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { difference } from '../support/answer-difference.ts';
import { commandLine } from '../support/command-line.ts';
import { startTestEngine } from '../support/engine.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

const REALM = join(import.meta.dirname, '../../bin/realm');
const ENGINE = process.env.REALM_ENGINE ?? 'auto';

const folder = temporaryFolder('serve');
const run = runFolder(join(folder, 'run'));
const world = generateWorld({ seed: 1, documents: 40, heldOut: 0.2 });
let context: Context;

/** The run with settings changed, as another command would open it. */
const open = (...set: string[]): Context => ({ ...context, config: runConfig(run, { set }) });

before(async () => {
  const { name: engine } = await startTestEngine();
  writeWorld(world, folder);
  const set = [
    ...TINY,
    `data.documents=${join(folder, 'documents.jsonl')}`,
    `data.train=${join(folder, 'questions.train.jsonl')}`,
    'ict={steps: 2, batch: 8, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
    'qa={steps: 2, retrieverBlocks: 10, readerBlocks: 2, readerTokens: 104, optimizer: {warmupSteps: 0, learningRate: 1e-2}}',
    'train.logEvery=1',
  ];
  context = { run, config: runConfig(run, { set }), engine };
  lockRun(run, 'finetune-qa');
  await prepareCorpus(run, context.config);
  await ictWarmup(context);
});
after(releaseLocks);

function start(...args: string[]) {
  return startWith({}, ...args);
}

/** @param variables of the environment, besides this process's own */
function startWith(variables: Record<string, string>, ...args: string[]) {
  const child = spawn(process.execPath, [REALM, 'serve', '--engine', ENGINE, '--json', ...args], {
    env: { ...process.env, ...variables },
  });
  after(() => child.kill('SIGKILL'));
  let out = '';
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (piece) => (err += piece));
  const end = new Promise<{ code: number | null; err: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, err })),
  );
  const url = new Promise<string>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (piece) => {
      out += piece;
      if (out.endsWith('\n')) resolve(JSON.parse(out).url);
    });
    void end.then(() => reject(new Error(err)));
  });
  url.catch(() => {});
  return { child, url, end };
}

/** Every file of the run with its length and time of change, but for the notes of what was compared with its SHA-256. */
function files(): string[] {
  const names = (readdirSync(run.dir, { recursive: true }) as string[]).sort();
  return names.flatMap((name) => {
    const stat = statSync(join(run.dir, name));
    if (!stat.isFile() || basename(name) === 'verified.json') return [];
    return [`${name} ${stat.size} ${stat.mtimeMs} ${stat.ctimeMs}`];
  });
}

test('a run at work is served: its report at once, answers from when it is fine-tuned, and newer ones after', async () => {
  const { child, url: at, end } = start('--run', run.dir, '--port', '0');
  const url = await at;
  const post = (question: string) =>
    fetch(`${url}api/ask`, {
      method: 'POST',
      // A connection of its own: one that is kept alive is cut off while this process trains for longer than the server waits.
      headers: { 'content-type': 'application/json', connection: 'close' },
      body: JSON.stringify({ question }),
    });
  const untilReady = async (accept: (asked: AnsweredQuestion) => boolean = () => true) => {
    for (;;) {
      const response = await post('Who wrote it?');
      if (response.status === 200 && accept((await response.json()) as AnsweredQuestion)) return;
      await sleep(200);
    }
  };

  const page = await fetch(url);
  assert.equal(page.status, 200);
  assert.match(await page.text(), /<section id="ask"[\s\S]*<main id="report">/);
  const early = await post('Who wrote it?');
  assert.equal(early.status, 409);
  assert.match(
    ((await early.json()) as { error: string }).error,
    /the next command is "realm build-index --run/,
  );

  await finetuneQa(context);
  await untilReady();
  const before = files();
  const questions = world.train.slice(0, 60).map(({ question }) => question);
  const asking = await openQaSession(context);
  const alone: AnsweredQuestion[] = [];
  for (const question of questions) alone.push(...(await asking.ask([question])));
  await asking.close();
  const together = await Promise.all(questions.map(async (q) => (await post(q)).json()));
  for (const [i, answer] of together.entries()) {
    assert.ok(difference(answer, alone[i]) < 1e-4, JSON.stringify([answer, alone[i]]));
  }
  assert.deepEqual(files(), before, 'serving and asking change nothing in the run folder');

  await finetuneQa(open('qa.steps=6'));
  const newer = await openQaSession(open());
  const [expected] = await newer.ask(['Who wrote it?']);
  await newer.close();
  await untilReady((asked) => difference(asked, expected) < 1e-4);

  child.kill('SIGTERM');
  const { code, err } = await end;
  assert.equal(code, 0, err);
  assert.match(err, /a new model or index is in use/);
});

test('a process that answers and is killed is replaced; its questions are answered or refused in a sentence', async (t) => {
  const shared = sharing(open().config, { engine: ENGINE as Context['engine'] });
  if (shared.processes < 2 || process.platform !== 'linux') return t.skip('the server itself answers here');
  const { child, url: at, end } = start('--run', run.dir, '--port', '0', '--recent-answers', '0');
  const url = await at;
  const others = () =>
    readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number);
  const post = async (question: string) => {
    const response = await fetch(`${url}api/ask`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ question }),
    });
    return { status: response.status, body: (await response.json()) as AnsweredQuestion & { error: string } };
  };
  const { status, body: expected } = await post('Who wrote it?');
  assert.equal(status, 200);
  const before = others();
  assert.equal(before.length, shared.processes);

  const asked = Array.from({ length: 60 }, () => post('Who wrote it?'));
  process.kill(before[0], 'SIGKILL');
  let answered = 0;
  for (const { status, body } of await Promise.all(asked)) {
    if (status === 200) answered++;
    else {
      assert.equal(status, 503);
      assert.match(body.error, /^the process that worked on the answer ended .*; try again in a moment$/);
    }
  }
  assert.ok(answered > 0, 'the others answer meanwhile');
  while (others().length < shared.processes || others().includes(before[0])) await sleep(50);
  for (let n = 0; n < 20; n++) {
    const { status, body } = await post('Who wrote it?');
    assert.equal(status, 200, body.error);
    assert.ok(difference(body, expected) < 1e-4);
  }
  const after = others();
  child.kill('SIGTERM');
  const { code, err } = await end;
  assert.equal(code, 0, err);
  assert.match(
    err,
    /^a process that answers questions ended \(killed by SIGKILL\); it is replaced in 0\.5 s$/m,
  );
  for (const pid of after) assert.throws(() => process.kill(pid, 0), 'no process is left');
});

test('a folder without a run, no address, and a port in use are refused in a sentence', async () => {
  const realm = commandLine();
  const serve = (...args: string[]) => realm('serve', '--engine', ENGINE, '--json', ...args);
  const nowhere = await serve('--run', join(folder, 'nowhere'));
  assert.equal(nowhere.code, 2);
  assert.match(
    nowhere.err,
    /config\.yaml: is missing, so there is no run to serve; name its folder with --run/,
  );
  const empty = await serve('--run', run.dir, '--port', '0', '--host', '');
  assert.equal(empty.code, 2);
  assert.match(empty.err, /--host: is empty; leave it out, or name an address of this machine/);
  const taken = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => taken.once('listening', resolve));
  const { port } = taken.address() as { port: number };
  const busy = await serve('--run', run.dir, '--port', String(port));
  taken.close();
  assert.equal(busy.code, 2);
  assert.match(busy.err, /is in use by another program; choose another with --port/);
});

test('whoever listens to others has a token made and printed once, and Ctrl-C ends the server', async () => {
  const { child, url, end } = start('--run', run.dir, '--port', '0', '--host', '0.0.0.0');
  const { port } = new URL(await url);
  const status = (token?: string) =>
    fetch(
      `http://localhost:${port}/api/status`,
      token ? { headers: { authorization: `Bearer ${token}` } } : {},
    );
  assert.equal((await status()).status, 401);
  child.kill('SIGINT');
  const { code, err } = await end;
  assert.equal(code, 0);
  const tokens = [...err.matchAll(/[\w-]{43}/g)].map(([token]) => token);
  assert.equal(tokens.length, 1, err);
  assert.match(err, new RegExp(`^token: ${tokens[0]}$`, 'm'));
});

test('a token of the variable or of the option is used and shown nowhere', async () => {
  const token = 'my-own-token-of-this-test';
  for (const given of [
    startWith({ REALM_TOKEN: token }, '--run', run.dir, '--port', '0', '--host', '0.0.0.0'),
    start('--run', run.dir, '--port', '0', '--token', token),
  ]) {
    const { port } = new URL(await given.url);
    const address = `http://localhost:${port}/`;
    assert.equal((await fetch(`${address}api/status`)).status, 401);
    const response = await fetch(address, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(response.status, 200);
    const page = await response.text();
    assert.match(page, /<form method="post" action="logout">/);
    assert.doesNotMatch(page, new RegExp(token));
    if (process.platform === 'linux')
      assert.doesNotMatch(readFileSync(`/proc/${given.child.pid}/cmdline`, 'utf8'), new RegExp(token));
    given.child.kill('SIGINT');
    const { code, err } = await given.end;
    assert.equal(code, 0, err);
    assert.doesNotMatch(err, new RegExp(token));
  }
  const wherever = readdirSync(run.dir, { recursive: true }) as string[];
  for (const name of wherever) {
    const path = join(run.dir, name);
    if (statSync(path).isFile()) assert.ok(!readFileSync(path).includes(token), name);
  }
});

test('--no-auth lets everyone in and says so; tokens that are empty, short or not wanted are refused', async () => {
  const { child, url, end } = start('--run', run.dir, '--port', '0', '--host', '0.0.0.0', '--no-auth');
  const { port } = new URL(await url);
  assert.equal((await fetch(`http://localhost:${port}/api/status`)).status, 200);
  child.kill('SIGINT');
  assert.match(
    (await end).err,
    /^warning: --no-auth: everyone who can reach 0\.0\.0\.0 can read this run's report/m,
  );

  for (const [given, why] of [
    [startWith({ REALM_TOKEN: '' }, '--run', run.dir), /^realm: REALM_TOKEN: the token is empty;/m],
    [start('--run', run.dir, '--token', 'short'), /^realm: --token: the token is too short;/m],
    [
      startWith({ REALM_TOKEN: 'x'.repeat(20) }, '--run', run.dir, '--no-auth'),
      /^realm: --no-auth: a token is given too/m,
    ],
    [
      start('--run', run.dir, '--origin', 'realm.example'),
      /^realm: --origin realm\.example: is not a web address/m,
    ],
  ] as const) {
    const { code, err } = await given.end;
    assert.equal(code, 2);
    assert.match(err, why);
  }
});

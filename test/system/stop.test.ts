import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pathToFileURL } from 'node:url';

const REALM = join(import.meta.dirname, '../../bin/realm');
const FIXTURES = join(import.meta.dirname, '../fixtures/stop');
const AT_LOAD = pathToFileURL(join(FIXTURES, 'at-load.mjs')).href;
const AT_SYNC = pathToFileURL(join(FIXTURES, 'at-sync.mjs')).href;
const TYPESCRIPT = pathToFileURL(join(import.meta.dirname, '../../src/typescript.mjs')).href;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const root = mkdtempSync(join(tmpdir(), 'realm-stop-'));
after(() => rmSync(root, { recursive: true, force: true }));

const documents = join(root, 'documents.jsonl');
writeFileSync(
  documents,
  Array.from({ length: 40 }, (_, i) => ({
    title: `Talvora ${i}`,
    text: `Talvora Benik ${i} was born in Quenfell in 18${10 + i}. Later she moved to Drost.`,
  }))
    .map((document) => `${JSON.stringify(document)}\n`)
    .join(''),
);
const settings = join(root, 'settings.yaml');
writeFileSync(
  settings,
  [
    `data: { documents: ${JSON.stringify(documents)} }`,
    'text: { vocabularySize: 160, blockTokens: 64, sentenceTokens: 32, questionTokens: 32 }',
    'model: { layers: 1, hidden: 8, heads: 2, intermediate: 8, positions: 96, projection: 4, dropout: 0 }',
    'qa: { readerTokens: 96 }',
    'ict: { steps: 1000000, batch: 2 }',
  ]
    .map((line) => `${line}\n`)
    .join(''),
);
const SETTINGS = ['--config', settings];
const ENGINE = ['--engine', process.env.REALM_ENGINE ?? 'auto'];

interface End {
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

function start(args: readonly string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const said = { out: '', err: '' };
  const waiting = new Set<() => void>();
  const heard = (stream: 'out' | 'err') => (piece: string) => {
    said[stream] += piece;
    for (const look of waiting) look();
  };
  child.stdout.setEncoding('utf8').on('data', heard('out'));
  child.stderr.setEncoding('utf8').on('data', heard('err'));
  const end = new Promise<End>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, ...said })),
  );
  /** Resolves once `pattern` was printed, or the process has ended. */
  const until = (pattern: RegExp, stream: 'out' | 'err' = 'err') => {
    const printed = new Promise<void>((resolve) => {
      const look = () => pattern.test(said[stream]) && resolve();
      waiting.add(look);
      look();
    });
    return Promise.race([printed, end]);
  };
  return { child, end, until, said };
}

const realm = (args: readonly string[], env?: Record<string, string>) => start([REALM, ...args], env);

/** A stop by one signal: 130, one plain sentence on the last line, no stack, and no lock or unfinished file. */
function stoppedPlainly({ code, signal, err }: End, run: string, sentence: RegExp): void {
  assert.deepEqual([code, signal], [130, null], err);
  assert.match(err.trimEnd().split('\n').at(-1)!, sentence);
  assert.doesNotMatch(err, /\n {4}at /);
  assert.deepEqual(unfinished(run), []);
}

function unfinished(run: string): string[] {
  const names = existsSync(run) ? readdirSync(run, { recursive: true, encoding: 'utf8' }) : [];
  return names.filter((name) => /(^|\/)lock$|\.tmp$|\.old$/.test(name));
}

const prepared = join(root, 'prepared');
test('a run to stop is prepared', async () => {
  const { code, err } = await realm(['prepare', '--run', prepared, ...SETTINGS]).end;
  assert.equal(code, 0, err);
});

for (const [i, [module, sentence]] of (
  [
    ['src/typescript.mjs', /^realm: stopped before it began; nothing was changed$/],
    ['src/system/stop.ts', /^realm: stopped before it began; nothing was changed$/],
    ['src/cli.ts', /^realm: stopped; run the same command again$/],
    ['src/config.ts', /^realm ict-warmup: stopped; the same command starts again$|^realm: stopped; /],
    ['src/pipeline/context.ts', /^realm ict-warmup: stopped; the same command starts again$/],
    ['src/engine.ts', /^realm ict-warmup: stopped; the same command starts again$/],
    ['src/pipeline/ict-warmup.ts', /^realm ict-warmup: stopped; the same command starts again$/],
  ] as [string, RegExp][]
).entries()) {
  const name = SIGNALS[i % 3];
  test(`${name} while ${module} is loaded ends ict-warmup with one sentence and 130`, async () => {
    const args = ['--import', AT_LOAD, REALM, 'ict-warmup', '--run', prepared, ...ENGINE];
    const end = await start(args, { SIGNAL_AT: module, SIGNAL_NAME: name }).end;
    stoppedPlainly(end, prepared, sentence);
    assert.equal(end.out, '');
  });
}

for (const [i, sync] of [1, 2, 5, 10].entries()) {
  const name = SIGNALS[i % 3];
  test(`${name} when a training stage syncs file ${sync} to the disk ends it with 130 and a sentence`, async () => {
    const args = [
      'ict-warmup',
      '--run',
      prepared,
      ...ENGINE,
      '--resume',
      'none',
      '--set',
      'train.saveEvery=2',
    ];
    const ended = await start(['--import', AT_SYNC, REALM, ...args], {
      SIGNAL_AT_SYNC: String(sync),
      SIGNAL_NAME: name,
    }).end;
    if (/^stopped and saved; /.test(ended.out)) stoppedPlainly(ended, prepared, /./);
    else stoppedPlainly(ended, prepared, /^realm ict-warmup: stopped; .+$/);
  });
}

for (const [i, [module, args]] of (
  [
    ['src/pipeline/import.ts', ['import', ...ENGINE]],
    ['src/pipeline/export.ts', ['export', '--to', join(root, 'made'), ...ENGINE]],
    ['src/commands/ask-lines.ts', ['ask', 'who?', ...ENGINE]],
    ['src/pipeline/evaluate-recall.ts', ['eval', 'recall', '--to', join(root, 'made'), ...ENGINE]],
  ] as [string, string[]][]
).entries()) {
  const name = SIGNALS[i % 3];
  test(`${name} while ${module} is loaded ends ${args[0]} with one sentence and 130, and nothing is made`, async () => {
    const command = ['--import', AT_LOAD, REALM, ...args, '--run', prepared];
    const end = await start(command, { SIGNAL_AT: module, SIGNAL_NAME: name }).end;
    stoppedPlainly(end, prepared, /^realm [a-z]+(?: [a-z]+)?: stopped; .+$/);
    assert.equal(end.out, '');
    assert.equal(existsSync(join(root, 'made')), false);
  });
}

test('SIGTERM while src/pipeline/data.ts is loaded ends data get with one sentence and 130, and nothing is made', async () => {
  const to = join(root, 'data');
  const command = ['--import', AT_LOAD, REALM, 'data', 'get', 'nq-open', '--to', to, '--from', root];
  const end = await start(command, { SIGNAL_AT: 'src/pipeline/data.ts', SIGNAL_NAME: 'SIGTERM' }).end;
  stoppedPlainly(end, to, /^realm data(?: get)?: stopped; .+$/);
  assert.equal(existsSync(to), false);
});

test('a second signal leaves at once and says from which step the same command resumes', async () => {
  const run = ['ict-warmup', '--run', prepared, ...ENGINE, '--set', 'train.logEvery=1'];
  const first = realm(run);
  await first.until(/^engine: /m);
  first.child.kill('SIGTERM');
  await first.end;
  const second = realm([...run, '--set', 'ict.batch=4']);
  await second.until(/^engine: /m);
  second.child.kill('SIGINT');
  await second.until(/press again/);
  second.child.kill('SIGINT');
  const ended = await second.end;
  assert.equal(ended.code, 130, ended.err);
  assert.match(
    `${ended.err}${ended.out}`,
    /realm ict-warmup: stopped; .*\n$|stopped and saved; the same command (?:resumes from step \d+|starts the stage again)\n$/,
  );
});

for (const [i, [what, args, moment, sentence]] of (
  [
    [
      'prepare, in vocabulary training',
      ['prepare', ...SETTINGS],
      /^vocabulary: /m,
      /^realm prepare: stopped; (?:no vocabulary was saved, and )?the same command /,
    ],
    [
      'build-index',
      ['build-index', ...ENGINE],
      /^engine: /m,
      /^realm build-index: stopped; (?:the vectors made so far are kept, and )?the same command /,
    ],
  ] as [string, string[], RegExp, RegExp][]
).entries()) {
  test(`a signal during ${what} ends it plainly, and the same command works afterwards`, async () => {
    const run = join(root, `stage-${i}`);
    if (args[0] === 'build-index') {
      assert.equal((await realm(['prepare', '--run', run, ...SETTINGS]).end).code, 0);
      const trained = await realm(['ict-warmup', '--run', run, ...ENGINE, '--set', 'ict.steps=2']).end;
      assert.equal(trained.code, 0, trained.err);
    }
    const { child, end, until } = realm([...args, '--run', run]);
    await until(moment);
    child.kill(SIGNALS[i]);
    const ended = await end;
    // A command that was done before the signal came ends normally.
    if (ended.code !== 0) stoppedPlainly(ended, run, sentence);
    const again = await realm([...args, '--run', run]).end;
    assert.equal(again.code, 0, again.err);
    assert.deepEqual(unfinished(run), []);
  });
}

const blocked = (what: string) => start(['--import', TYPESCRIPT, join(FIXTURES, 'blocked.ts'), what]);
const UNAVAILABLE = 'the native engine, which brings the addon for signals, is not installed';

test('work that gives the event loop no turn, but looks for signals, hears the first at once and is left at the second', async (t) => {
  const { child, end, until, said } = blocked('obeying');
  await until(/ready|unavailable/, 'out');
  if (/unavailable/.test(said.out)) return t.skip(UNAVAILABLE);
  child.kill('SIGTERM');
  await until(/stopping/);
  child.kill('SIGTERM');
  const { code, err } = await end;
  assert.equal(code, 130, err);
  assert.match(err, /^stopping\n\nrealm: stopped; the same command starts again\n$/);
});

test('a computation that looks for nothing is ended after the second signal, with a sentence and 130', async (t) => {
  const { child, end, until, said } = blocked('computing');
  await until(/ready|unavailable/, 'out');
  if (/unavailable/.test(said.out)) return t.skip(UNAVAILABLE);
  child.kill('SIGTERM');
  child.kill('SIGINT');
  const { code, signal, err } = await end;
  assert.deepEqual([code, signal], [130, null], err);
  assert.match(err, /^\nrealm: stopped in the middle of a long computation; what was saved last is kept\n$/);
});

test('signals that the event loop delivers and the addon counts are handled once each', async (t) => {
  const { child, end, until, said } = blocked('waiting');
  await until(/ready|unavailable/, 'out');
  if (/unavailable/.test(said.out)) return t.skip(UNAVAILABLE);
  child.kill('SIGHUP');
  await until(/stopping/);
  child.kill('SIGINT');
  const { code, err } = await end;
  assert.equal(code, 130, err);
  assert.match(err, /^stopping\n\nrealm: stopped; the same command starts again\n$/);
});

test('a child process that starts while signals are counted has their default effect', async (t) => {
  const { code, out, err } = await blocked('child').end;
  if (/unavailable/.test(out)) return t.skip(UNAVAILABLE);
  assert.equal(code, 0, err);
  assert.equal(out, 'ready\nthe child ended by SIGTERM\n');
});

for (const name of SIGNALS)
  test(`${name} has its default effect again when a process stops listening`, async (t) => {
    const { child, end, until, said } = blocked('unlistening');
    await until(/ready|unavailable/, 'out');
    if (/unavailable/.test(said.out)) return t.skip(UNAVAILABLE);
    await until(/not listening/, 'out');
    child.kill(name);
    const { signal, err } = await end;
    assert.deepEqual([signal, err], [name, '']);
  });

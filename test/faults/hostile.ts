/**
 * Hostile input: every file that realm reads is corrupted in many ways, each command that reads it is run, and its end is
 * judged. Right is exit code 2 with a sentence that names the file and nothing half done, or success if a judge explains
 * why the file is harmless. Wrong is a stack, a crash, a hang, or more memory than the file justifies.
 *
 *   tsx test/faults/hostile.ts [--short] [--only TARGET [--case N]]     TARGET: a name, or a pattern of names
 */
import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Case, caseOf, spoil } from './hostile/spoil.ts';
import { filesOf, NOTE, TARGETS, type Target } from './hostile/targets.ts';
import type { FromWorker, ToWorker } from './hostile/worker.ts';

const WORKERS = 2;
/** Milliseconds without an answer that count as a hang. */
const PATIENCE = 300_000;
/** Bytes that one command may need in addition: files have a few KiB, even if they claim to be larger. */
const MEMORY = 200 * 2 ** 20;
/** Cases of one worker, so that memory left to the garbage collector does not add up. */
const CASES_OF_A_WORKER = 150;
/** Cases of the short form, spread over all targets; and cases that the real program runs too, in both forms. */
const SHORT = 60;
const REAL = { full: 34, short: 6 };
/** In characters. */
const LONGEST_SENTENCE = 700;

const REALM = fileURLToPath(new URL('../../bin/realm', import.meta.url));
const WORKER = fileURLToPath(new URL('./hostile/worker.ts', import.meta.url));

/** What a refused command may have finished before: complete steps of its work, from which the next call resumes. */
const PROGRESS: Record<string, RegExp> = {
  // Settings and vocabulary are saved before the corpus is read.
  prepare: /^run(\/config\.yaml|\/vocab\.txt)?$/,
  'build-index': /^run\/index(\/|$)/,
  pretrain: /^run\/index(\/|$)/,
  'finetune-qa': /^run\/index(\/|$)/,
  eval: /^run\/index(\/|$)/,
};

type Outcome =
  | { kind: 'refused' }
  | { kind: 'harmless'; why: string }
  | { kind: 'stack' | 'crash' | 'hang' | 'wrong'; why: string };

const KINDS = ['refused', 'harmless', 'wrong', 'stack', 'crash', 'hang'] as const;

const isFailure = ({ kind }: Outcome) => !['refused', 'harmless'].includes(kind);

interface Ended {
  code: number | undefined;
  said: string;
  grown: number;
  /** If the process died. */
  died?: { kind: 'crash' | 'hang'; why: string };
}

export async function hostile(options: {
  short: boolean;
  only?: string;
  number?: number;
}): Promise<{ lines: string[]; failed: boolean }> {
  const root = mkdtempSync(join(tmpdir(), 'realm-hostile-'));
  const began = performance.now();
  try {
    const first = startWorker();
    await first.ask({ type: 'make', root });
    first.end();
    const cases = choose(options, root);
    const outcomes = new Map<Case, Outcome>();
    const seconds = new Map<Target, number>();
    const queue = [...cases];
    const lanes = Array.from({ length: Math.min(WORKERS, cases.length) }, (_, lane) =>
      runAll(queue, root, join(root, `lane-${lane}`), (one, outcome, took) => {
        outcomes.set(one, outcome);
        seconds.set(one.target, (seconds.get(one.target) ?? 0) + took);
        if (outcomes.size % 200 === 0) process.stderr.write(`hostile: ${outcomes.size} of ${cases.length}\n`);
        if (options.number !== undefined || isFailure(outcome))
          process.stderr.write(`${told(one, outcome)}\n`);
      }),
    );
    await Promise.all(lanes);
    const real = options.only === undefined ? runReal(cases, outcomes, root, options.short) : undefined;
    return summary(outcomes, seconds, real, (performance.now() - began) / 1000);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

function choose(options: { short: boolean; only?: string; number?: number }, root: string): Case[] {
  if (options.only !== undefined) {
    const wanted = new RegExp(`^(${options.only})$`);
    const targets = TARGETS.filter(({ name }) => wanted.test(name));
    if (targets.length === 0)
      throw new Error(`no target ${options.only}; there are ${TARGETS.map(({ name }) => name).join(', ')}`);
    const { number } = options;
    return targets.flatMap((target) =>
      number === undefined ? casesOf(target, root) : [caseOf(target, number, root)],
    );
  }
  if (!options.short) return TARGETS.flatMap((target) => casesOf(target, root));
  const each = Math.ceil(SHORT / TARGETS.length);
  return TARGETS.flatMap((target) => {
    const all = casesOf(target, root);
    const wanted = Math.min(target.slow ? 1 : each, all.length);
    return Array.from({ length: wanted }, (_, i) => all[Math.floor(((i + 0.5) * all.length) / wanted)]);
  });
}

function casesOf(target: Target, root: string): Case[] {
  const n = target.cases * filesOf(target, root).length;
  return Array.from({ length: n }, (_, number) => caseOf(target, number, root));
}

// ---------------------------------------------------------------------------------------------------- running

async function runAll(
  queue: Case[],
  root: string,
  dir: string,
  done: (one: Case, outcome: Outcome, seconds: number) => void,
): Promise<void> {
  let worker = await warmWorker(root, dir);
  for (let count = 1; ; count++) {
    const one = queue.shift();
    if (!one) break;
    if (worker.gone() || count % CASES_OF_A_WORKER === 0) {
      worker.end();
      worker = await warmWorker(root, dir);
    }
    const began = performance.now();
    const run = (argv: string[]) => worker.ask({ type: 'run', dir, argv }) as Promise<Ended>;
    const outcome = await runOne(one, root, dir, run);
    done(one, outcome, (performance.now() - began) / 1000);
  }
  worker.end();
}

/** A worker that has answered a question of a valid run, so that the engine's own memory does not count in any case. */
async function warmWorker(root: string, dir: string) {
  const worker = startWorker();
  rmSync(dir, { recursive: true, force: true });
  cpSync(join(root, 'tuned'), dir, { recursive: true });
  const valid = await worker.ask({ type: 'run', dir, argv: ['ask', 'Who wrote it?', '--run', 'run'] });
  if (valid?.code !== 0) throw new Error(`a valid run was refused: ${valid?.said}`);
  return worker;
}

async function runOne(
  one: Case,
  root: string,
  dir: string,
  run: (argv: string[]) => Ended | Promise<Ended>,
): Promise<Outcome> {
  rmSync(dir, { recursive: true, force: true });
  cpSync(join(root, one.target.state), dir, { recursive: true });
  const spoilt = spoil(one, dir, root);
  const files = contents(dir);
  return judge(one, spoilt, await run(one.argv), files, () => contents(dir));
}

function startWorker() {
  const child: ChildProcess = fork(WORKER, [], {
    execArgv: ['--import', import.meta.resolve('tsx')],
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let gone = false;
  let noise = '';
  child.stderr!.setEncoding('utf8').on('data', (text) => {
    noise = (noise + text).slice(-4000);
  });
  child.on('exit', () => {
    gone = true;
  });
  return {
    gone: () => gone,
    end: () => {
      if (!gone) child.disconnect();
    },
    ask(message: ToWorker): Promise<Ended | undefined> {
      return new Promise((resolve) => {
        const died = (kind: 'crash' | 'hang', why: string) => {
          child.removeAllListeners('message');
          gone = true;
          resolve({ code: undefined, said: noise, grown: 0, died: { kind, why } });
        };
        const exited = (code: number | null, signal: string | null) => {
          clearTimeout(alarm);
          died('crash', `the process died (${signal ?? `exit code ${code}`})`);
        };
        const alarm = setTimeout(() => {
          child.off('exit', exited);
          child.kill('SIGKILL');
          died('hang', `no end after ${PATIENCE / 1000} s`);
        }, PATIENCE);
        child.once('exit', exited);
        child.once('message', (answer: FromWorker) => {
          clearTimeout(alarm);
          child.off('exit', exited);
          resolve(answer.type === 'ended' ? answer : undefined);
        });
        child.send(message, () => {});
      });
    },
  };
}

// ---------------------------------------------------------------------------------------------------- judging

/** The hash of each file by its path, and the folders. */
type Contents = Map<string, string>;

function contents(dir: string): Contents {
  const found: Contents = new Map();
  for (const name of readdirSync(dir, { recursive: true }) as string[]) {
    if (basename(name) === NOTE) continue;
    const stat = lstatSync(join(dir, name));
    const what = stat.isFile() ? hashOf(join(dir, name), stat.size) : stat.isDirectory() ? 'folder' : 'link';
    found.set(name, what);
  }
  return found;
}

function hashOf(path: string, size: number): string {
  return size > 64 << 20 ? String(size) : createHash('sha1').update(readFileSync(path)).digest('hex');
}

function judge(
  { target, file, mutation, argv }: Case,
  { before, after }: { before: Buffer; after?: Buffer },
  ended: Ended,
  files: Contents,
  filesNow: () => Contents,
): Outcome {
  if (ended.died) return { kind: ended.died.kind, why: `${ended.died.why}\n${ended.said.slice(-1500)}` };
  const wrong = (why: string): Outcome => ({ kind: 'wrong', why: `${why}\n${ended.said.slice(-600)}` });
  if (ended.code === 1) return { kind: 'stack', why: ended.said.slice(-1500) };
  if (ended.grown > MEMORY) return wrong(`${Math.round(ended.grown / 2 ** 20)} MiB of memory`);
  const now = filesNow();
  const half = [...now.keys()].filter((path) => /\.(tmp|old)$/.test(path));
  if (half.length > 0) return wrong(`left ${half.join(', ')}`);
  if (ended.code === 0) {
    if (target.accepted) return { kind: 'harmless', why: target.accepted };
    if (/^(missing|a link to itself)$/.test(mutation) && target.mayBeMissing)
      return { kind: 'harmless', why: target.mayBeMissing };
    const why = after && target.judge(before, after);
    return why === undefined ? wrong('was accepted') : { kind: 'harmless', why };
  }
  if (ended.code !== 2) return wrong(`exit code ${ended.code}`);
  const said = ended.said.slice(ended.said.lastIndexOf('realm: ') + 7).trimEnd();
  if (!ended.said.includes('realm: ') || said.includes('\n') || / {4}at /.test(ended.said))
    return wrong('was refused, but not in one sentence');
  if (said.length > LONGEST_SENTENCE) return wrong(`was refused in ${said.length} characters`);
  const parent = dirname(file);
  const named =
    said.includes(basename(file)) ||
    (parent !== '.' && said.includes(parent)) ||
    (target.naming?.test(said) ?? false);
  if (!named) return wrong(`was refused, but neither ${file} nor its folder is named`);
  const may = PROGRESS[argv[0]];
  const logged = argv[0] !== 'ask'; // asking only reads; whatever works in a run logs why it stopped
  const changes = [...new Set([...files.keys(), ...now.keys()])].filter(
    (path) => files.get(path) !== now.get(path) && !may?.test(path) && !(logged && path === 'run/log.jsonl'),
  );
  if (changes.length > 0) return wrong(`was refused, but ${changes.join(', ')} changed`);
  return { kind: 'refused' };
}

// ---------------------------------------------------------------------------------------------------- the real program

/** Runs some cases again through bin/realm: a shell must see the result of `main`. Returns the differences. */
function runReal(cases: Case[], outcomes: Map<Case, Outcome>, root: string, short: boolean) {
  const wanted = Math.min(short ? REAL.short : REAL.full, cases.length);
  const dir = join(root, 'real');
  const failures: string[] = [];
  for (let i = 0; i < wanted; i++) {
    const one = cases[Math.floor(((i + 0.3) * cases.length) / wanted)];
    rmSync(dir, { recursive: true, force: true });
    cpSync(join(root, one.target.state), dir, { recursive: true });
    spoil(one, dir, root);
    const { status, stderr } = spawnSync(process.execPath, [REALM, ...one.argv], {
      cwd: dir,
      encoding: 'utf8',
      timeout: PATIENCE,
      maxBuffer: 1 << 26,
    });
    const kind = outcomes.get(one)!.kind;
    const expected = kind === 'refused' ? 2 : kind === 'harmless' ? 0 : status;
    if (status !== expected || /\n {4}at /.test(stderr))
      failures.push(
        `bin/realm ${one.argv.join(' ')}: exit code ${status}, not ${expected}; ${rerun(one)}\n${stderr.slice(-600)}`,
      );
  }
  return { ran: wanted, failures };
}

// ---------------------------------------------------------------------------------------------------- printing

function rerun({ target, number, seed }: Case): string {
  return `--only ${target.name} --case ${number} (seed ${seed})`;
}

function told(one: Case, outcome: Outcome): string {
  const why = 'why' in outcome ? `: ${outcome.why}` : '';
  return `${outcome.kind.toUpperCase()} ${one.file}, ${one.mutation}, ${one.argv.join(' ')} [${rerun(one)}]${why}`;
}

function summary(
  outcomes: Map<Case, Outcome>,
  secondsOf: Map<Target, number>,
  real: { ran: number; failures: string[] } | undefined,
  seconds: number,
): { lines: string[]; failed: boolean } {
  const count = (kind: Outcome['kind'], of = [...outcomes.values()]) =>
    of.filter((o) => o.kind === kind).length;
  const reasons = new Map<string, number>();
  for (const o of outcomes.values()) {
    if (o.kind === 'harmless') reasons.set(o.why, (reasons.get(o.why) ?? 0) + 1);
  }
  const columns = (name: string, values: unknown[]) =>
    `  ${name.padEnd(34)} ${values.map((value) => String(value).padStart(9)).join('')}`;
  const row = (name: string, of: Outcome[], took: number) =>
    columns(name, [of.length, ...KINDS.map((kind) => count(kind, of)), took.toFixed(0)]);
  const failures = [...outcomes].filter(([, o]) => isFailure(o));
  const lines = [
    `hostile input: ${outcomes.size} files corrupted in ${Math.round(seconds)} s`,
    columns('target', ['files', ...KINDS, 'seconds']),
    ...TARGETS.flatMap((target) => {
      const of = [...outcomes].filter(([one]) => one.target === target).map(([, o]) => o);
      return of.length === 0 ? [] : [row(target.name, of, secondsOf.get(target)!)];
    }),
    row('all', [...outcomes.values()], seconds),
    'accepted as harmless, since the file',
    ...[...reasons].sort((a, b) => b[1] - a[1]).map(([why, n]) => `  ${String(n).padStart(5)}  ${why}`),
    ...(real
      ? [
          `through bin/realm: ${real.ran} of them, ${real.failures.length} with another result`,
          ...real.failures,
        ]
      : []),
    ...failures.map(([one, o]) => told(one, o)),
  ];
  return { lines, failed: failures.length > 0 || (real?.failures.length ?? 0) > 0 };
}

if (process.argv[1] && existsSync(process.argv[1]) && fileURLToPath(import.meta.url) === process.argv[1]) {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      only: { type: 'string' },
      case: { type: 'string' },
    },
  });
  const { lines, failed } = await hostile({
    short: values.short,
    only: values.only,
    number: values.case === undefined ? undefined : Number(values.case),
  });
  process.stdout.write(`${lines.join('\n')}\n`);
  process.exitCode = failed ? 1 : 0;
}

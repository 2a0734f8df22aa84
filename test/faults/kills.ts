import { existsSync, type FSWatcher, readFileSync, rmSync, watch } from 'node:fs';
import { join } from 'node:path';
import { type Random, random } from '../../src/random.ts';
import { indexName } from '../../src/retrieval/ensure-index.ts';
import { runFolder } from '../../src/run/folder.ts';
import { RETRIEVER_STAGES } from '../../src/run/stages.ts';
import { PART, RESUME } from '../../src/system/files.ts';
import { complaints, differences, jsonLines, outcome } from './leavings.ts';
import { NET, nobodyLeft, type Started, signal, sleep, until } from './processes.ts';
import { copyRun, type Reference, reference } from './reference.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { newFolder, STAGES, type StageCommand, settings, startStage } from './world.ts';

// Whole runs in which each command is killed again and again, at random moments and while something is being written: the
// trainer, its refresher or both. It is resumed until it ends by itself. In sync mode the losses and weights must then be
// exactly those of an undisturbed run; in async mode, where the moment of a new index varies, they must be finite.

/** After so many kills a command of a run may finish. */
const MOST: Record<StageCommand, number> = {
  prepare: 3,
  'ict-warmup': 8,
  'build-index': 3,
  pretrain: 10,
  'finetune-qa': 8,
};
const MOST_SHORT = 2;

type Target = 'trainer' | 'refresher' | 'both';

export async function kills({ short, seed }: FaultOptions): Promise<Report> {
  const t = tally('kills');
  const wanted = short ? 14 : 200;
  const source = random(seed);
  const most = short
    ? (Object.fromEntries(STAGES.map((command) => [command, MOST_SHORT])) as typeof MOST)
    : MOST;
  const undisturbed = await reference();
  let campaigns = 0;
  let longest = 0;
  const lane = async () => {
    while (t.counted('kills') < wanted) {
      const mode = campaigns++ % 2 === 0 ? 'sync' : 'async';
      t.say(`${t.counted('kills')} of ${wanted} kills`);
      longest = Math.max(
        longest,
        await campaign({ t, mode, source: source.fork(), undisturbed, wanted, most }),
      );
    }
  };
  await Promise.all([lane(), lane()]);
  if (!short) longest = Math.max(longest, await longBuild(t, source.fork()));
  t.note('longest that a refresher outlived its trainer, s', longest.toFixed(2));
  return t.report();
}

interface Campaign {
  t: Tally;
  mode: 'sync' | 'async' | 'long';
  source: Random;
  undisturbed: Reference;
  /** Total kills. */
  wanted: number;
  most: Record<StageCommand, number>;
}

/** One run with all its commands; returns the longest time that a refresher outlived its trainer, in seconds. */
async function campaign(all: Campaign): Promise<number> {
  const { t, mode, undisturbed } = all;
  const dir = newFolder(`kills-${mode}`);
  const set = settings({ more: [`refresh={every: 5, mode: ${mode}}`] });
  let longest = 0;
  for (const command of STAGES) {
    const done = await killStage({ ...all, dir, set, command });
    longest = Math.max(longest, done.longest);
    if (!done.whole) return longest; // what failed stays in this folder alone
    if (mode === 'sync' || command !== 'pretrain') {
      if (mode === 'async' && command === 'finetune-qa') continue; // tunes other weights
      const different = differences(undisturbed.outcome[command], outcome(dir, command));
      t.check(different.length === 0, `${command} (${mode}): differs from an undisturbed run: ${different}`);
      t.count('commands with the result of an undisturbed run');
    }
  }
  for (const stage of RETRIEVER_STAGES) {
    const lines = jsonLines(runFolder(dir).metrics(stage));
    const finite = lines.length > 0 && lines.every(({ loss }) => Number.isFinite(loss));
    t.check(finite, `${stage} (${mode}): a loss is missing or not finite`);
  }
  t.count(`runs killed and finished, ${mode}`);
  rmSync(dir, { recursive: true, force: true });
  return longest;
}

/** Enough blocks for two complete segments of vectors and a part of one. */
const LONG = 9000;

/** Builds an index that takes long enough to leave complete segments when it is killed; the next build resumes from them. */
async function longBuild(t: Tally, source: Random): Promise<number> {
  const set = settings({ documents: LONG, more: ['ict.steps=2', 'index.tokensPerBatch=8192'] });
  const dir = newFolder('kills-long');
  const seconds = {} as Reference['seconds'];
  for (const command of ['prepare', 'ict-warmup'] as const) {
    const started = startStage(command, dir, set);
    const { code } = await started.ended;
    if (!t.check(code === 0, `${command} of ${LONG} documents: ${tail(started)}`)) return 0;
  }
  const whole = newFolder('kills-long-whole');
  copyRun(dir, whole);
  const started = startStage('build-index', whole, set);
  seconds['build-index'] = (await started.ended).seconds;
  const expected = outcome(whole, 'build-index');
  const { index } = runFolder(dir);
  const part = join(index, `${indexName(0)}${PART}`, RESUME);
  let gone = 0;
  const done = await killStage({
    t,
    mode: 'long',
    source,
    undisturbed: { seconds } as Reference,
    wanted: Number.POSITIVE_INFINITY,
    most: { 'build-index': 8 } as typeof MOST,
    dir,
    set,
    command: 'build-index',
    moment: async (started) => {
      // Not before there is a segment to lose and this process builds.
      const builds = () => existsSync(part) && lockedBy(join(index, 'lock')) === started.pid;
      await until(() => builds() || !started.running(), NET, 1);
      await Promise.race([sleep(200 * seconds['build-index'] * source.float() ** 2), started.ended]);
    },
    afterKill: () => {
      if (existsSync(part)) gone++;
    },
  });
  t.count('kills of a long build that left complete segments', gone);
  if (done.whole) {
    const different = differences(expected, outcome(dir, 'build-index'));
    t.check(different.length === 0, `a long build, killed: differs from an undisturbed run: ${different}`);
    t.count('long builds killed and finished');
  }
  return done.longest;
}

function lockedBy(path: string): number | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).pid;
  } catch {
    return undefined; // nobody, or just now
  }
}

interface Stage extends Campaign {
  dir: string;
  set: string[];
  command: StageCommand;
  /** When to kill, if not only by chance. */
  moment?(started: Started): Promise<void>;
  afterKill?(): void;
}

/** One command, killed until it ends by itself. */
async function killStage(stage: Stage): Promise<{ whole: boolean; longest: number }> {
  const { t, source, dir, set, command, undisturbed } = stage;
  let longest = 0;
  let killed = 0;
  for (;;) {
    const started = startStage(command, dir, set);
    // A kill of the refresher leaves the trainer alive, so one process may see several.
    for (
      let child = 0;
      started.running() && killed < stage.most[command] && t.counted('kills') < stage.wanted;
    ) {
      const target: Target =
        command === 'pretrain' ? source.pick(['trainer', 'refresher', 'both']) : 'trainer';
      await (stage.moment?.(started) ?? moment(started, dir, undisturbed.seconds[command], source));
      const hit = strike(started, child < 2 ? target : 'trainer');
      if (!hit) continue; // ended just now, or no refresher yet: another moment
      if (hit !== 'refresher') await started.ended;
      else child++;
      t.count('kills');
      t.count(`kills in ${command}${command === 'pretrain' ? `, ${stage.mode}, of ${hit}` : ''}`);
      killed++;
      if (hit !== 'refresher') break;
    }
    const end = await started.ended;
    const left = await nobodyLeft(started);
    longest = Math.max(longest, left.seconds);
    if (left.complaint) t.fail(`${command}: ${left.complaint}`);
    const found = complaints(dir);
    t.check(found.length === 0, `${command}: ${found.join('; ')}`);
    if (end.code === 0) return { whole: true, longest };
    if (end.signal === 'SIGKILL') {
      stage.afterKill?.();
      continue;
    }
    t.fail(`${command} (${stage.mode}), after ${killed} kills: exit code ${end.code}: ${tail(started)}`);
    return { whole: false, longest };
  }
}

/** Waits for a random moment of the command; every second time also for the next write in its folder. */
async function moment(started: Started, dir: string, seconds: number, source: Random): Promise<void> {
  const delay = (0.05 + 0.7 * source.float() * seconds) * 1000;
  const aimed = source.float() < 0.5;
  const after = 8 * source.float();
  await Promise.race([sleep(delay), started.ended]);
  if (!aimed || !started.running() || !existsSync(dir)) return;
  await Promise.race([nextWrite(dir), started.ended, sleep(1500)]);
  await sleep(after);
}

function nextWrite(dir: string): Promise<void> {
  return new Promise((resolve) => {
    let watcher: FSWatcher | undefined;
    const done = () => {
      watcher?.close();
      resolve();
    };
    try {
      watcher = watch(dir, { recursive: true }, (_, name) => {
        if (name?.endsWith('.tmp') || name?.endsWith('.part')) done();
      });
      watcher.on('error', done); // a folder that went while it was looked at
      setTimeout(done, 1500);
    } catch {
      done();
    }
  });
}

/** Kills and returns which process; undefined if there was none (any more). */
function strike(started: Started, target: Target): Target | undefined {
  const children = target === 'trainer' ? [] : started.refreshers();
  if (target !== 'trainer' && children.length === 0) return undefined;
  const hits = children.map((pid) => signal(pid, 'SIGKILL'));
  if (target === 'refresher') return hits.some(Boolean) && started.running() ? target : undefined;
  return started.running() && signal(started.pid, 'SIGKILL') ? target : undefined;
}

function tail(started: Started): string {
  return started.stderr().trim().split('\n').slice(-4).join(' | ');
}

import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type Random, random } from '../../src/random.ts';
import { runFolder } from '../../src/run/folder.ts';
import type { RetrieverStage } from '../../src/run/stages.ts';
import { complaints, differences, jsonLines, leftAside, outcome } from './leavings.ts';
import { NET, type Started, signal, until } from './processes.ts';
import { COMMANDS, type Command, copyRun, type Reference, reference } from './reference.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { badRefusal, lastLines } from './sentence.ts';
import { newFolder, startStage } from './world.ts';

// A disk of a few MiB in memory (tmpfs) with room for only so many more KiB or files, at points spread over what each
// command needs. Wherever the room runs out, the command ends with exit code 2 and a sentence, and nothing is damaged. Once
// there is room, the same command ends with the result of an undisturbed run. Then a disk that cannot be written at all.

const MIB = 64;
const FULL = /the disk is full/;
const UNWRITABLE = /cannot be written \(EROFS\)/;

/** A command on the disk; pretraining also with an asynchronous refresher. */
interface Case {
  name: string;
  command: Command;
  more: string[];
  /** Whether its result is the same to the bit. */
  exact: boolean;
}
const CASES: Case[] = [
  ...COMMANDS.map((command) => ({ name: command as string, command, more: [], exact: true })),
  { name: 'pretrain, async', command: 'pretrain', more: ['--set', 'refresh.mode=async'], exact: false },
];

/** The cases of the short form, one for each way of writing: a corpus; checkpoints, and an index in a child. */
const SHORT: Command[] = ['prepare', 'pretrain'];

export async function disk(options: FaultOptions): Promise<Report> {
  const t = tally('disk');
  const disks = [newFolder('disk'), newFolder('disk')];
  try {
    for (const disk of disks) {
      mkdirSync(disk);
      const { status, stderr } = mount('-t', 'tmpfs', '-o', `size=${MIB}m`, 'realm-faults', disk);
      if (status !== 0) return inNamespace(options) ?? refused(t, stderr);
    }
    const undisturbed = await reference();
    const source = random(options.seed);
    const cases = CASES.filter(({ command, exact }) => !options.short || (exact && SHORT.includes(command)));
    await Promise.all(
      disks.map(async (disk) => {
        for (let c = cases.shift(); c; c = cases.shift()) {
          await fillUp(t, c, disk, undisturbed, source.fork(), options.short ? 1 : 12);
          if (c.exact) await readOnly(t, c, disk, undisturbed);
        }
      }),
    );
    const under = options.short ? ['ict-warmup'] : ['ict-warmup', 'pretrain', 'finetune-qa'];
    await turnsReadOnly(t, disks[0], undisturbed, under);
  } finally {
    for (const disk of disks) spawnSync('umount', ['-l', disk], { stdio: 'ignore' });
  }
  return t.report();
}

function mount(...args: string[]) {
  return spawnSync('mount', args, { encoding: 'utf8' });
}

function refused(t: Tally, why: string): Report {
  t.note(`left out: no tmpfs can be mounted here (${why.trim()})`, '');
  return t.report();
}

/** Without root, a new namespace may still allow mounting. */
function inNamespace({ short, seed }: FaultOptions): Report | undefined {
  if (process.env.REALM_FAULTS_NAMESPACE || spawnSync('unshare', ['-rm', 'true']).status !== 0)
    return undefined;
  const script = join(import.meta.dirname, 'faults.ts');
  const flags = ['--only', 'disk', '--seed', String(seed), ...(short ? ['--short'] : [])];
  const { status, stdout } = spawnSync(
    'unshare',
    ['-rm', process.execPath, '--import', 'tsx', script, ...flags],
    {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, REALM_FAULTS_NAMESPACE: '1' },
    },
  );
  return { lines: stdout.split('\n').filter((line) => line.startsWith('  ')), failed: status !== 0 };
}

/** Runs one case with less room than it needs, at evenly spaced amounts. */
async function fillUp(
  t: Tally,
  c: Case,
  disk: string,
  undisturbed: Reference,
  source: Random,
  points: number,
): Promise<void> {
  const needs = await measure(t, c, disk, undisturbed);
  if (!needs) return;
  t.note(`${c.name} needs at its peak, KiB and files`, `${needs.kib}+${needs.files}`);
  const spread = (most: number, n: number) =>
    Array.from({ length: n }, (_, i) => Math.floor(((i + source.float()) / n) * most));
  for (const kib of [0, ...spread(needs.kib, points)]) {
    await trial(t, c, disk, undisturbed, `${kib} KiB`, () => fill(disk, kib));
  }
  for (const files of spread(needs.files, Math.ceil(points / 3))) {
    await trial(t, c, disk, undisturbed, `${files} files`, () => limitFiles(disk, files));
  }
}

function start(c: Case, dir: string, { set }: Reference): Started {
  return startStage(c.command, dir, set, c.more);
}

/** Puts the run on the disk in its state before the command, with all the room there is. */
function fresh(c: Case, disk: string, { before }: Reference): string {
  const dir = join(disk, 'run');
  makeRoom(disk);
  rmSync(dir, { recursive: true, force: true });
  copyRun(before[c.command], dir);
  return dir;
}

/** The most room and files that the command needs at any moment, beyond those at its start. */
async function measure(t: Tally, c: Case, disk: string, undisturbed: Reference) {
  const dir = fresh(c, disk, undisturbed);
  const used = () => {
    const { bsize, blocks, bfree, files, ffree } = statfsSync(disk);
    return { kib: ((blocks - bfree) * bsize) / 1024, files: files - ffree };
  };
  const first = used();
  const peak = { kib: 0, files: 0 };
  const started = start(c, dir, undisturbed);
  await until(
    () => {
      const now = used();
      peak.kib = Math.max(peak.kib, now.kib - first.kib);
      peak.files = Math.max(peak.files, now.files - first.files);
      return !started.running();
    },
    NET,
    1,
  );
  const { code } = await started.ended;
  if (!t.check(code === 0, `${c.name}: fails with enough room: ${lastLines(started.stderr())}`))
    return undefined;
  return peak;
}

async function trial(
  t: Tally,
  c: Case,
  disk: string,
  undisturbed: Reference,
  room: string,
  limit: () => void,
): Promise<void> {
  const dir = fresh(c, disk, undisturbed);
  const what = `${c.name} with room for ${room}`;
  limit();
  const started = start(c, dir, undisturbed);
  const end = await started.ended;
  if (end.code === 0) {
    t.count(FULL.test(started.stderr()) ? 'continued with the old index' : 'had just enough room');
    makeRoom(disk);
    return;
  }
  t.count(`full disks in ${c.name}`);
  t.count('full disks');
  for (const bad of badRefusal(end, started, FULL)) t.fail(`${what}: ${bad}`);
  await endsAsUndisturbed(t, c, disk, dir, undisturbed, what);
}

/** Checks after a failure that nothing is damaged, and that the same command succeeds once there is room. */
async function endsAsUndisturbed(
  t: Tally,
  c: Case,
  disk: string,
  dir: string,
  undisturbed: Reference,
  what: string,
): Promise<void> {
  t.check(leftAside(dir).length === 0, `${what}: leaves ${leftAside(dir)}`);
  const found = complaints(dir);
  t.check(found.length === 0, `${what}: ${found.join('; ')}`);
  makeRoom(disk);
  const again = start(c, dir, undisturbed);
  const { code } = await again.ended;
  if (!t.check(code === 0, `${what}, then with room: exit code ${code}: ${lastLines(again.stderr())}`))
    return;
  t.count('commands that resumed once there was room');
  if (!c.exact) return;
  const different = differences(undisturbed.outcome[c.command], outcome(dir, c.command));
  t.check(different.length === 0, `${what}: differs from an undisturbed run: ${different}`);
}

/** Leaves room for so many KiB. */
function fill(disk: string, kib: number): void {
  const { bsize, bavail } = statfsSync(disk);
  const fd = openSync(join(disk, 'filler'), 'w');
  const zeros = new Uint8Array(1 << 20);
  for (let left = bavail * bsize - kib * 1024; left > 0; ) {
    left -= writeSync(fd, zeros, 0, Math.min(left, zeros.length));
  }
  closeSync(fd);
}

/** Leaves room for so many files and folders; 0 would lift the limit. */
function limitFiles(disk: string, more: number): void {
  const { files, ffree } = statfsSync(disk);
  mount('-o', `remount,nr_inodes=${files - ffree + more}`, disk);
}

function makeRoom(disk: string): void {
  mount('-o', `remount,rw,size=${MIB}m,nr_inodes=100000`, disk);
  rmSync(join(disk, 'filler'), { force: true });
}

/** A run folder that cannot be written from the start. */
async function readOnly(t: Tally, c: Case, disk: string, undisturbed: Reference): Promise<void> {
  const dir = fresh(c, disk, undisturbed);
  if (mount('-o', 'remount,ro', disk).status !== 0) {
    t.note('left out: a tmpfs cannot be made read-only here', '');
    return;
  }
  const started = start(c, dir, undisturbed);
  const end = await started.ended;
  for (const bad of badRefusal(end, started, UNWRITABLE)) t.fail(`${c.name}, read-only: ${bad}`);
  t.count('commands refused on a disk that cannot be written');
  makeRoom(disk);
}

/** A disk that becomes read-only under a trainer, as after a hardware error. */
async function turnsReadOnly(t: Tally, disk: string, undisturbed: Reference, names: string[]): Promise<void> {
  for (const c of CASES.filter(({ name }) => names.includes(name))) {
    const dir = fresh(c, disk, undisturbed);
    const started = start(c, dir, undisturbed);
    const metrics = runFolder(dir).metrics(c.command as RetrieverStage);
    await until(() => jsonLines(metrics).length > 3 || !started.running());
    // Refused while a file is open for writing, which is never for long.
    const turned = await until(() => !started.running() || mount('-o', 'remount,ro', disk).status === 0, 10);
    if (!started.running() && !isReadOnly(disk)) {
      t.count('trainers that ended before the disk became read-only');
      continue;
    }
    if (!turned) {
      t.note(`left out: the disk under ${c.name} always has an open file`, '');
      signal(started.pid, 'SIGKILL');
    }
    const end = await started.ended;
    if (turned) {
      for (const bad of badRefusal(end, started, UNWRITABLE)) t.fail(`${c.name}, turned read-only: ${bad}`);
      t.count('disks that became read-only under a trainer');
    }
    makeRoom(disk);
    rmSync(dir, { recursive: true, force: true });
  }
}

function isReadOnly(disk: string): boolean {
  const line = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find((mounted) => mounted.includes(` ${disk} `));
  return / tmpfs ro[, ]/.test(line ?? '');
}

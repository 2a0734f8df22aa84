import { spawnSync } from 'node:child_process';
import { renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { random } from '../../src/random.ts';
import { runFolder } from '../../src/run/folder.ts';
import type { RetrieverStage } from '../../src/run/stages.ts';
import { complaints, differences, jsonLines, leftAside, outcome } from './leavings.ts';
import { nobodyLeft, sleep, until, virtualBytes } from './processes.ts';
import { type Command, copyRun, type Reference, reference } from './reference.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { badRefusal, lastLines } from './sentence.ts';
import { newFolder, type StageCommand, startStage } from './world.ts';

// Other accidents: the corpus or the whole run folder is moved away, a second trainer is started on the same folder, memory
// runs out in the refresher or in the trainer itself.

interface Place {
  t: Tally;
  undisturbed: Reference;
}

export async function surroundings({ short, seed }: FaultOptions): Promise<Report> {
  const t = tally('surroundings');
  const place = { t, undisturbed: await reference() };
  const source = random(seed);
  const all = [
    () => corpusGone(place, 'async'),
    () => corpusGone(place, 'sync'),
    () => twoTrainers(place),
    () => folderGone(place, short ? ['ict-warmup'] : ['ict-warmup', 'pretrain', 'finetune-qa']),
    () => documentsGone(place),
    ...Array.from({ length: short ? 1 : 5 }, () => {
      const delay = source.float();
      return () => refresherWithoutMemory(place, delay);
    }),
    ...Array.from({ length: short ? 1 : 5 }, () => {
      const delay = source.float();
      return () => trainerWithoutMemory(place, delay);
    }),
  ];
  const lane = async () => {
    for (let next = all.shift(); next; next = all.shift()) await next();
  };
  await Promise.all([lane(), lane()]);
  return t.report();
}

/** A command that runs in a copy of the run and has logged a step. */
async function atWork({ undisturbed }: Place, command: RetrieverStage, more: readonly string[] = []) {
  const dir = newFolder(`surroundings-${command}`);
  copyRun(undisturbed.before[command], dir);
  const started = startStage(command, dir, undisturbed.set, more);
  const metrics = runFolder(dir).metrics(command);
  await until(() => jsonLines(metrics).length > 0 || !started.running());
  return { dir, started };
}

const ASYNC = ['--set', 'refresh.mode=async'];
/** Long enough for a refresher to start, and to look for the corpus. */
const LONG = [...ASYNC, '--set', 'pretrain.steps=600'];

/** The trainer has the corpus open; the refresher opens it again for each index. */
async function corpusGone(place: Place, mode: 'sync' | 'async'): Promise<void> {
  const { t, undisturbed } = place;
  const what = `corpus moved away, ${mode}`;
  const { dir, started } = await atWork(place, 'pretrain', mode === 'async' ? LONG : []);
  const { corpus } = runFolder(dir);
  renameSync(corpus, `${corpus}-elsewhere`);
  const end = await started.ended;
  if (mode === 'async') {
    t.check(end.code === 0, `${what}: exit code ${end.code}: ${lastLines(started.stderr())}`);
    t.check(!/\n\s+at /.test(started.stderr()), `${what}: a stack: ${lastLines(started.stderr())}`);
    const said = /corpus/.test(started.stderr());
    t.check(said, `${what}: does not report that the refresher does not find it`);
  } else for (const bad of badRefusal(end, started, /corpus/)) t.fail(`${what}: ${bad}`);
  const without = startStage('pretrain', dir, undisturbed.set);
  for (const bad of badRefusal(await without.ended, without, /no prepared corpus/))
    t.fail(`${what}, started without: ${bad}`);
  renameSync(`${corpus}-elsewhere`, corpus);
  await resumes(place, 'pretrain', dir, what, mode === 'sync');
  t.count('corpora moved away');
}

/** The whole folder, with corpus and checkpoints. */
async function folderGone(place: Place, commands: RetrieverStage[]): Promise<void> {
  const { t } = place;
  for (const command of commands) {
    const { dir, started } = await atWork(place, command);
    renameSync(dir, `${dir}-elsewhere`);
    const end = await started.ended;
    for (const bad of badRefusal(end, started, /no such|does not exist|cannot be written/))
      t.fail(`run folder moved away under ${command}: ${bad}`);
    rmSync(dir, { recursive: true, force: true });
    renameSync(`${dir}-elsewhere`, dir);
    await resumes(place, command, dir, `run folder moved away under ${command}`);
    t.count('run folders moved away');
  }
}

async function documentsGone({ t, undisturbed }: Place): Promise<void> {
  const dir = newFolder('surroundings-documents');
  copyRun(undisturbed.before['ict-warmup'], dir);
  const gone = ['--set', `data.documents=${join(dir, 'nowhere.jsonl')}`];
  const started = startStage('prepare', dir, undisturbed.set, gone);
  for (const bad of badRefusal(await started.ended, started, /no such file/))
    t.fail(`documents not there: ${bad}`);
  await resumes({ t, undisturbed }, 'prepare', dir, 'documents not there');
  t.count('documents not there');
}

/** Every command that writes refuses while another one runs. */
async function twoTrainers(place: Place): Promise<void> {
  const { t, undisturbed } = place;
  const { dir, started } = await atWork(place, 'pretrain');
  for (const command of ['pretrain', 'ict-warmup', 'build-index', 'prepare'] as StageCommand[]) {
    if (!started.running()) break;
    const second = startStage(command, dir, undisturbed.set);
    const end = await second.ended;
    if (!started.running()) break; // it may have ended before the second one looked
    for (const bad of badRefusal(end, second, /"realm pretrain" is already running in this run folder/))
      t.fail(`${command} during training: ${bad}`);
    t.count('commands refused during training');
  }
  const { code } = await started.ended;
  t.check(code === 0, `a trainer during which others were started: ${lastLines(started.stderr())}`);
  const different = differences(undisturbed.outcome.pretrain, outcome(dir, 'pretrain'));
  t.check(different.length === 0, `a trainer during which others were started: different ${different}`);
}

/** It fails or dies, and the trainer continues. */
async function refresherWithoutMemory(place: Place, delay: number): Promise<void> {
  const { t } = place;
  const what = 'a refresher without memory';
  const { dir, started } = await atWork(place, 'pretrain', ASYNC);
  await until(() => started.refreshers().length > 0 || !started.running());
  await sleep(1000 * delay);
  for (const pid of started.refreshers()) if (takeNoMore(pid)) t.count('refreshers without memory');
  const end = await started.ended;
  t.check(end.code === 0, `${what}: exit code ${end.code}: ${lastLines(started.stderr())}`);
  const finite = jsonLines(runFolder(dir).metrics('pretrain')).every(({ loss }) => Number.isFinite(loss));
  t.check(finite, `${what}: a loss is not finite`);
  const { complaint } = await nobodyLeft(started);
  if (complaint) t.fail(`${what}: ${complaint}`);
  rmSync(dir, { recursive: true, force: true });
}

/** The trainer dies in any way, and the same command resumes. */
async function trainerWithoutMemory(place: Place, delay: number): Promise<void> {
  const { t } = place;
  const what = 'a trainer without memory';
  const { dir, started } = await atWork(place, 'pretrain');
  await sleep(1000 * delay);
  if (!takeNoMore(started.pid)) t.note('left out: no prlimit here', '');
  const end = await started.ended;
  t.count(end.code === 0 ? 'trainers that had enough memory' : 'trainers that died without memory');
  const { complaint } = await nobodyLeft(started);
  if (complaint) t.fail(`${what}: ${complaint}`);
  await resumes(place, 'pretrain', dir, what);
}

/** From now on the process gets no more memory from the system. */
function takeNoMore(pid: number): boolean {
  const bytes = Math.round(virtualBytes(pid) / 2);
  return spawnSync('prlimit', ['--pid', String(pid), `--as=${bytes}`]).status === 0;
}

/** Runs the same command again with everything in place: it must finish, with the result of an undisturbed run where that is possible. */
async function resumes(
  { t, undisturbed }: Place,
  command: Command,
  dir: string,
  what: string,
  exact = true,
): Promise<void> {
  const found = complaints(dir);
  t.check(found.length === 0, `${what}: ${found.join('; ')}`);
  const again = startStage(command, dir, undisturbed.set);
  const { code } = await again.ended;
  if (!t.check(code === 0, `${what}, then repaired: exit code ${code}: ${lastLines(again.stderr())}`)) return;
  t.count('commands that resumed after the repair');
  t.check(leftAside(dir).length === 0, `${what}: leaves ${leftAside(dir)}`);
  if (exact) {
    const different = differences(undisturbed.outcome[command], outcome(dir, command));
    t.check(different.length === 0, `${what}: differs from an undisturbed run: ${different}`);
  }
  rmSync(dir, { recursive: true, force: true });
}

import { rmSync } from 'node:fs';
import { random } from '../../src/random.ts';
import { runFolder } from '../../src/run/folder.ts';
import { RETRIEVER_STAGES, type RetrieverStage } from '../../src/run/stages.ts';
import { complaints, differences, jsonLines, leftAside, outcome } from './leavings.ts';
import { nobodyLeft, signal, sleep, until } from './processes.ts';
import { copyRun, type Reference, reference } from './reference.ts';
import { type FaultOptions, type Report, type Tally, tally } from './report.ts';
import { newFolder, startStage } from './world.ts';

// SIGINT comes from Ctrl-C and reaches trainer and refresher, SIGTERM from another process and reaches the trainer. Once:
// the step is finished, everything saved, the exit code 130, and the same command resumes and ends with the result of an
// undisturbed run. Twice: the process ends at once, as after a kill.

const STOPPING = /stopping after this step/;
/** A stop may take a step, a checkpoint and in sync mode an index, even on a very busy machine. */
const STOP = 300;

export async function signals({ short, seed }: FaultOptions): Promise<Report> {
  const t = tally('signals');
  const source = random(seed);
  const undisturbed = await reference();
  const rounds = short ? 2 : 10;
  for (const times of [1, 2] as const) {
    for (let i = 0; i < rounds; i += 2) {
      // Two at a time, one with each signal.
      await Promise.all(
        (['SIGINT', 'SIGTERM'] as const).map((name, lane) => {
          const command = source.pick(RETRIEVER_STAGES);
          const trial = { command, name, times, delay: 0.1 + source.float(), round: i + lane };
          return once(t, undisturbed, trial);
        }),
      );
    }
  }
  return t.report();
}

interface Trial {
  command: RetrieverStage;
  name: 'SIGINT' | 'SIGTERM';
  times: 1 | 2;
  /** Seconds from the first line of metrics to the signal. */
  delay: number;
  round: number;
}

async function once(t: Tally, undisturbed: Reference, trial: Trial): Promise<void> {
  const { command, name, times, delay, round } = trial;
  const dir = newFolder(`signals-${round}`);
  copyRun(undisturbed.before[command], dir);
  const what = `${command}, ${name} ${times === 1 ? 'once' : 'twice'}`;
  const metrics = () => jsonLines(runFolder(dir).metrics(command)).length;
  const started = startStage(command, dir, undisturbed.set);
  const send = (name: 'SIGINT' | 'SIGTERM') =>
    name === 'SIGINT' ? started.signalGroup(name) : signal(started.pid, name);
  await until(() => metrics() > 0 || !started.running());
  await Promise.race([sleep(delay * 1000), started.ended]);
  send(name);
  if (times === 2) {
    // At once, within the same step, or after it has printed that it stops. The signals differ, because two equal ones can
    // arrive as one.
    if (round < 6) send(name === 'SIGINT' ? 'SIGTERM' : 'SIGINT');
    else {
      await until(() => STOPPING.test(started.stderr()) || !started.running(), STOP, 1);
      send(name);
    }
  }
  const inTime = await until(() => !started.running(), STOP);
  if (!t.check(inTime, `${what}: still runs`)) started.signalGroup('SIGKILL');
  const end = await started.ended;
  if (end.code === 0) {
    t.count('signals that arrived after the last step');
  } else if (times === 1 || /stopped and saved/.test(started.stdout())) {
    t.check(end.code === 130, `${what}: exit code ${end.code}, signal ${end.signal}: ${started.stderr()}`);
    t.check(/stopped and saved/.test(started.stdout()), `${what}: does not say that it saved`);
    t.check(leftAside(dir).length === 0, `${what}: leaves ${leftAside(dir)}`);
    t.count(times === 1 ? `stopped by one ${name}` : 'stopped and saved before the second signal arrived');
  } else {
    const left = end.code === 130 || end.code === 143;
    t.check(left, `${what}: exit code ${end.code}, signal ${end.signal}: ${started.stderr()}`);
    t.count('ended at once by the second signal');
  }
  const { complaint } = await nobodyLeft(started);
  if (complaint) t.fail(`${what}: ${complaint}`);
  const found = complaints(dir);
  t.check(found.length === 0, `${what}: ${found.join('; ')}`);

  const again = startStage(command, dir, undisturbed.set);
  const { code } = await again.ended;
  if (t.check(code === 0, `${what}: does not resume (exit code ${code}): ${again.stderr()}`)) {
    const different = differences(undisturbed.outcome[command], outcome(dir, command));
    t.check(different.length === 0, `${what}: differs from an undisturbed run: ${different}`);
    t.count('commands resumed to the result of an undisturbed run');
  }
  rmSync(dir, { recursive: true, force: true });
}

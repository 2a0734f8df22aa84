import { execFileSync, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { EngineName } from '../src/engine.ts';
import { UserError } from '../src/system/errors.ts';
import type { Batches, Size } from './batches.ts';
import type { Step } from './ours.ts';

/** A build of realm in a process of its own (build-child.ts): this checkout, or one of another commit. */
export interface Build {
  /** Its commit, with `-dirty` if its files are not those of the commit. */
  commit: string;
  /** The engine that it computes on. */
  engine: string;
  /** Makes a model and its steps for these batches. */
  prepare(size: Size, batches: Batches): Promise<void>;
  /** Takes a step, and returns its seconds. */
  step(step: Step): Promise<number>;
  /** Peak bytes of weights, optimizer and some steps; only in a process that has done nothing before. */
  memory(step: Step, size: Size, batches: Batches): Promise<number>;
  end(): void;
}

export type Request =
  | { kind: 'start'; engine: EngineName; threads: number }
  | { kind: 'prepare'; size: Size; batches: Batches }
  | { kind: 'step'; step: Step }
  | { kind: 'memory'; step: Step; size: Size; batches: Batches };

export interface Answer {
  engine?: string;
  seconds?: number;
  bytes?: number;
  /** A sentence, if it cannot be done. */
  error?: string;
}

/** @param folder a checkout of realm with its packages, and its engine if it is to compute on `tensorflow` */
export async function startBuild(folder: string, engine: EngineName, threads: number): Promise<Build> {
  if (!existsSync(join(folder, 'node_modules', 'tsx')))
    throw new UserError(
      `${folder}: is no checkout of realm with its packages; run npm ci in one and name it`,
    );
  const child = fork(join(import.meta.dirname, 'build-child.ts'), [], {
    cwd: folder,
    execArgv: ['--import', 'tsx'],
    serialization: 'advanced', // word pieces stay Int32Array
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  let answered = (_: Answer) => {};
  child.on('message', (answer: Answer) => answered(answer));
  child.on('exit', () => answered({ error: 'its process ended' }));
  const ask = async (request: Request): Promise<Answer> => {
    const answer = await new Promise<Answer>((resolve) => {
      answered = resolve;
      child.send(request, (error) => error && resolve({ error: 'its process ended' }));
    });
    if (answer.error === undefined) return answer;
    child.kill();
    throw new UserError(`${folder}: ${answer.error}; name a checkout of another commit`);
  };
  const started = await ask({ kind: 'start', engine, threads });
  return {
    commit: commitOf(folder),
    engine: started.engine!,
    prepare: async (size, batches) => void (await ask({ kind: 'prepare', size, batches })),
    step: async (step) => (await ask({ kind: 'step', step })).seconds!,
    memory: async (step, size, batches) => (await ask({ kind: 'memory', step, size, batches })).bytes!,
    end: () => child.disconnect(),
  };
}

/** The short hash of a checkout's commit, or the name of a folder that is not one of Git's. */
function commitOf(folder: string): string {
  if (!existsSync(join(folder, '.git'))) return basename(resolve(folder));
  const describe = ['-C', folder, 'describe', '--always', '--dirty', '--exclude', '*'];
  return execFileSync('git', describe, { encoding: 'utf8' }).trim();
}

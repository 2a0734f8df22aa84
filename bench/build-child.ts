// A build of realm in a process of its own: the other side of build-process.ts. It runs in the folder of that build, which may be an
// older commit, so this is all it takes from there: `startEngine` of src/engine.ts, and `ours` of bench/ours.ts.
import { existsSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Answer, Request } from './build-process.ts';
import type { Ours, Step } from './ours.ts';
import { processMemory } from './process-memory.ts';

/** Steps of which the highest memory counts. */
const STEPS_FOR_MEMORY = 3;

let steps: Partial<Ours['steps']> = {};
process.on('message', async (request: Request) => {
  let answer: Answer;
  try {
    answer = await answerTo(request);
  } catch (error) {
    answer = { error: (error as Error).message.split('\n')[0] };
  }
  process.send!(answer);
});
process.on('disconnect', () => process.exit());

async function answerTo(request: Request): Promise<Answer> {
  switch (request.kind) {
    case 'start': {
      const startEngine = await take('src/engine.ts', 'startEngine');
      const { description, hint } = await startEngine(request.engine, { threads: request.threads });
      return { engine: hint === undefined ? description : `${description} (${hint})` };
    }
    case 'prepare':
      steps = (await model(request)).steps;
      return {};
    case 'step': {
      const step = stepOf(steps, request.step);
      const startTime = performance.now();
      await step();
      return { seconds: (performance.now() - startTime) / 1000 };
    }
    case 'memory': {
      collectGarbage();
      const before = processMemory('self', 'VmRSS')!;
      const step = stepOf((await model(request)).steps, request.step);
      collectGarbage(); // what making random weights has left is not part of a step
      writeFileSync('/proc/self/clear_refs', '5'); // resets the peak
      for (let i = 0; i < STEPS_FOR_MEMORY; i++) await step();
      return { bytes: processMemory('self', 'VmHWM')! - before };
    }
  }
}

async function model({ size, batches }: Request & { kind: 'prepare' | 'memory' }): Promise<Ours> {
  const ours = await take('bench/ours.ts', 'ours');
  return ours(size, batches);
}

function stepOf(all: Partial<Ours['steps']>, name: Step): () => Promise<unknown> {
  const step = all[name];
  if (!step) throw new Error(`bench/ours.ts there has no step ${name}`);
  return step;
}

/** A function of the build. */
// biome-ignore lint/suspicious/noExplicitAny: its type is another commit's
async function take(file: string, name: string): Promise<(...args: any[]) => any> {
  const found = existsSync(file) ? (await import(pathToFileURL(resolve(file)).href))[name] : undefined;
  if (typeof found !== 'function') throw new Error(`${file} there has no function ${name}`);
  return found;
}

function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
}

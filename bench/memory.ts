// Measures the peak memory of weights, optimizer and step in a separate process, for bench.ts: `memory.ts SIZE STEP
// THREADS ENGINE` prints bytes.
import { writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { startEngine } from '../src/engine.ts';
import { makeBatches, SIZES } from './batches.ts';
import { ours, type Step } from './ours.ts';
import { processMemory } from './process-memory.ts';

const [name, step, threads, engine] = process.argv.slice(2);
const size = SIZES.find((s) => s.name === name)!;
const batches = makeBatches(size, 1);
await startEngine(engine as 'auto', { threads: Number(threads) });
const before = processMemory('self', 'VmRSS')!;
const our = ours(size, batches);
// Garbage from making random weights is not part of a step.
setFlagsFromString('--expose-gc');
runInNewContext('gc')();
writeFileSync('/proc/self/clear_refs', '5'); // resets the peak
for (let i = 0; i < 3; i++) await our.steps[step as Step]();
console.log(processMemory('self', 'VmHWM')! - before);

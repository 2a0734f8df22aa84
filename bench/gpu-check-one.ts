// Steps of one size on one engine in a separate process, for gpu-check.ts: `gpu-check-one.ts ENGINE SIZE STEPS` prints `Measured`.
import * as tf from '@tensorflow/tfjs';
import { type EngineName, startEngine } from '../src/engine.ts';
import { makeBatches, SIZES } from './batches.ts';
import { type Computed, ours, STEPS, type Step } from './ours.ts';
import { processMemory } from './process-memory.ts';

export interface Measured {
  /** Which engine it is, and on what it computes. */
  description: string;
  steps: Record<Step, { computed: Computed[]; milliseconds: number[] }>;
  /** Highest bytes of the process; undefined where the system does not tell. */
  process?: number;
  /** Bytes of all tensors between two steps, and of all buffers on the GPU where the engine tells. */
  tensors: number;
  buffers?: number;
}

/** Large enough that wrong gradients change the losses; with 1e-3 Adam turns rounding errors into whole steps (test/engine/webgpu.test.ts). */
const RATE = 3e-4;

const [engine, name, count] = process.argv.slice(2);
const size = SIZES.find((one) => one.name === name)!;
const { description } = await startEngine(engine as EngineName);
const batches = makeBatches(size, 1);
const measured: Measured = { description, steps: {} as Measured['steps'], tensors: 0 };
for (const step of STEPS) {
  const { steps, dispose } = ours(size, batches, RATE); // each kind starts from the same weights
  const computed: Computed[] = [];
  const milliseconds: number[] = [];
  for (let i = 0; i < Number(count); i++) {
    const before = performance.now();
    computed.push(await steps[step]());
    milliseconds.push(performance.now() - before);
  }
  measured.steps[step] = { computed, milliseconds };
  const { numBytes, numBytesAllocatedInGPU } = tf.memory() as tf.MemoryInfo &
    Record<string, number | undefined>;
  measured.tensors = Math.max(measured.tensors, numBytes);
  dispose();
  if (numBytesAllocatedInGPU !== undefined)
    measured.buffers = Math.max(measured.buffers ?? 0, numBytesAllocatedInGPU);
}
measured.process = processMemory('self', 'VmHWM');
// Dawn may keep the process alive, and its threads may crash at exit: what was measured is out before.
process.stdout.write(`${JSON.stringify(measured)}\n`, () => process.exit());

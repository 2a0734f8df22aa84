// scripts/gpu-check.sh: a few steps of each stage on the GPU's engine and on another one, from the same weights and batches.
// Prints losses, times and memory. Exit code 0 only if all losses agree within the tolerance, and the norms of the first gradients,
// which the same weights gave; later norms, of other weights by rounding, are only printed.
import { execFile, spawnSync } from 'node:child_process';
import { arch, availableParallelism, cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { findInstalled } from '../src/engine/installed.mjs';
import { SIZES } from './batches.ts';
import type { Measured } from './gpu-check-one.ts';
import { middle } from './middle.ts';
import { type Computed, STEPS } from './ours.ts';

const { values: options } = parseArgs({
  options: {
    /** By default the native engine where it was built for CUDA, else WebGPU. */
    engine: { type: 'string', default: findInstalled()?.variant === 'cuda' ? 'tensorflow' : 'webgpu' },
    /** What is compared with: by default the native engine on the processor, or WebAssembly where that is missing. */
    reference: { type: 'string', default: findInstalled() ? 'tensorflow' : 'wasm' },
    sizes: { type: 'string', default: SIZES.map(({ name }) => name).join() },
    steps: { type: 'string', default: '5' },
    /** Largest difference of two losses, and of the norms of the first gradients: of numbers below 1 absolute, of others relative. */
    tolerance: { type: 'string', default: '1e-3' },
    /** All computing is stopped after this time. */
    minutes: { type: 'string', default: '10' },
  },
});
const tolerance = Number(options.tolerance);
const deadline = performance.now() + 60_000 * Number(options.minutes);

const card = smi('name,driver_version,memory.total');
console.log(
  `${process.platform} ${arch()}, ${availableParallelism()} cores (${cpus()[0]?.model.trim()}), ${mib(totalmem())}, Node ${process.version}`,
);
console.log(card === undefined ? 'nvidia-smi: cannot be run' : `nvidia-smi: ${card}`);

const sizes = options.sizes.split(',').map((name) => {
  const size = SIZES.find((one) => one.name === name);
  if (size) return size;
  throw new Error(`--sizes ${name}: no such size; there are ${SIZES.map((one) => one.name).join(', ')}`);
});
let worst = 0;
for (const size of sizes) {
  const { name } = size;
  const before = smi('memory.used');
  const gpu = await measure(options.engine, name, {});
  const after = smi('memory.used');
  // An engine built for CUDA computes on the processor if it sees no GPU.
  const reference = await measure(options.reference, name, { CUDA_VISIBLE_DEVICES: '' });
  console.log(
    `\n${name}: ${size.layers} layers of ${size.hidden}, ${size.batch} questions or sentences a step`,
  );
  console.log(`  a: ${gpu.description}`);
  console.log(`  b: ${reference.description}`);
  console.log(
    '  step      ms a (first)     ms b (first)  b/a   a: loss (norm of the gradients) of each step; then b',
  );
  for (const step of STEPS) {
    const [a, b] = [gpu.steps[step], reference.steps[step]];
    const [x, y] = [a, b].map(({ milliseconds: [, ...later] }) => middle(later));
    const apart = Math.max(
      ...a.computed.map(({ value }, i) => difference(value, b.computed[i].value)),
      difference(a.computed[0].norm ?? 0, b.computed[0].norm ?? 0),
    );
    worst = Math.max(worst, apart);
    console.log(
      `  ${step.padEnd(9)} ${times(a.milliseconds).padEnd(16)} ${times(b.milliseconds).padEnd(13)} ${(y / x).toFixed(2).padStart(7)}`,
      ` ${a.computed.map(shown).join(', ')}`,
    );
    console.log(
      `  ${' '.repeat(50)} ${b.computed.map(shown).join(', ')}; largest difference ${apart.toExponential(1)}`,
    );
  }
  const buffers = gpu.buffers === undefined ? '' : `; buffers on the GPU ${mib(gpu.buffers)}`;
  const used = before === undefined ? '' : `; in use on the card before ${before}, after ${after}`;
  console.log(
    `  memory: process a ${mib(gpu.process)}, b ${mib(reference.process)}; tensors ${mib(gpu.tensors)}${buffers}${used}`,
  );
  if (/software driver/.test(gpu.description)) console.log('  a is a SOFTWARE DRIVER: no GPU was measured');
}
const agrees = worst <= tolerance;
console.log(
  `\n${agrees ? 'agreed' : 'DIFFERENT'}: the largest difference is ${worst.toExponential(1)}, the tolerance ${tolerance.toExponential(1)}`,
);
process.exitCode = agrees ? 0 : 1;

/** The steps of a size on an engine, in a process of its own. */
async function measure(engine: string, size: string, env: Record<string, string>): Promise<Measured> {
  const program = [
    '--import',
    'tsx',
    join(import.meta.dirname, 'gpu-check-one.ts'),
    engine,
    size,
    options.steps,
  ];
  const left = Math.ceil(deadline - performance.now());
  if (left <= 0)
    throw new Error(
      `${options.minutes} minutes are over before ${size} on ${engine}; pass fewer --sizes or --steps`,
    );
  const { stdout } = await promisify(execFile)(process.execPath, program, {
    env: { ...process.env, ...env },
    timeout: left,
  });
  return JSON.parse(stdout);
}

/** NaN, which no tolerance allows, if one is not finite. */
function difference(x: number, y: number): number {
  return Math.abs(x - y) / Math.max(1, Math.abs(y));
}

function times([first, ...later]: number[]): string {
  return `${middle(later).toFixed(1)} (${first.toFixed(0)})`;
}

function shown({ value, norm }: Computed): string {
  return `${value.toFixed(4)}${norm === undefined ? '' : ` (${norm.toFixed(3)})`}`;
}

function mib(bytes: number | undefined): string {
  return bytes === undefined ? 'unknown' : `${Math.round(bytes / 2 ** 20).toLocaleString('en')} MiB`;
}

/** What NVIDIA's tool says about the cards; undefined without it. */
function smi(what: string): string | undefined {
  const { stdout, status } = spawnSync('nvidia-smi', [`--query-gpu=${what}`, '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  return status === 0 ? stdout.trim().replaceAll('\n', '; ') : undefined;
}

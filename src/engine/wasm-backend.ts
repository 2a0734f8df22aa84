import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { UserError } from '../system/errors.ts';
import { withSharedMemory } from './wasm-binary.ts';

/** Loads tfjs-backend-wasm with memory that worker threads can share; `activate` makes it the current backend. */
export async function openWasm(activate: () => Promise<void>): Promise<void> {
  const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm'); // registers backend and kernels
  if (!(await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT'))) {
    throw new UserError('engine wasm: this processor has no SIMD instructions; choose --engine cpu');
  }
  const home = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json'));
  const module = withSharedMemory(readFileSync(join(home, 'dist', 'tfjs-backend-wasm-simd.wasm')));
  setWasmPaths(join(home, 'dist', '/'), true); // true: read with the platform's `fetch`, which this replaces meanwhile
  const { platform } = tf.env();
  const { fetch } = platform;
  platform.fetch = async () => ({ ok: true, arrayBuffer: async () => module.buffer }) as Response;
  try {
    await withoutListeners(activate);
  } finally {
    platform.fetch = fetch;
  }
  refuseBeyondMemory();
}

/** The exports of the backend's own module that the kernels share with it. */
export interface Heap {
  memory: { buffer: SharedArrayBuffer };
  malloc(bytes: number): number;
  free(address: number): void;
}

/** The backend does not look whether its malloc found memory: it would write to address 0. */
function refuseBeyondMemory(): void {
  const { wasm } = tf.backend() as unknown as { wasm: { _malloc(bytes: number): number; asm: Heap } };
  const malloc = mallocWithin(wasm.asm);
  wasm._malloc = (bytes) => malloc(bytes) || outOfMemory();
}

/** malloc, which returns 0 if there is no memory. Near 4 GB the backend's own sometimes returns a block that ends beyond the memory. */
export function mallocWithin({ malloc, memory }: Heap): (bytes: number) => number {
  return (bytes) => {
    const address = malloc(bytes);
    return (address >>> 0) + bytes <= memory.buffer.byteLength ? address : 0;
  };
}

/** Throws. */
export function outOfMemory(): never {
  throw new UserError(
    'engine wasm: the tensors do not fit into 4 GB, all that WebAssembly can have; ' +
      'use a smaller microBatch, model.recompute: true, or the native engine',
  );
}

/** The backend's loader adds listeners that print its own source, one line of 20 kB, at every uncaught error: removes them. */
async function withoutListeners(load: () => Promise<void>): Promise<void> {
  const events = ['uncaughtException', 'unhandledRejection'] as const;
  const before = events.map((event) => process.rawListeners(event));
  await load();
  for (const [i, event] of events.entries()) {
    for (const added of process.rawListeners(event).filter((listener) => !before[i].includes(listener))) {
      process.removeListener(event, added as () => void);
    }
  }
}

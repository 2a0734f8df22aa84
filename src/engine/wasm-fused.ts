import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs';
import type { Execute } from './fused.ts';
import { compile, instantiate, THREAD } from './wasm/instantiate.mjs';
import { type Heap, mallocWithin, outOfMemory } from './wasm-backend.ts';
import { libraryNeeds } from './wasm-binary.ts';

// The kernels of src/engine/native, compiled to WebAssembly by scripts/wasm-kernels.mjs. They work in the memory of
// tfjs-backend-wasm, so no tensor is copied.

/** The parts of tfjs-backend-wasm's backend that the kernels need. */
interface Backend {
  wasm: { asm: Heap };
  dataIdMap: { get(dataId: object): { memoryOffset: number } };
  makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo;
}

/** C = op(A) op(B) + beta C of contiguous matrices at these addresses, each transposed or not: [m, k] × [k, n]. */
export type Multiply = (
  transposed: { a: boolean; b: boolean },
  shape: { m: number; n: number; k: number },
  at: { a: number; b: number; c: number },
  beta: 0 | 1,
) => void;

/** The layout of host.cc, in words of 32 bits: a call's attributes and number of inputs, then each input. */
const MAX_ATTRIBUTES = 8;
const HEADER = MAX_ATTRIBUTES + 1;
const TENSOR = 6; // address, number of axes, sizes of up to four

/**
 * Loads the kernels into the memory of the active WebAssembly backend, which must be shared, and starts `threads` - 1
 * workers. They join as soon as they are up; until then the main thread computes alone.
 * Execution throws an `Error` if inputs do not fit each other.
 */
export function startWasmKernels(threads: number): { execute: Execute; multiply: Multiply } {
  const backend = tf.backend() as unknown as Backend;
  const { memory, free } = backend.wasm.asm;
  const malloc = mallocWithin(backend.wasm.asm);
  const block = (bytes: number): number => {
    const address = (malloc(bytes) || outOfMemory()) >>> 0;
    new Uint8Array(memory.buffer, address, bytes).fill(0);
    return address;
  };
  const text = (address: number): string => {
    const bytes = new Uint8Array(memory.buffer, address >>> 0);
    return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
  };

  /** By name, in the order of their numbers. */
  const operations = new Map<string, { number: number; attributes: string[] }>();
  let attributes: string[] = [];
  let outputs: tf.Tensor[] = [];
  const host = {
    malloc,
    free,
    noMemory: outOfMemory,
    fail(message: number) {
      throw new Error(text(message));
    },
    operation(name: number) {
      attributes = [];
      operations.set(text(name), { number: operations.size, attributes });
    },
    attribute(spec: number) {
      attributes.push(text(spec).split(':')[0]);
    },
    output(rank: number, sizes: number) {
      const info = backend.makeOutput([...new Int32Array(memory.buffer, sizes >>> 0, rank)], 'float32');
      outputs.push(tf.engine().makeTensorFromTensorInfo(info));
      return backend.dataIdMap.get(info.dataId).memoryOffset;
    },
  };

  const binary = readFileSync(new URL('./wasm/kernels.wasm', import.meta.url));
  const needs = libraryNeeds(binary);
  const kernels = { module: compile(binary), memory, data: block(needs.memory), table: needs.table };
  const { exports, stack } = instantiate(kernels, block(THREAD), host);
  exports.__wasm_apply_data_relocs();
  exports.__wasm_call_ctors();
  exports.start(threads);
  for (let i = 1; i < threads; i++) startWorker({ kernels, thread: block(THREAD) });

  const top = stack.value;
  /** Runs code of the module; what it throws leaves no stack behind. */
  const guarded = (work: () => void) => {
    try {
      work();
    } catch (error) {
      exports.recover();
      stack.value = top;
      throw error;
    }
  };
  let call = 0; // address of the record of a call
  let words = 0; // its size
  const execute: Execute = (name, integers, numbers, inputs) => {
    const { number, attributes } = operations.get(name)!;
    const needed = HEADER + TENSOR * inputs.length;
    if (needed > words) {
      free(call);
      words = 2 * needed;
      call = block(4 * words);
    }
    const addresses = inputs.map((t) => backend.dataIdMap.get(t.dataId).memoryOffset); // moves a tensor of another backend here
    const integer = new Int32Array(memory.buffer, call, needed);
    const float = new Float32Array(memory.buffer, call, needed);
    attributes.forEach((key, i) => {
      if (key in integers) integer[i] = integers[key];
      else float[i] = numbers[key];
    });
    integer[MAX_ATTRIBUTES] = inputs.length;
    inputs.forEach(({ shape }, i) => {
      integer.set([addresses[i], shape.length, ...shape], HEADER + TENSOR * i);
    });
    outputs = [];
    guarded(() => exports.run(number, call));
    return outputs;
  };
  const multiply: Multiply = ({ a, b }, { m, n, k }, at, beta) =>
    guarded(() => exports.multiply(Number(a), Number(b), m, n, k, at.a, at.b, beta, at.c));
  return { execute, multiply };
}

function startWorker(workerData: object): void {
  const file = new URL('./wasm/thread.mjs', import.meta.url);
  const worker = new Worker(file, { workerData, execArgv: [], env: {} }); // without tsx
  worker.unref(); // it does not keep the process alive
  worker.on('error', () => {}); // one that cannot start is not missed
}

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { type Execute, kernelsAreRegistered } from './engine/fused.ts';
import {
  computesRight,
  findInstalled,
  type Installed,
  installFolders,
  lastFailure,
  processor,
  readInstalled,
  sourcesDigest,
} from './engine/installed.mjs';
import { sumAddress } from './engine/ranks.ts';
import { hearSignalsWhileComputing } from './engine/signals.ts';
import { openWasm } from './engine/wasm-backend.ts';
import { startWasmKernels } from './engine/wasm-fused.ts';
import { registerWasmKernels } from './engine/wasm-kernels.ts';
import { type Adapter, hasGpu, openBackend } from './engine/webgpu-device.ts';
import { registerWebgpuKernels } from './engine/webgpu-kernels.ts';
import { UserError } from './system/errors.ts';
import { obey } from './system/stop.ts';

/** The only file that names TensorFlow.js backends: everything else computes on the one that `startEngine` chose. */
export type EngineName = 'tensorflow' | 'webgpu' | 'wasm' | 'cpu';

export interface Engine {
  name: EngineName;
  /** One line: which engine it is. */
  description: string;
  /** One line: how to get a faster engine, if there is one. */
  hint?: string;
}

const INSTALL = 'realm engine install';
const REBUILD = `realm engine remove && ${INSTALL}`;

/**
 * Starts the engine that all tensor code of this process runs on, once, before the first tensor.
 * `auto` uses native TensorFlow if it loads, else WebGPU if there is a GPU, else WebAssembly, else plain JavaScript.
 * `threads` bounds the threads of the native and of the WebAssembly engine (default: all cores).
 * Throws a `UserError` with the remedy if the engine requested by name is not available. It also does so for `auto` if
 * the native engine was built for a GPU but finds none: a run planned for the GPU would take days without it.
 */
export async function startEngine(
  choice: 'auto' | EngineName,
  options: { threads?: number } = {},
): Promise<Engine> {
  tf.enableProdMode(); // otherwise tfjs prints a greeting at every start
  if (choice !== 'auto') return start(choice, options);
  let hint: string | undefined;
  for (const name of ['tensorflow', 'webgpu', 'wasm'] as const) {
    try {
      if (name === 'webgpu' && !hasGpu()) continue;
      const engine = await start(name, options);
      return { ...engine, ...(name === 'wasm' && { hint }) };
    } catch (error) {
      if ((error as Error).cause === NO_GPU) throw error;
      hint ??= (error as Error).message;
    }
  }
  return { ...(await start('cpu', options)), hint };
}

let started: Engine | undefined;

/**
 * What the results of the engine that was started depend on, apart from the processor: with another identity they differ
 * in the last digits.
 */
export function engineIdentity(): string {
  if (!started) throw new Error('no engine has been started');
  if (started.name === 'wasm') return 'WebAssembly'; // its description names the number of cores
  if (started.name !== 'tensorflow') return started.description;
  return `${started.description}, ${kernelsStarted ? `kernels ${sourcesDigest().slice(0, 12)}` : 'no kernels'}`;
}

/** Any failure to start becomes a `UserError`: it depends on this machine, and another engine may work. */
async function start(name: EngineName, options: { threads?: number }): Promise<Engine> {
  try {
    started = await starters[name](options);
    return started;
  } catch (error) {
    if (error instanceof UserError) throw error;
    const [what] = String((error as Error)?.message ?? error).split('\n');
    const remedy = name === 'tensorflow' ? `run: ${REBUILD}` : 'choose another --engine';
    throw new UserError(`engine ${name}: does not start (${what}); ${remedy}`, { cause: error });
  }
}

let checksSignals = false;

/** From now on signals are handled between two kernels: the event loop may get no turn during a long step. */
export function obeySignals(): void {
  hearSignalsWhileComputing();
  if (checksSignals) return;
  checksSignals = true;
  const engine = tf.engine();
  const runKernel = engine.runKernel.bind(engine);
  engine.runKernel = (...kernel) => {
    obey();
    return runKernel(...kernel);
  };
}

const starters: Record<EngineName, (options: { threads?: number }) => Promise<Engine>> = {
  tensorflow: startTensorflow,
  webgpu: startWebgpu,
  wasm: startWasm,
  cpu: startCpu,
};

async function startTensorflow({ threads }: { threads?: number }): Promise<Engine> {
  const native = findNative();
  if (!tf.findBackend('tensorflow')) {
    process.env.TF_CPP_MIN_LOG_LEVEL ??= gpuHidden() ? '3' : '2'; // errors only, and none about a hidden GPU
    // Disable oneDNN: results would differ in the last digits between CPUs, and it prints to stderr regardless of the log level.
    process.env.TF_ENABLE_ONEDNN_OPTS ??= '0';
    // And do not use its products for matMul either: until version 3.12 a signal that comes during one destroys the heap
    // (github.com/uxlfoundation/oneDNN, issue 4845), and a child that ends or a terminal that changes its size sends one.
    process.env.TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL ??= '0';
    process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true'; // else the first process reserves all GPU memory, and the refresher is a second process
    if (threads !== undefined) {
      process.env.TF_NUM_INTRAOP_THREADS = String(threads);
      process.env.TF_NUM_INTEROP_THREADS = String(threads);
    }
    const load = createRequire(join(native.package, 'package.json'));
    const binding = load(native.binding);
    const { NodeJSKernelBackend } = load('./dist/nodejs_kernel_backend.js');
    load('./dist/register_all_kernels.js');
    const packageName = native.variant === 'cpu' ? '@tensorflow/tfjs-node' : '@tensorflow/tfjs-node-gpu';
    tf.registerBackend('tensorflow', () => new NodeJSKernelBackend(binding, packageName));
    try {
      await activate('tensorflow');
      if (!computesRight(tf)) throw new Error('computes wrong results');
    } catch (error) {
      tf.removeBackend('tensorflow');
      throw error;
    }
  }
  await activate('tensorflow');
  const onGpu = (tf.backend() as unknown as { isUsingGpuDevice: boolean }).isUsingGpuDevice;
  const description = `native TensorFlow ${native.tensorflow} on the ${onGpu ? 'GPU' : 'CPU'}`;
  if (onGpu) return { name: 'tensorflow', description };
  if (native.variant === 'cuda' && !gpuHidden()) throw new UserError(noGpu(), { cause: NO_GPU });
  const missing = startKernels(native, threads);
  return { name: 'tensorflow', description, ...(missing ? { hint: missing } : {}) };
}

/** Marks the one failure of the native engine for which `auto` does not try another engine. */
const NO_GPU = 'no GPU';

/** `CUDA_VISIBLE_DEVICES=''` (or -1) hides every GPU: the user wants the CPU. */
const gpuHidden = () => ['', '-1'].includes(process.env.CUDA_VISIBLE_DEVICES ?? 'all');

/** Why TensorFlow may have found no GPU, according to the driver and nvidia-smi, and what to do. */
function noGpu(): string {
  return (
    `engine tensorflow: built for a GPU, but TensorFlow finds none: ${driverTrouble()}; install a driver for CUDA 12 ` +
    '(525 or newer), or go back with: realm engine install --cpu, ' +
    "or set CUDA_VISIBLE_DEVICES='' to compute on the CPU"
  );
}

function driverTrouble(): string {
  try {
    process.dlopen({ exports: {} }, 'libcuda.so.1');
  } catch (error) {
    const { message } = error as Error; // a library that loads but is not an addon "did not self-register"
    if (!/self-register/.test(message)) return `NVIDIA's driver was not found (${message})`;
  }
  const { stdout, stderr, error } = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8', timeout: 10_000 });
  const output = `${stdout ?? ''}${stderr ?? ''}`.trim().replace(/\s*\n\s*/g, '; ');
  const visible = process.env.CUDA_VISIBLE_DEVICES;
  const smi = error ? 'nvidia-smi cannot be run' : `nvidia-smi says: ${output}`;
  return `the driver shows it no device (${smi}${visible ? `; CUDA_VISIBLE_DEVICES is ${visible}` : ''})`;
}

/** What src/engine/native/module.cc exports. */
interface Addon {
  start(threads: number): void;
  hasBf16(): boolean;
  useSum(address: bigint): void;
}

let kernelsStarted = false;

/** Registers the fused kernels; if that is impossible, returns the reason. */
function startKernels({ kernels }: Installed, threads = availableParallelism()): string | undefined {
  if (kernelsStarted) return undefined;
  const remedy = `a step takes up to twice as long; \`${INSTALL}\` compiles them`;
  if (!kernels) return `realm's own kernels are missing: ${remedy}`;
  if (kernels.processor !== processor())
    return `realm's own kernels were compiled for another processor (${kernels.processor}): ${remedy}`;
  if (kernels.sources !== sourcesDigest()) return `realm's own kernels are from another version: ${remedy}`;
  const load = createRequire(import.meta.url);
  let bf16: boolean;
  try {
    const native = load(kernels.file) as Addon;
    native.start(threads);
    const address = sumAddress();
    if (address !== undefined) native.useSum(address);
    bf16 = native.hasBf16();
  } catch (error) {
    return `realm's own kernels do not load (${(error as Error).message.split('\n')[0]}): ${remedy}`;
  }
  kernelsAreRegistered(executeInTensorflow, bf16);
  kernelsStarted = true;
  return undefined;
}

const executeInTensorflow: Execute = (name, integers, numbers, inputs, outputs) => {
  const backend = tf.backend() as unknown as NodeBackend;
  const { TF_ATTR_INT, TF_ATTR_FLOAT } = backend.binding;
  const attributes = [];
  for (const key in integers) attributes.push({ name: key, type: TF_ATTR_INT, value: integers[key] });
  for (const key in numbers) attributes.push({ name: key, type: TF_ATTR_FLOAT, value: numbers[key] });
  return backend.executeMultipleOutputs(name, attributes, inputs, outputs);
};

/** The parts of tfjs-node's backend and binding that an operation needs. */
interface NodeBackend {
  executeMultipleOutputs(
    name: string,
    attributes: object[],
    inputs: tf.Tensor[],
    outputs: number,
  ): tf.Tensor[];
  binding: { TF_ATTR_INT: number; TF_ATTR_FLOAT: number };
}

function findNative(): Installed {
  const found = findInstalled();
  if (found) return found;
  const failure = lastFailure();
  const trouble =
    failure !== undefined
      ? `is not built: ${failure}; \`${INSTALL}\` tries again`
      : installFolders().some(readInstalled)
        ? `was installed by another version of realm; \`${INSTALL}\` updates it`
        : installFolders().some((folder) => existsSync(join(folder, 'engine.json')))
          ? `is incomplete, some of its files are missing; \`${INSTALL}\` builds it again`
          : `is not built yet; \`${INSTALL}\` builds it (several times faster than WebAssembly)`;
  throw new UserError(`engine tensorflow: ${trouble}`);
}

let webgpuAdapter: Adapter | undefined;

async function startWebgpu(): Promise<Engine> {
  if (!webgpuAdapter) {
    const { backend, adapter } = await openBackend();
    tf.registerBackend('webgpu', () => backend);
    registerWebgpuKernels(); // replaces some of the backend's own
    webgpuAdapter = adapter;
  }
  await activate('webgpu');
  const { name, software } = webgpuAdapter;
  return { name: 'webgpu', description: `WebGPU on ${name}${software ? ', a software driver' : ''}` };
}

let wasmThreads: number | undefined;

async function startWasm({ threads = availableParallelism() }: { threads?: number }): Promise<Engine> {
  if (wasmThreads) await activate('wasm');
  else {
    await openWasm(() => activate('wasm'));
    const { execute, multiply } = startWasmKernels(threads);
    registerWasmKernels(multiply); // replaces some of the backend's own, so these must be registered first
    kernelsAreRegistered(execute, false);
    wasmThreads = threads;
  }
  const cores = wasmThreads === 1 ? 'one CPU core' : `${wasmThreads} CPU cores`;
  return { name: 'wasm', description: `WebAssembly on ${cores}` };
}

async function startCpu(): Promise<Engine> {
  await activate('cpu');
  return { name: 'cpu', description: 'plain JavaScript on one CPU core (very slow)' };
}

async function activate(name: EngineName): Promise<void> {
  const started = await tf.setBackend(name);
  await tf.ready();
  if (!started)
    throw new UserError(`engine ${name}: does not start on this machine; choose another --engine`);
}

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs';
import { kernelsAreRegistered } from './engine/fused.ts';
import { registerWasmKernels } from './engine/wasm-kernels.ts';
import { type Adapter, hasGpu, openBackend } from './engine/webgpu-device.ts';
import { registerWebgpuKernels } from './engine/webgpu-kernels.ts';
import { UserError } from './errors.ts';

/** The only file that names TensorFlow.js backends: everything else computes on the one that `startEngine` chose. */
export type EngineName = 'tensorflow' | 'webgpu' | 'wasm' | 'cpu';

export interface Engine {
  name: EngineName;
  /** One line: which engine it is. */
  description: string;
  /** One line: how to get a faster one, where there is one to get. */
  hint?: string;
}

/** What scripts/engine.mjs left: where the native engine's JavaScript and its binding are. */
interface NativeEngine {
  tensorflow: string;
  variant: string;
  package: string;
  binding: string;
  /** The kernels of src/engine/native, where they could be compiled: of which source, and for which processor. */
  kernels?: { file: string; sources: string; processor: string };
}

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const pointer = join(root, 'node_modules', '.realm-engine', 'engine.json');
const BUILD_NATIVE = 'npm run engine';

/**
 * Starts the engine that all tensor code of this process runs on, once, before the first tensor.
 * `auto` takes native TensorFlow where it loads, else WebGPU where there is a GPU, else WebAssembly, else plain JavaScript.
 * `threads` bounds the native engine's threads (default: all cores); the others compute on one.
 * Throws a `UserError` with the remedy when an engine asked for by name is not there, and for `auto` too when the
 * native engine that was built for a GPU finds none: a run planned for the GPU would go on for days without it.
 */
export async function startEngine(
  choice: 'auto' | EngineName,
  options: { threads?: number } = {},
): Promise<Engine> {
  tf.enableProdMode(); // without it tfjs greets at every start
  if (choice !== 'auto') return starters[choice](options);
  try {
    return await startTensorflow(options);
  } catch (error) {
    if (!(error instanceof UserError) || error.cause === NO_GPU) throw error;
    const hint = error.message;
    try {
      if (hasGpu()) return await startWebgpu();
    } catch (gpuError) {
      if (!(gpuError instanceof UserError)) throw gpuError;
    }
    try {
      return { ...(await startWasm()), hint };
    } catch (wasmError) {
      if (!(wasmError instanceof UserError)) throw wasmError;
      return { ...(await startCpu()), hint };
    }
  }
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
    process.env.TF_CPP_MIN_LOG_LEVEL ??= gpuHidden() ? '3' : '2'; // errors only, and none about a GPU that is hidden
    // One set of kernels on all processors: newer ones would get oneDNN's, of other last digits, and a line on stderr in spite of the level.
    process.env.TF_ENABLE_ONEDNN_OPTS ??= '0';
    process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true'; // else the first process takes the whole card, and the refresher is another
    if (threads !== undefined) {
      process.env.TF_NUM_INTRAOP_THREADS = String(threads);
      process.env.TF_NUM_INTEROP_THREADS = String(threads);
    }
    const load = createRequire(join(native.package, 'package.json'));
    let binding: unknown;
    try {
      binding = load(native.binding);
    } catch (error) {
      throw new UserError(
        `engine tensorflow: ${native.binding} does not load (${(error as Error).message}); ` +
          'run: node scripts/engine.mjs remove && node scripts/engine.mjs install',
      );
    }
    const { NodeJSKernelBackend } = load('./dist/nodejs_kernel_backend.js');
    load('./dist/register_all_kernels.js');
    const packageName = native.variant === 'cpu' ? '@tensorflow/tfjs-node' : '@tensorflow/tfjs-node-gpu';
    tf.registerBackend('tensorflow', () => new NodeJSKernelBackend(binding, packageName));
  }
  await activate('tensorflow');
  const onGpu = (tf.backend() as unknown as { isUsingGpuDevice: boolean }).isUsingGpuDevice;
  const description = `native TensorFlow ${native.tensorflow} on the ${onGpu ? 'GPU' : 'CPU'}`;
  if (onGpu) return { name: 'tensorflow', description };
  if (native.variant === 'cuda' && !gpuHidden()) throw new UserError(noGpu(), { cause: NO_GPU });
  const missing = startKernels(native, threads);
  return { name: 'tensorflow', description, ...(missing ? { hint: missing } : {}) };
}

/** Marks the one failure of the native engine that `auto` does not get round. */
const NO_GPU = 'no GPU';

/** `CUDA_VISIBLE_DEVICES=''` (or -1) hides every GPU: the user wants the processor. */
const gpuHidden = () => ['', '-1'].includes(process.env.CUDA_VISIBLE_DEVICES ?? 'all');

/** Why TensorFlow may have found no GPU, as far as the driver and nvidia-smi tell, and what to do. */
function noGpu(): string {
  return (
    `engine tensorflow: built for a GPU, but TensorFlow finds none: ${driverTrouble()}; install a driver for CUDA 12 ` +
    '(525 or newer), or go back with: node scripts/engine.mjs install --cpu, ' +
    "or set CUDA_VISIBLE_DEVICES='' to compute on the CPU"
  );
}

function driverTrouble(): string {
  try {
    process.dlopen({ exports: {} }, 'libcuda.so.1');
  } catch (error) {
    const { message } = error as Error; // a library that loads but is no addon "did not self-register"
    if (!/self-register/.test(message)) return `NVIDIA's driver is not there (${message})`;
  }
  const { stdout, stderr, error } = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8', timeout: 10_000 });
  const said = `${stdout ?? ''}${stderr ?? ''}`.trim().replace(/\s*\n\s*/g, '; ');
  const visible = process.env.CUDA_VISIBLE_DEVICES;
  const smi = error ? 'nvidia-smi cannot be run' : `nvidia-smi says: ${said}`;
  return `the driver shows it no device (${smi}${visible ? `; CUDA_VISIBLE_DEVICES is ${visible}` : ''})`;
}

let kernelsStarted = false;

/** Registers the fused kernels; returns why not, where they are not there. */
function startKernels({ kernels }: NativeEngine, threads = availableParallelism()): string | undefined {
  if (kernelsStarted) return undefined;
  const remedy = `a step takes up to twice as long; \`${BUILD_NATIVE}\` compiles them`;
  if (!kernels) return `realm's own kernels are not there: ${remedy}`;
  if (kernels.processor !== (cpus()[0]?.model ?? ''))
    return `realm's own kernels were compiled for another processor (${kernels.processor}): ${remedy}`;
  if (kernels.sources !== sourcesDigest()) return `realm's own kernels are of another version: ${remedy}`;
  const load = createRequire(import.meta.url);
  (load(kernels.file) as { start(threads: number): void }).start(threads);
  kernelsAreRegistered();
  kernelsStarted = true;
  return undefined;
}

/** As scripts/engine.mjs computes it. */
function sourcesDigest(): string {
  const folder = join(root, 'src', 'engine', 'native');
  const hash = createHash('sha256');
  for (const name of readdirSync(folder).sort()) hash.update(readFileSync(join(folder, name)));
  return hash.digest('hex');
}

function findNative(): NativeEngine {
  let found: NativeEngine;
  try {
    found = JSON.parse(readFileSync(pointer, 'utf8')) as NativeEngine;
  } catch {
    throw new UserError(
      `engine tensorflow: no native engine yet; \`${BUILD_NATIVE}\` builds it (several times faster than WebAssembly)`,
    );
  }
  const here = dirname(pointer);
  const native = {
    ...found,
    package: resolve(here, found.package),
    binding: resolve(here, found.binding),
    kernels: found.kernels && { ...found.kernels, file: resolve(here, found.kernels.file) },
  };
  if (!existsSync(native.binding)) {
    throw new UserError(`engine tensorflow: ${native.binding} is gone; \`${BUILD_NATIVE}\` builds it again`);
  }
  return native;
}

let webgpuAdapter: Adapter | undefined;

async function startWebgpu(): Promise<Engine> {
  if (!webgpuAdapter) {
    const { backend, adapter } = await openBackend();
    tf.registerBackend('webgpu', () => backend);
    registerWebgpuKernels(); // over the backend's own
    webgpuAdapter = adapter;
  }
  await activate('webgpu');
  const { name, software } = webgpuAdapter;
  return { name: 'webgpu', description: `WebGPU on ${name}${software ? ', a software driver' : ''}` };
}

let wasmStarted = false;

async function startWasm(): Promise<Engine> {
  if (!wasmStarted) {
    const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm'); // registers backend and kernels
    const home = dirname(
      createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json'),
    );
    setWasmPaths(join(home, 'dist', '/'));
  }
  // The backend's loader rethrows every uncaught error after printing itself, one line of 20 kB: keep it out.
  const events = ['uncaughtException', 'unhandledRejection'] as const;
  const before = events.map((event) => process.rawListeners(event));
  await activate('wasm');
  for (const [i, event] of events.entries()) {
    for (const added of process.rawListeners(event).filter((listener) => !before[i].includes(listener))) {
      process.removeListener(event, added as () => void);
    }
  }
  if (!wasmStarted) registerWasmKernels(); // over the backend's own, once these are set up
  wasmStarted = true;
  return { name: 'wasm', description: 'WebAssembly on one CPU core' };
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

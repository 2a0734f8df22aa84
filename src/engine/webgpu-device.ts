import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { UserError } from '../system/errors.ts';
import { bufferPool } from './webgpu-buffers.ts';

/** What WebGPU reports about an adapter: a GPU, or a driver that computes on the CPU, which it calls a fallback. */
export interface Adapter {
  name: string;
  software: boolean;
}

/** Limits that the backend requests from the device, as high as the adapter allows. */
const LIMITS = [
  'maxComputeWorkgroupStorageSize',
  'maxComputeWorkgroupsPerDimension',
  'maxStorageBufferBindingSize',
  'maxBufferSize',
  'maxComputeWorkgroupSizeX',
  'maxComputeInvocationsPerWorkgroup',
] as const;

/** Keeps a reference to Dawn: its promises never settle once it is garbage-collected. */
const alive: GPU[] = [];

/** Loads Dawn, the WebGPU of the package `webgpu`. */
async function loadDawn(): Promise<GPU> {
  let dawn: typeof import('webgpu');
  try {
    dawn = await import('webgpu');
  } catch (error) {
    const [what] = (error as Error).message.split('\n');
    throw new UserError(`engine webgpu: the package webgpu does not load (${what}); run: npm install`);
  }
  Object.assign(globalThis, dawn.globals); // GPUBufferUsage and others, which the backend expects as in a browser
  const gpu = dawn.create([]);
  alive.push(gpu);
  return gpu;
}

const PROBE = `
  import { create } from 'webgpu';
  globalThis.gpu = create([]);
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  process.stdout.write(!adapter ? 'none' : adapter.info.isFallbackAdapter ? 'software' : 'gpu', () => process.exit());
`;

let probed: { adapter: string; complaint?: string } | undefined;

/**
 * The kind of adapter that WebGPU finds, and Dawn's first error message. Runs in a separate process: Dawn may print
 * errors about missing drivers there, and a bad driver may crash, without harm.
 */
function probe(): NonNullable<typeof probed> {
  if (probed) return probed;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', PROBE], {
    cwd: dirname(fileURLToPath(import.meta.url)), // where the package is found
    encoding: 'utf8',
    timeout: 10_000,
  });
  probed = { adapter: stdout, complaint: /^Warning: (.*)/m.exec(stderr)?.[1] };
  return probed;
}

/** True if WebGPU finds a GPU, not only a driver that computes on the CPU. */
export function hasGpu(): boolean {
  return probe().adapter === 'gpu';
}

function describe(info: GPUAdapterInfo): Adapter {
  const { vendor, architecture, device, description, isFallbackAdapter } = info;
  return {
    name: description || [vendor, architecture, device].filter(Boolean).join(' ') || 'unnamed adapter',
    software: isFallbackAdapter,
  };
}

/**
 * The backend on its own device, prepared to run for hours outside a browser: its buffers are pooled within bounds, and
 * the device's errors, which WebGPU does not report by the call that caused them, are thrown at the next read.
 */
export async function openBackend(): Promise<{ backend: WebGPUBackend; adapter: Adapter }> {
  const gpu = await loadDawn();
  const { adapter: kind, complaint } = probe();
  const found = kind === 'gpu' || kind === 'software';
  const adapter = found && (await gpu.requestAdapter({ powerPreference: 'high-performance' }));
  if (!adapter) {
    throw new UserError(
      `engine webgpu: no adapter${complaint ? ` (${complaint})` : ''}; install the Vulkan driver of your GPU, or for computing on the CPU ` +
        "Mesa's (Debian 13: mesa-vulkan-drivers; Debian 12: the same from bookworm-backports)",
    );
  }
  const device = await adapter.requestDevice({
    requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
  });
  const { WebGPUBackend } = await import('@tensorflow/tfjs-backend-webgpu');
  keepLayouts(device);
  const backend = inBrowser(gpu, () => new WebGPUBackend(device, adapter.info));
  (backend as unknown as { bufferManager: unknown }).bufferManager = bufferPool(device);
  throwErrors(device, backend);
  return { backend, adapter: describe(adapter.info) };
}

/** Runs `make` while `navigator.gpu` is set, as the backend's constructor needs it; set for longer, it would mislead other code. */
function inBrowser<T>(gpu: GPU, make: () => T): T {
  const own = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true });
  try {
    return make();
  } finally {
    if (own) Object.defineProperty(globalThis, 'navigator', own);
    else Reflect.deleteProperty(globalThis, 'navigator');
  }
}

/**
 * Caches each pipeline's layout. The backend requests it for every kernel, and each time Dawn would make a new object.
 * Host time for a kernel: 95 → 62 µs, on Dawn's backend that computes nothing.
 */
function keepLayouts(device: GPUDevice): void {
  const create = device.createComputePipeline.bind(device);
  device.createComputePipeline = (descriptor) => {
    const pipeline = create(descriptor);
    const layout = pipeline.getBindGroupLayout(0);
    pipeline.getBindGroupLayout = () => layout;
    return pipeline;
  };
}

function throwErrors(device: GPUDevice, backend: WebGPUBackend): void {
  let failure: Error | undefined;
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault(); // Dawn would print it
    const [what] = event.error.message.split('\n');
    const tooLarge = /memory/i.test(event.error.constructor.name) || /larger than the maximum/.test(what);
    failure ??= tooLarge
      ? new UserError(`engine webgpu: too much at once for this GPU, use smaller batches (${what})`)
      : new Error(`engine webgpu: ${event.error.message}`);
  });
  device.lost.then(({ reason, message }) => {
    if (reason !== 'destroyed') failure ??= new Error(`engine webgpu: the device is lost: ${message}`);
  });
  const read = backend.read.bind(backend);
  backend.read = async (dataId) => {
    const values = await read(dataId).catch((error: unknown) => {
      throw failure ?? error; // a lost device makes the read fail too, with a less useful message
    });
    if (failure) throw failure;
    return values;
  };
  backend.readSync = (dataId) => {
    const { values } = backend.tensorMap.get(dataId);
    if (values) return values as ReturnType<WebGPUBackend['readSync']>;
    throw new Error('a GPU can be read only asynchronously: await data(), not dataSync()');
  };
}

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { fusedDense, hasFused } from '../engine/fused.ts';
import type { Engine, EngineName } from '../engine.ts';
import { startEngine } from '../engine.ts';
import { memoryFree, memoryLimit } from '../system/memory.ts';

/** What this machine offers realm, as `realm doctor` prints it. */
export interface Diagnosis {
  node: string;
  platform: string;
  /** Cores that this process may use, and the model of the first. */
  cpus: { count: number; model: string };
  /** Processor threads that the engine computes on; undefined when no engine starts. */
  threads?: number;
  /** NVIDIA GPUs that nvidia-smi lists: name, and bytes of memory. */
  gpus: Gpu[];
  /** Bytes of main memory (of the container, where it has fewer), and of the part that no process uses. */
  memory: number;
  memoryFree: number;
  /** Free bytes where runs are kept, and the folder that was looked at. */
  disk: { folder: string; free: number };
  /** What `--engine auto` starts; undefined when no engine starts. */
  engine?: Engine;
  engines: EngineState[];
  /** Undefined when the fastest engine for this machine is the one that starts. */
  faster?: FasterEngine;
  /** Billions of floating point operations a second on that engine; undefined when no engine starts, or it fails. */
  gflops?: { matmul: number; batched: number };
  /** Installed versions, null for a package that is not installed. */
  packages: Record<string, string | null>;
}

export interface Gpu {
  name: string;
  memory: number;
}

export interface EngineState {
  name: EngineName;
  available: boolean;
  /** What it is, or why it is not available and how to get it. */
  why: string;
}

/** The next faster engine: what must be installed first, and the command that then builds it. */
export interface FasterEngine {
  engine: string;
  missing: string[];
  command: string;
}

const ENGINES: EngineName[] = ['tensorflow', 'webgpu', 'wasm', 'cpu'];
const PACKAGES = ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-wasm', 'usearch', 'compromise'];

/**
 * Starts each engine in turn and leaves the best one active; works on a machine where none starts.
 * @param folder where runs are kept, or will be
 */
export async function doctor(folder = 'runs'): Promise<Diagnosis> {
  const engines: EngineState[] = [];
  for (const name of ENGINES) engines.push(await tryEngine(name));
  let engine: Engine | undefined;
  let gflops: Diagnosis['gflops'];
  try {
    engine = await startEngine('auto');
    gflops = {
      matmul: (await measureProduct([1024, 1024], [1024, 1024])) / 1e9,
      batched: (await measureProduct([64, 64, 64], [64, 64, 64])) / 1e9,
    };
  } catch (error) {
    const state = engines.find(({ name }) => name === engine?.name);
    if (state)
      Object.assign(state, { available: false, why: `starts but fails: ${(error as Error).message}` });
  }
  const gpus = parseGpus(output('nvidia-smi', GPU_QUERY));
  return {
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpus: { count: availableParallelism(), model: cpus()[0]?.model.trim() ?? 'unknown' },
    threads: engine && (engine.name === 'tensorflow' ? availableParallelism() : 1),
    gpus,
    memory: memoryLimit(),
    memoryFree: memoryFree(),
    disk: diskOf(folder),
    engine,
    engines,
    faster:
      !engine && engines.some(({ available }) => available)
        ? NATIVE_ON_CPU
        : fasterEngine(engine, gpus.length > 0, tools()),
    gflops,
    packages: Object.fromEntries(PACKAGES.map((name) => [name, packageVersion(name)])),
  };
}

async function tryEngine(name: EngineName): Promise<EngineState> {
  try {
    return { name, available: true, why: (await startEngine(name)).description };
  } catch (error) {
    return { name, available: false, why: (error as Error).message.replace(`engine ${name}: `, '') };
  }
}

// ---------------------------------------------------------------------------------------------- what is missing

/** What building the native engine needs (scripts/engine.mjs checks the same before it downloads anything). */
export interface Tools {
  linux: boolean;
  compiler: boolean;
  pip: boolean;
}

function tools(): Tools {
  const pip = (python: string) => output(python, ['-m', 'pip', '--version']) !== undefined;
  return {
    linux: process.platform === 'linux',
    compiler: output(process.env.CXX || 'g++', ['--version']) !== undefined,
    pip: pip('python3') || pip('python'),
  };
}

/** For a machine where `auto` refuses to start: the native engine was built for a GPU and finds none. */
const NATIVE_ON_CPU: FasterEngine = {
  engine: 'native TensorFlow on the CPU',
  missing: [],
  command: 'realm engine install --cpu',
};

/** The next faster engine than the one that starts, on a machine with these tools. */
export function fasterEngine(
  engine: Pick<Engine, 'name' | 'description'> | undefined,
  nvidia: boolean,
  { linux, compiler, pip }: Tools,
): FasterEngine | undefined {
  if (!engine)
    return { engine: 'WebAssembly', missing: ['the packages of package-lock.json'], command: 'npm ci' };
  const missing = [
    ...(compiler ? [] : ['a C++ compiler (Debian, Ubuntu: apt-get install g++)']),
    ...(pip ? [] : ["Python's pip (Debian, Ubuntu: apt-get install python3-pip)"]),
  ];
  if (engine.name !== 'tensorflow') {
    if (!linux) missing.push('Linux: the native engine has no recipe for this system');
    return { engine: 'native TensorFlow', missing, command: 'realm engine install' };
  }
  if (!nvidia || !engine.description.endsWith('on the CPU')) return undefined;
  return {
    engine: 'native TensorFlow on the NVIDIA GPU',
    missing,
    command: 'realm engine install --cuda',
  };
}

const GPU_QUERY = ['--query-gpu=name,memory.total', '--format=csv,noheader,nounits'];

/** GPUs in the output of nvidia-smi, one `NAME, MEBIBYTES` a line; none if it could not be run. */
export function parseGpus(csv: string | undefined): Gpu[] {
  return (csv ?? '').split('\n').flatMap((line) => {
    const [, name, mebibytes] = /^(.+), *(\d+)\s*$/.exec(line) ?? [];
    return name ? [{ name, memory: Number(mebibytes) * 2 ** 20 }] : [];
  });
}

/** The output of a program; undefined when it is not installed, fails, or takes longer than ten seconds. */
function output(program: string, args: string[]): string | undefined {
  const { status, stdout } = spawnSync(program, args, { encoding: 'utf8', timeout: 10_000 });
  return status === 0 ? stdout : undefined;
}

/** Free bytes for files of this user in `folder`, or in the nearest folder above it that exists. */
export function diskOf(folder: string): { folder: string; free: number } {
  let existing = resolve(folder);
  while (!existsSync(existing)) existing = dirname(existing);
  const { bavail, bsize } = statfsSync(existing);
  return { folder: existing, free: bavail * bsize };
}

// ---------------------------------------------------------------------------------------------------- speed

/** Of one measurement, after rounds that warm up. */
const MEASURE_SECONDS = 0.3;

/** Floating point operations a second in products of matrices (or batches of them) of these shapes, with the kernel that a layer uses. */
export async function measureProduct(
  left: number[],
  right: number[],
  round: Round = 'median',
): Promise<number> {
  const operations = 2 * left.reduce((a, b) => a * b, 1) * right.at(-1)!;
  const a = tf.fill(left, 0.5);
  const b = tf.fill(right, 0.5);
  const bias = tf.zeros([right.at(-1)!]);
  const dense = hasFused() && left.length === 2;
  const multiply = () => (dense ? fusedDense(a, b, bias) : tf.matMul(a, b));
  const perSecond = operations * (await roundsPerSecond(multiply, round));
  tf.dispose([a, b, bias]);
  return perSecond;
}

/** Bytes that an element-wise product of 4 MiB tensors reads and writes a second; training steps consist of such kernels. */
export async function measureElementwise(round: Round = 'median'): Promise<number> {
  const a = tf.fill([1 << 20], 0.5);
  const perSecond = 3 * 4 * a.size * (await roundsPerSecond(() => a.mul(a), round));
  a.dispose();
  return perSecond;
}

/** Seconds of the smallest kernel: what every kernel costs before it computes anything. */
export async function measureKernel(round: Round = 'median'): Promise<number> {
  const a = tf.scalar(0.5);
  const chain = () => {
    let sum: tf.Tensor = a;
    for (let i = 0; i < KERNELS_IN_CHAIN; i++) sum = sum.add(a);
    return sum;
  };
  const seconds = 1 / (await roundsPerSecond(chain, round)) / KERNELS_IN_CHAIN;
  a.dispose();
  return seconds;
}

const KERNELS_IN_CHAIN = 200;

/** The round that counts: the median for the machine as busy as it is now, the fastest for an idle machine. */
type Round = 'median' | 'fastest';

/** The median is not changed by a process that takes the cores for a moment. */
async function roundsPerSecond(work: () => tf.Tensor, which: Round): Promise<number> {
  const round = async () => {
    const corner = tf.tidy(() => work().flatten().slice([0], [1]));
    await corner.data(); // waits for the result
    corner.dispose();
  };
  for (let i = 0; i < 3; i++) await round(); // the first rounds allocate memory and compile code
  const seconds: number[] = [];
  const started = performance.now();
  for (let now = started; now - started < 1000 * MEASURE_SECONDS; ) {
    await round();
    const after = performance.now();
    seconds.push((after - now) / 1000);
    now = after;
  }
  return 1 / seconds.sort((a, b) => a - b)[which === 'median' ? seconds.length >> 1 : 0];
}

function packageVersion(name: string): string | null {
  for (const folder of createRequire(import.meta.url).resolve.paths(name) ?? []) {
    const path = join(folder, name, 'package.json');
    if (existsSync(path)) return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
  }
  return null;
}

// ---------------------------------------------------------------------------------------------------- lines

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The diagnosis as lines for a person. */
export function formatDiagnosis(d: Diagnosis): string[] {
  return [
    `Node      ${d.node}, ${d.platform}`,
    `Machine   ${d.cpus.count} cores (${d.cpus.model}), ${gib(d.memory)} of memory, ${gib(d.memoryFree)} free`,
    ...d.gpus.map(({ name, memory }) => `GPU       ${name}, ${gib(memory)}`),
    ...(d.gpus.length === 0 ? ['GPU       none found by nvidia-smi'] : []),
    `Disk      ${gib(d.disk.free)} free in ${d.disk.folder}`,
    `Engine    ${
      d.engine
        ? `${d.engine.description}, ${d.threads} processor thread${d.threads === 1 ? '' : 's'}`
        : 'none starts'
    }`,
    ...d.engines.map(
      ({ name, available, why }) => `  ${name.padEnd(11)}${available ? 'yes' : 'no '}  ${why}`,
    ),
    d.faster
      ? `Faster    ${d.faster.engine}: ${d.faster.missing.length > 0 ? `needs ${d.faster.missing.join(' and ')}, then run` : 'run'} ${d.faster.command}`
      : 'Faster    nothing: this is the fastest engine for this machine',
    ...(d.gflops
      ? [
          `Speed     ${d.gflops.matmul.toFixed(1)} GFLOPS on large matrices, ${d.gflops.batched.toFixed(1)} on batches of small ones`,
        ]
      : []),
    `Packages  ${Object.entries(d.packages)
      .map(([name, version]) => `${name} ${version ?? 'missing'}`)
      .join(', ')}`,
  ];
}

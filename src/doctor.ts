import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type { Engine, EngineName } from './engine.ts';
import { startEngine } from './engine.ts';
import { UserError } from './errors.ts';

/** What this machine offers realm, as `realm doctor` prints it. */
export interface Diagnosis {
  node: string;
  platform: string;
  /** Cores that this process may use, and the model of the first. */
  cpus: { count: number; model: string };
  /** Bytes of main memory. */
  memory: number;
  /** What `--engine auto` takes; undefined when none starts. */
  engine?: Engine;
  engines: EngineState[];
  /** Billions of floating point operations a second on that engine; undefined when none starts. */
  gflops?: { matmul: number; batched: number };
  /** Installed versions, null for a package that is not there. */
  packages: Record<string, string | null>;
}

export interface EngineState {
  name: EngineName;
  available: boolean;
  /** What it is, or why it is not there and what would bring it. */
  why: string;
}

const ENGINES: EngineName[] = ['tensorflow', 'webgpu', 'wasm', 'cpu'];
const PACKAGES = ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-wasm', 'usearch', 'compromise'];

/** Starts each engine in turn and leaves the best one active; works on a machine where none starts. */
export async function doctor(): Promise<Diagnosis> {
  const engines: EngineState[] = [];
  for (const name of ENGINES) engines.push(await tryEngine(name));
  let engine: Engine | undefined;
  try {
    engine = await startEngine('auto');
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
  return {
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpus: { count: availableParallelism(), model: cpus()[0]?.model.trim() ?? 'unknown' },
    memory: totalmem(),
    engine,
    engines,
    gflops: engine && {
      matmul: measure(2 * 1024 ** 3, [1024, 1024]),
      batched: measure(2 * 64 * 64 ** 3, [64, 64, 64]),
    },
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

/** Seconds that one measurement lasts, after a first product that warms up. */
const MEASURE = 0.3;

/** Speed of the product of two such (batches of) square matrices of `operations`, in GFLOPS. */
function measure(operations: number, shape: number[]): number {
  return tf.tidy(() => {
    const a = tf.fill(shape, 0.5);
    const product = () => {
      const c = tf.matMul(a, a);
      c.flatten().slice([0], [1]).dataSync(); // waits for the result
      c.dispose();
    };
    product();
    const started = performance.now();
    let runs = 0;
    let seconds = 0;
    for (; seconds < MEASURE; seconds = (performance.now() - started) / 1000, runs++) product();
    return (operations * runs) / seconds / 1e9;
  });
}

function packageVersion(name: string): string | null {
  for (const folder of createRequire(import.meta.url).resolve.paths(name) ?? []) {
    const path = join(folder, name, 'package.json');
    if (existsSync(path)) return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
  }
  return null;
}

/** The diagnosis as lines for a person. */
export function formatDiagnosis(d: Diagnosis): string[] {
  return [
    `Node      ${d.node}, ${d.platform}`,
    `Machine   ${d.cpus.count} cores (${d.cpus.model}), ${(d.memory / 2 ** 30).toFixed(1)} GiB of memory`,
    `Engine    ${d.engine ? d.engine.description : 'none starts: run npm ci'}`,
    ...(d.engine?.hint ? [`          ${d.engine.hint}`] : []),
    ...d.engines.map(
      ({ name, available, why }) => `  ${name.padEnd(11)}${available ? 'yes' : 'no '}  ${why}`,
    ),
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

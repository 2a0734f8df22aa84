import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { kernelsAreRegistered } from './engine/fused.ts';
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
import { hearSignalsWhileComputing } from './engine/signals.ts';
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
  /** One line: how to get a faster one, where there is one to get. */
  hint?: string;
}

const INSTALL = 'realm engine install';
const REBUILD = `realm engine remove && ${INSTALL}`;

/**
 * Starts the engine that all tensor code of this process runs on, once, before the first tensor.
 * `auto` uses native TensorFlow if it loads, else WebGPU if there is a GPU, else WebAssembly, else plain JavaScript.
 * `threads` bounds the native engine's threads (default: all cores); the others compute on one.
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

/** Any failure to start becomes a `UserError`: it depends on this machine, and another engine may work. */
async function start(name: EngineName, options: { threads?: number }): Promise<Engine> {
  try {
    return await starters[name](options);
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

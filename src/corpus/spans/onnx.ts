import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { errorCode, UserError } from '../../system/errors.ts';

/** A network in ONNX, open for computing on one thread. */
export interface Network {
  /** Names of its inputs. */
  inputs: readonly string[];
  /**
   * The output `logits` and its shape.
   * @param inputs whole numbers by the name of the input
   * @param shape of every input: [batch, length]
   */
  run(
    inputs: Record<string, BigInt64Array>,
    shape: [number, number],
  ): Promise<{ logits: Float32Array; shape: readonly number[] }>;
}

type Runtime = typeof import('onnxruntime-web');

/**
 * The installed runtime: Microsoft's native one if the user has installed it, else the same one compiled to WebAssembly.
 * The latter is the optional dependency, since the package of the native one has 113 MB, downloads CUDA from outside
 * the npm registry during installation, and does not support Macs with Intel processors. BERT-base on one thread of an AMD
 * EPYC: native 330 to 430 tokens a second and 0.8 GB, WebAssembly 85 to 95 and 1.7 GB.
 */
async function loadRuntime(): Promise<{ runtime: Runtime; native: boolean }> {
  const native = 'onnxruntime-node'; // a variable: TypeScript cannot check the types of a package that is not installed
  try {
    return { runtime: (await import(native)) as Runtime, native: true };
  } catch (error) {
    if (errorCode(error) !== 'ERR_MODULE_NOT_FOUND') throw unloadable(native, error);
  }
  try {
    const runtime = await import('onnxruntime-web');
    runtime.env.wasm.numThreads = 1;
    return { runtime, native: false };
  } catch (error) {
    throw unloadable('onnxruntime-web', error);
  }
}

function unloadable(name: string, error: unknown): UserError {
  const [what] = (error as Error).message.split('\n');
  return new UserError(`text.ner: cannot load the package ${name} (${what}); run: npm install`);
}

/** Name and version of the runtime: the results of two runtimes may differ in the last digit. */
export async function runtimeName(): Promise<string> {
  const { runtime, native } = await loadRuntime();
  return `${native ? 'node' : 'web'} ${runtime.env.versions.common}`;
}

/**
 * Opens an ONNX file. Throws the runtime's own error if it cannot.
 * @param data path of the file beside it that has its weights, if it has one
 */
export async function openNetwork(path: string, data?: string): Promise<Network> {
  const { runtime, native } = await loadRuntime();
  // Sequences have any length: memory plans for each length would accumulate.
  const options = {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    enableMemPattern: false,
    logSeverityLevel: 4,
  } as const;
  const session = native
    ? await runtime.InferenceSession.create(path, options)
    : await runtime.InferenceSession.create(readFileSync(path), {
        ...options,
        // The runtime for the web cannot open files by itself.
        ...(data !== undefined && { externalData: [{ path: basename(data), data: readFileSync(data) }] }),
      });
  return {
    inputs: session.inputNames,
    async run(inputs, shape) {
      const tensors = Object.fromEntries(
        Object.entries(inputs).map(([name, values]) => [name, new runtime.Tensor('int64', values, shape)]),
      );
      const { logits } = await session.run(tensors);
      if (logits?.type !== 'float32') throw new Error(`the output logits is ${logits?.type ?? 'missing'}`);
      return { logits: logits.data as Float32Array, shape: logits.dims };
    },
  };
}

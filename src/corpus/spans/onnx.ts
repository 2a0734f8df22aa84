import { errorCode, UserError } from '../../system/errors.ts';

/** A network in ONNX, open for computing on one thread. */
export interface Network {
  /** What it takes, by name. */
  inputs: readonly string[];
  /** Values of the output `logits` and their shape, for whole numbers of the shape `[batch, length]` by the name of each input. */
  run(
    inputs: Record<string, BigInt64Array>,
    shape: [number, number],
  ): Promise<{ logits: Float32Array; shape: readonly number[] }>;
}

type Runtime = typeof import('onnxruntime-web');

/**
 * The runtime at hand and its name: Microsoft's native one where somebody has installed it, else the same one compiled to
 * WebAssembly. That is the optional dependency, since the package of the native one is 113 MB, fetches CUDA from outside
 * the npm registry as it is installed, and lacks Macs with Intel processors. BERT-base on one thread of an AMD EPYC:
 * native 330 to 430 tokens a second and 0.8 GB, WebAssembly 85 to 95 and 1.7 GB.
 */
async function loadRuntime(): Promise<{ runtime: Runtime; native: boolean }> {
  const native = 'onnxruntime-node'; // no literal: the types of a package that is not there cannot be checked
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
  return new UserError(`text.ner: the package ${name} does not load (${what}); run: npm install`);
}

/** Which runtime computes, since two of them may differ in the last digit. */
export async function runtimeName(): Promise<string> {
  const { runtime, native } = await loadRuntime();
  return `${native ? 'node' : 'web'} ${runtime.env.versions.common}`;
}

/** Opens a file of ONNX; throws what the runtime throws where it cannot. */
export async function openNetwork(path: string, bytes: () => Uint8Array): Promise<Network> {
  const { runtime, native } = await loadRuntime();
  // Sequences of any length come: memory planned for each length would pile up.
  const options = {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    enableMemPattern: false,
    logSeverityLevel: 4,
  } as const;
  const session = native
    ? await runtime.InferenceSession.create(path, options)
    : await runtime.InferenceSession.create(bytes(), options);
  return {
    inputs: session.inputNames,
    async run(inputs, shape) {
      const feeds = Object.fromEntries(
        Object.entries(inputs).map(([name, values]) => [name, new runtime.Tensor('int64', values, shape)]),
      );
      const { logits } = await session.run(feeds);
      if (logits?.type !== 'float32') throw new Error(`the output logits is ${logits?.type ?? 'missing'}`);
      return { logits: logits.data as Float32Array, shape: logits.dims };
    },
  };
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diskOf, fasterEngine, parseGpus } from '../../src/preflight/machine.ts';

const TOOLS = { linux: true, compiler: true, pip: true };
const NATIVE = { name: 'tensorflow', description: 'native TensorFlow on the CPU' } as const;
const WASM = { name: 'wasm', description: 'WebAssembly on one CPU core' } as const;

test('the next faster engine is named with what it needs and the command that installs it', () => {
  assert.deepEqual(fasterEngine(WASM, false, TOOLS), {
    engine: 'native TensorFlow',
    missing: [],
    command: 'realm engine install',
  });
  const bare = fasterEngine(WASM, false, { linux: true, compiler: false, pip: false })!;
  assert.match(bare.missing.join(), /g\+\+.*python3-pip/);
  assert.match(fasterEngine(WASM, false, { ...TOOLS, linux: false })!.missing.join(), /Linux/);
  assert.equal(fasterEngine(NATIVE, false, TOOLS), undefined);
  assert.match(fasterEngine(NATIVE, true, TOOLS)!.command, /--cuda/);
  assert.equal(
    fasterEngine({ ...NATIVE, description: 'native TensorFlow on the GPU' }, true, TOOLS),
    undefined,
  );
  assert.equal(fasterEngine(undefined, false, TOOLS)!.command, 'npm ci');
});

test('the GPUs that nvidia-smi prints', () => {
  assert.deepEqual(parseGpus('NVIDIA H100 80GB HBM3, 81559\nTesla T4, 15360\n'), [
    { name: 'NVIDIA H100 80GB HBM3', memory: 81559 * 2 ** 20 },
    { name: 'Tesla T4', memory: 15360 * 2 ** 20 },
  ]);
  assert.deepEqual(parseGpus(undefined), []);
  assert.deepEqual(parseGpus('NVIDIA-SMI has failed\n'), []);
});

test('free disk space is that of the nearest folder that exists', () => {
  const { folder, free } = diskOf('/no/such/folder');
  assert.equal(folder, '/');
  assert.ok(free > 0);
});

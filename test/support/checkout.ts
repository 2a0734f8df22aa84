import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { LAYOUT } from '../../src/engine/installed.mjs';

/** A copy of realm with this checkout's packages and no native engine, in a temporary folder. */
export interface Checkout {
  folder: string;
  /** The folder of that realm. */
  root: string;
  remove(): void;
}

export function checkout(): Checkout {
  const folder = mkdtempSync(join(tmpdir(), 'realm-engine-'));
  const root = join(folder, 'realm');
  for (const name of ['src', 'scripts', 'bin', 'package.json'])
    cpSync(name, join(root, name), { recursive: true });
  const packages = join(root, 'node_modules');
  mkdirSync(packages);
  for (const name of readdirSync('node_modules').filter((n) => !n.startsWith('.')))
    symlinkSync(resolve('node_modules', name), join(packages, name));
  return { folder, root, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/**
 * A fake native engine in JavaScript: TensorFlow.js's own backend under another name. With FAKE_GPU=1 it claims to be on a
 * GPU; its kernel FAKE_KERNEL throws FAKE_TROUBLE.
 */
export function fakeEngine({ root }: Checkout): void {
  const engine = join(root, 'node_modules', '.realm-engine');
  const dist = join(engine, 'package', 'dist');
  mkdirSync(dist, { recursive: true });
  writeFileSync(
    join(dist, 'nodejs_kernel_backend.js'),
    `const { MathBackendCPU } = require('@tensorflow/tfjs-backend-cpu');
     exports.NodeJSKernelBackend = class extends MathBackendCPU { isUsingGpuDevice = process.env.FAKE_GPU === '1'; };`,
  );
  writeFileSync(
    join(dist, 'register_all_kernels.js'),
    `const tf = require('@tensorflow/tfjs');
     const trouble = process.env.FAKE_TROUBLE;
     const broken = () => { throw new Error(trouble); };
     for (const kernel of tf.getKernelsForBackend('cpu'))
       tf.registerKernel({
         ...kernel,
         backendName: 'tensorflow',
         ...(trouble && kernel.kernelName === process.env.FAKE_KERNEL && { kernelFunc: broken }),
       });`,
  );
  writeFileSync(join(engine, 'binding.js'), '');
  const installed = { tensorflow: '2', variant: 'cuda', package: 'package', binding: 'binding.js' };
  writeFileSync(join(engine, 'engine.json'), JSON.stringify({ ...installed, layout: LAYOUT }));
}

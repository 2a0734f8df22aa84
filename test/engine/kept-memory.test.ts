import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { fusedNorm, hasFused } from '../../src/engine/fused.ts';
import { startTestEngine } from '../support/engine.ts';

before(() => startTestEngine());

test('a kernel takes the memory that an earlier one has freed, without asking the system for it again', (t) => {
  if (!hasFused() || tf.getBackend() !== 'tensorflow') return t.skip('no native kernels in this engine');
  // Above 32 MB glibc would give each block back as soon as it is free.
  const [x, gain, bias] = [tf.zeros([10_000, 1024]), tf.ones([1024]), tf.zeros([1024])];
  const step = () => fusedNorm(x, undefined, gain, bias, 1e-6).dispose();
  for (let i = 0; i < 3; i++) step();
  const before = process.resourceUsage().minorPageFault;
  for (let i = 0; i < 10; i++) step();
  const faults = process.resourceUsage().minorPageFault - before;
  assert.ok(faults < 10_000, `${faults} pages of 4 kB; each result has 10,000`);
  tf.dispose([x, gain, bias]);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { instructions, processor } from '../../src/engine/installed.mjs';

test('the instruction sets of a processor are read from /proc/cpuinfo, without what else its flags say', () => {
  const x64 =
    'processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 ibpb avx2 fma avx512f svm  bmi1\nbugs\t\t: x\n';
  assert.deepEqual(instructions(x64), ['avx2', 'avx512f', 'bmi1', 'fma', 'sse2']);
  assert.deepEqual(instructions('processor\t: 0\nFeatures\t: fp asimd sve\n'), ['asimd', 'fp', 'sve']);
  assert.deepEqual(instructions('processor\t: 0\n'), []);
});

test('the name of the processor changes with its instruction sets', {
  skip: process.platform !== 'linux',
}, () => {
  assert.match(processor(), /, instructions [0-9a-f]{8}$/);
});

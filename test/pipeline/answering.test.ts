import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { findInstalled } from '../../src/engine/installed.mjs';
import { sharing } from '../../src/pipeline/answering.ts';
import { tinyConfig } from '../support/tiny.ts';

const GIBIBYTE = 2 ** 30;
const isNative = findInstalled()?.variant === 'cpu';
const small = tinyConfig();
const large = loadConfig(); // BERT-base

test('a small model is asked in a process for each core, a large one in a single process with all threads', {
  skip: !isNative && 'needs the native engine',
}, () => {
  const on = (cores: number, free = 64 * GIBIBYTE) => sharing(small, { engine: 'auto' }, { cores, free });
  assert.deepEqual(on(2), { processes: 2, threads: 1 });
  assert.deepEqual(on(6), { processes: 6, threads: 1 });
  assert.deepEqual(on(1), { processes: 1, threads: undefined });
  assert.deepEqual(on(32), { processes: 8, threads: 4 });
  assert.deepEqual(sharing(large, { engine: 'auto' }, { cores: 32, free: 64 * GIBIBYTE }), {
    processes: 1,
    threads: undefined,
  });
});

test('fewer processes answer where memory is short, and one on another engine or with one thread', () => {
  const machine = { cores: 8, free: 64 * GIBIBYTE };
  assert.deepEqual(sharing(small, { engine: 'auto' }, { cores: 8, free: GIBIBYTE }), {
    processes: 1,
    threads: undefined,
  });
  assert.deepEqual(sharing(small, { engine: 'wasm', threads: 4 }, machine), { processes: 1, threads: 4 });
  assert.deepEqual(sharing(small, { engine: 'tensorflow', threads: 1 }, machine), {
    processes: 1,
    threads: 1,
  });
  const { processes } = sharing(small, { engine: 'tensorflow' }, { ...machine, free: 2.9 * GIBIBYTE });
  assert.equal(processes, isNative ? 3 : 1);
});

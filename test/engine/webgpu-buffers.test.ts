import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bufferPool } from '../../src/engine/webgpu-buffers.ts';

/** A pool on a fake device that only counts. */
function pool() {
  const alive = new Set<object>();
  let made = 0;
  const device = {
    createBuffer: ({ size, usage }: { size: number; usage: number }) => {
      const buffer = { size, usage, destroy: () => alive.delete(buffer) };
      alive.add(buffer);
      made++;
      return buffer;
    },
  };
  return { buffers: bufferPool(device), alive, made: () => made };
}

test('a buffer is reused only for the same size and usage', () => {
  const { buffers, made } = pool();
  const first = buffers.acquireBuffer(100, 1);
  buffers.releaseBuffer(first);
  assert.notEqual(buffers.acquireBuffer(100, 2), first);
  assert.notEqual(buffers.acquireBuffer(96, 1), first);
  assert.notEqual(buffers.acquireBuffer(100, 1, true, false), first, 'reuse declined');
  assert.equal(buffers.acquireBuffer(100, 1), first);
  assert.notEqual(buffers.acquireBuffer(100, 1), first, 'it is in use');
  assert.equal(made(), 5);
});

test('free buffers never hold more than was in use at once; the one that was free longest is destroyed first', () => {
  const { buffers, alive } = pool();
  const [a, b] = [buffers.acquireBuffer(60, 1), buffers.acquireBuffer(40, 1)]; // 100 in use at once
  buffers.releaseBuffer(a);
  buffers.releaseBuffer(b);
  assert.deepEqual([buffers.numBytesUsed, buffers.numBytesAllocated], [0, 100]);
  const c = buffers.acquireBuffer(30, 1);
  buffers.releaseBuffer(c); // 130 free: a is destroyed
  assert.deepEqual([...alive], [b, c]);
  assert.equal(buffers.numBytesAllocated, 70);
  for (let size = 1; size <= 500; size++) buffers.releaseBuffer(buffers.acquireBuffer(size % 100, 1));
  assert.ok(buffers.numBytesAllocated <= 100);
  assert.equal(
    [...alive].reduce((sum, buffer) => sum + (buffer as { size: number }).size, 0),
    buffers.numBytesAllocated,
  );
});

test('a buffer that is not for reuse is destroyed, and releasing one twice is an error', () => {
  const { buffers, alive } = pool();
  const buffer = buffers.acquireBuffer(8, 1);
  buffers.releaseBuffer(buffer, false);
  assert.equal(alive.size, 0);
  assert.throws(() => buffers.releaseBuffer(buffer), /twice/);
  buffers.releaseBuffer(buffers.acquireBuffer(8, 1));
  buffers.acquireBuffer(16, 1);
  buffers.dispose();
  assert.deepEqual([alive.size, buffers.numBytesUsed, buffers.numBytesAllocated], [0, 0, 0]);
});

/** The part of a WebGPU buffer, and of the device that makes it, that a pool needs. */
export interface Buffer {
  readonly size: number;
  readonly usage: number;
  destroy(): void;
}
export interface BufferMaker {
  createBuffer(descriptor: { size: number; usage: number; mappedAtCreation: boolean }): Buffer;
}

/**
 * Replaces the backend's own buffer manager, which keeps every buffer it has ever made. Packed sequences make tensors of
 * different sizes at each step, so the GPU's memory would fill up. Here the free buffers never hold more bytes than
 * were in use at once; beyond that, the one that was free longest is destroyed.
 *
 * The backend releases a buffer only after submitting the commands that use it, and destroying it then is allowed:
 * WebGPU keeps the memory until the commands are done.
 */
export function bufferPool(device: BufferMaker) {
  const free = new Map<string, Buffer[]>();
  /** All free buffers, longest free first. */
  const order = new Set<Buffer>();
  const used = new Set<Buffer>();
  let freeBytes = 0;
  let mostUsed = 0;
  const key = (size: number, usage: number) => `${size} ${usage}`;

  const forget = (buffer: Buffer) => {
    order.delete(buffer);
    freeBytes -= buffer.size;
    const alike = free.get(key(buffer.size, buffer.usage))!;
    alike.splice(alike.indexOf(buffer), 1);
    if (alike.length === 0) free.delete(key(buffer.size, buffer.usage));
  };

  const pool = {
    /** Bytes of the buffers in use, and of all buffers: what `tf.memory()` reports. */
    numBytesUsed: 0,
    numBytesAllocated: 0,
    acquireBuffer(size: number, usage: number, mappedAtCreation = false, reuse = true): Buffer {
      let buffer = reuse ? free.get(key(size, usage))?.at(-1) : undefined;
      if (buffer) forget(buffer);
      else {
        buffer = device.createBuffer({ size, usage, mappedAtCreation });
        pool.numBytesAllocated += size;
      }
      used.add(buffer);
      pool.numBytesUsed += size;
      mostUsed = Math.max(mostUsed, pool.numBytesUsed);
      return buffer;
    },
    releaseBuffer(buffer: Buffer, reuse = true): void {
      if (!used.delete(buffer)) throw new Error('a GPU buffer was released twice');
      const { size, usage } = buffer;
      pool.numBytesUsed -= size;
      if (reuse) {
        const alike = free.get(key(size, usage));
        if (alike) alike.push(buffer);
        else free.set(key(size, usage), [buffer]);
        order.add(buffer);
        freeBytes += size;
      } else destroy(buffer);
      for (const oldest of order) {
        if (freeBytes <= mostUsed) break;
        forget(oldest);
        destroy(oldest);
      }
    },
    dispose(): void {
      for (const buffer of [...used, ...order]) destroy(buffer);
      free.clear();
      order.clear();
      used.clear();
      freeBytes = 0;
      pool.numBytesUsed = 0;
    },
  };
  const destroy = (buffer: Buffer) => {
    buffer.destroy();
    pool.numBytesAllocated -= buffer.size;
  };
  return pool;
}

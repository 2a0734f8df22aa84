import { freemem, totalmem } from 'node:os';

/** Bytes of memory that this process may use: those of the machine, or of its container where that has fewer. */
export function memoryLimit(): number {
  const limit = process.constrainedMemory?.() ?? 0; // 0, or more than there is, where nothing limits it
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

/** Bytes of it that no process uses, as far as the machine shows. */
export function memoryFree(): number {
  return Math.min(freemem(), memoryLimit());
}

/**
 * One thread's instance of kernels.wasm. Plain JavaScript: the workers load it without tsx.
 *
 * The module is linked as a shared library, with position-independent code and an imported memory. So it works in the
 * memory of tfjs-backend-wasm: its data, and the stack and the variables of each thread, are blocks allocated there.
 */

/** Bytes of a thread's stack. */
const STACK = 1 << 16;

/** Bytes of a thread's block: its stack, then its thread-local variables (`__tls_size`, now 136). */
export const THREAD = STACK + 4096;

/**
 * @typedef {object} Kernels what all threads share
 * @property {WebAssembly.Module} module
 * @property {WebAssembly.Memory} memory
 * @property {number} data address of the module's data
 * @property {number} table entries of the table of functions
 */

/** @param {Uint8Array} binary */
export const compile = (binary) => new WebAssembly.Module(binary);

/**
 * @param {Kernels} kernels
 * @param {number} thread address of the thread's block
 * @param {Record<string, (...values: number[]) => unknown>} host the functions of host.h
 */
export function instantiate({ module, memory, data, table }, thread, host) {
  const address = (value, mutable = false) => new WebAssembly.Global({ value: 'i32', mutable }, value | 0);
  const stack = address(thread + STACK, true); // it grows downwards
  const { exports } = new WebAssembly.Instance(module, {
    env: {
      memory,
      __indirect_function_table: new WebAssembly.Table({ element: 'anyfunc', initial: table }),
      __memory_base: address(data),
      __table_base: address(0),
      __stack_pointer: stack,
      ...host,
    },
  });
  if (exports.__tls_size.value > THREAD - STACK)
    throw new Error('kernels.wasm: thread-local variables are too large');
  exports.__wasm_init_tls(thread + STACK);
  return { exports, stack };
}

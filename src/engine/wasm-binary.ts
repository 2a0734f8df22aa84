// The two places where realm looks inside WebAssembly's binary format (https://webassembly.github.io/spec/core/binary/).

/** Sections begin after the magic number and the version. */
const FIRST_SECTION = 8;
const MEMORY_SECTION = 5;
/** Of a memory: it has a maximum; threads share it. */
const HAS_MAXIMUM = 1;
const SHARED = 2;

/**
 * The same module, but the one memory that it defines is shared, so that workers can use it too.
 * tfjs-backend-wasm also comes with a threaded build, but that one starts eight workers of its own and does not work in
 * Node (github.com/tensorflow/tfjs/issues/3830). Code that one thread runs does not change with this flag.
 * Throws if the module defines no memory with a maximum.
 */
export function withSharedMemory(module: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(module);
  for (let at = FIRST_SECTION; at < copy.length; ) {
    const [size, start] = unsigned(copy, at + 1);
    if (copy[at] === MEMORY_SECTION) {
      const [count, flags] = unsigned(copy, start);
      if (count === 1 && copy[flags] === HAS_MAXIMUM) {
        copy[flags] |= SHARED;
        return copy;
      }
    }
    at = start + size;
  }
  throw new Error('the WebAssembly module defines no memory with a maximum');
}

/**
 * What a module linked as a shared library needs: bytes of memory, and entries of the table of functions. They are in
 * its first section, `dylink.0` (github.com/WebAssembly/tool-conventions, DynamicLinking.md).
 */
export function libraryNeeds(module: Uint8Array): { memory: number; table: number } {
  let [, at] = unsigned(module, FIRST_SECTION + 1); // the section's size
  const next = () => {
    const [value, end] = unsigned(module, at);
    at = end;
    return value;
  };
  const name = next(); // its length
  at += name;
  next(); // the first part's number
  next(); // and size
  const memory = next();
  next(); // the memory's alignment
  return { memory, table: next() };
}

/** An unsigned LEB128 number, and where the next one starts. */
function unsigned(bytes: Uint8Array, at: number): [number, number] {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    value |= (byte & 127) << shift;
    if (byte < 128) return [value, at];
  }
}

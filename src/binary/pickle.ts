import { shown, UserError } from '../system/errors.ts';
import type { OpenFile } from './file.ts';

// Python's pickle (cpython, Lib/pickletools.py) is a program for a stack machine, and may call any function of Python. This
// reader runs no such code: the operations below build plain values, a name can only be a value or function of ours that the
// caller lists, and every other operation and name is refused.
//
//   None, True, 1, 1.5, 'text'   null, true, 1, 1.5, 'text'
//   b'bytes'                     Uint8Array
//   list, tuple                  array
//   dict                         Map

/** By a Python name, `module name`: a function of ours that may be called, or a plain value. */
export type Names = Readonly<Record<string, unknown>>;

/** A value that takes the state which Python gives an object after making it (`__setstate__`). */
export interface Stateful {
  setState(state: unknown): void;
}

export interface PickleOptions {
  names: Names;
  /** Returns the object for an id that the pickle has in its place. */
  persistent?: (id: unknown) => unknown;
  /** Yield the items of lists as they come, and keep the list itself empty. */
  streamLists?: boolean;
}

/** What a pickle holds, and the position after its last byte. */
export interface Unpickled {
  value: unknown;
  end: number;
}

/** Maximum bytes of a whole number: 8 are enough for every size. */
const MAX_NUMBER_BYTES = 8;
/** Maximum arguments of a function call; JavaScript itself fails with a hundred thousand. */
const MAX_ARGUMENTS = 16;
/** Maximum characters of a module's or function's name. */
const MAX_NAME_LENGTH = 1000;

/**
 * Reads the pickle in bytes `begin` to `end` of a file, without running anything.
 * With `streamLists` it yields the items of the lists one by one, else nothing. The pickle may end before `end`.
 * `UserError` if the bytes are not a pickle, or use a name that is not in `names`.
 */
export function* readPickle(
  file: OpenFile,
  begin: number,
  end: number,
  { names, persistent, streamLists = false }: PickleOptions,
): Generator<unknown, Unpickled> {
  const source = byteSource(file, begin, end);
  const fail: (what: string) => never = (what) => {
    throw new UserError(
      `${file.path}: its pickle ${what} (byte ${source.position()}); no code of it was run, get the file from a source that you trust`,
    );
  };
  let stack: unknown[] = [];
  const marked: unknown[][] = [];
  const memo = memory();

  const pop = (): unknown => (stack.length > 0 ? stack.pop() : fail('takes a value from an empty stack'));
  const top = (): unknown =>
    stack.length > 0 ? stack[stack.length - 1] : fail('takes a value from an empty stack');
  /** What was pushed since the last mark. */
  const popMark = (): unknown[] => {
    const items = stack;
    stack = marked.pop() ?? fail('ends a group that it never started');
    return items;
  };
  const named = (module: unknown, name: unknown): unknown => {
    if (typeof module !== 'string' || typeof name !== 'string') return fail('has a name that is not text');
    const full = `${module} ${name}`;
    if (Object.hasOwn(names, full)) return names[full];
    return fail(`names ${shown(`${module}.${name}`, 80)}, which is not read`);
  };
  const setItems = (items: unknown[]): void => {
    const map = top();
    if (!(map instanceof Map) || items.length % 2) fail('sets items of a value that is not a dict');
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  };
  const list = (): unknown[] => {
    const value = top();
    return Array.isArray(value) ? value : fail('appends to a value that is not a list');
  };
  const bytes = (length: number): void => {
    const position = source.position();
    const value = source.take(length).slice();
    stack.push(value);
    memo.lastBytes(value, position);
  };
  const text = (length: number): void => {
    try {
      stack.push(UTF8.decode(source.take(length)));
    } catch (error) {
      if (error instanceof UserError) throw error;
      fail('holds a text that is not UTF-8');
    }
  };
  const recall = (index: number): void => {
    const found = memo.get(index);
    if (found === undefined) fail(`uses value ${index}, which it never stored`);
    const { value, position, length } = found;
    stack.push(position === undefined ? value : new Uint8Array(file.read(position, length)));
  };

  for (;;) {
    const op = source.take(1)[0];
    switch (op) {
      case 0x80: // PROTO
        if (source.number(1) > 5) fail('has a later protocol than 5');
        break;
      case 0x95: // FRAME: how much may be read ahead
        source.number(8);
        break;
      case 0x2e: // STOP
        return { value: pop(), end: source.position() };
      case 0x28: // MARK
        marked.push(stack);
        stack = [];
        break;
      case 0x4e: // NONE
        stack.push(null);
        break;
      case 0x88: // NEWTRUE
        stack.push(true);
        break;
      case 0x89: // NEWFALSE
        stack.push(false);
        break;
      case 0x4b: // BININT1
        stack.push(source.number(1));
        break;
      case 0x4d: // BININT2
        stack.push(source.number(2));
        break;
      case 0x4a: // BININT
        stack.push(source.number(4) | 0);
        break;
      case 0x8a: {
        // LONG1: two's complement of any length
        const length = source.number(1);
        if (length > MAX_NUMBER_BYTES) fail(`holds a number of ${length} bytes`);
        stack.push(signed(source.take(length)));
        break;
      }
      case 0x47: {
        // BINFLOAT
        const b = source.take(8);
        stack.push(new DataView(b.buffer, b.byteOffset, 8).getFloat64(0));
        break;
      }
      case 0x58: // BINUNICODE
        text(source.number(4));
        break;
      case 0x8c: // SHORT_BINUNICODE
        text(source.number(1));
        break;
      case 0x8d: // BINUNICODE8
        text(source.number(8));
        break;
      case 0x42: // BINBYTES
        bytes(source.number(4));
        break;
      case 0x43: // SHORT_BINBYTES
        bytes(source.number(1));
        break;
      case 0x8e: // BINBYTES8
        bytes(source.number(8));
        break;
      case 0x29: // EMPTY_TUPLE
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        break;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        break;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: {
        // TUPLE3
        const items = [];
        for (let i = op - 0x84; i > 0; i--) items.unshift(pop());
        stack.push(items);
        break;
      }
      case 0x74: {
        // TUPLE
        const items = popMark(); // first: it changes the stack
        stack.push(items);
        break;
      }
      case 0x61: {
        // APPEND
        const item = pop();
        if (streamLists && list()) yield item;
        else list().push(item);
        break;
      }
      case 0x65: {
        // APPENDS
        const items = popMark();
        if (streamLists && list()) yield* items;
        else for (const item of items) list().push(item);
        break;
      }
      case 0x73: // SETITEM
        setItems([pop(), pop()].reverse());
        break;
      case 0x75: // SETITEMS
        setItems(popMark());
        break;
      case 0x68: // BINGET
        recall(source.number(1));
        break;
      case 0x6a: // LONG_BINGET
        recall(source.number(4));
        break;
      case 0x71: // BINPUT
        memo.put(source.number(1), top());
        break;
      case 0x72: // LONG_BINPUT
        memo.put(source.number(4), top());
        break;
      case 0x94: // MEMOIZE
        memo.put(memo.size(), top());
        break;
      case 0x63: // GLOBAL
        stack.push(named(source.line(), source.line()));
        break;
      case 0x93: {
        // STACK_GLOBAL
        const name = pop();
        stack.push(named(pop(), name));
        break;
      }
      case 0x51: // BINPERSID
        if (!persistent) return fail('refers to an object outside of the pickle');
        stack.push(persistent(pop()));
        break;
      case 0x52: {
        // REDUCE
        const args = pop();
        const callee = pop();
        if (typeof callee !== 'function' || !Array.isArray(args) || args.length > MAX_ARGUMENTS) {
          return fail('calls a value that is not a function');
        }
        stack.push(callee(...args));
        break;
      }
      case 0x62: {
        // BUILD
        const state = pop();
        const target = top();
        // Attributes of a dict, such as the versions that PyTorch keeps of its modules.
        if (target instanceof Map) break;
        if (!isStateful(target)) return fail('sets attributes of a value without attributes');
        target.setState(state);
        break;
      }
      default:
        fail(`holds the operation 0x${op.toString(16).padStart(2, '0')}, which is not read`);
    }
  }
}

/** Reads a whole pickle at once. */
export function readWholePickle(
  file: OpenFile,
  begin: number,
  end: number,
  options: Omit<PickleOptions, 'streamLists'>,
): Unpickled {
  return readPickle(file, begin, end, options).next().value as Unpickled;
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

function isStateful(value: unknown): value is Stateful {
  return typeof value === 'object' && value !== null && 'setState' in value;
}

function signed(bytes: Uint8Array): number {
  let value = 0;
  for (let i = bytes.length - 1; i >= 0; i--) value = value * 256 + bytes[i];
  return bytes.length > 0 && bytes[bytes.length - 1] & 0x80 ? value - 256 ** bytes.length : value;
}

/** Bytes read ahead. */
const WINDOW = 1 << 20;

/** Reads bytes `begin` to `end` of a file in order. Checks the length before it allocates anything. */
function byteSource(file: OpenFile, begin: number, end: number) {
  let window = new Uint8Array(0);
  let start = begin; // of the window in the file
  let at = 0; // in the window
  const take = (length: number): Uint8Array => {
    if (at + length > window.length) {
      const position = start + at;
      if (length > end - position) {
        throw new UserError(
          `${file.path}: its pickle needs ${length} bytes at byte ${position}, but ends at ${end}; copy or download it again`,
        );
      }
      window = new Uint8Array(file.read(position, Math.min(Math.max(WINDOW, length), end - position)));
      start = position;
      at = 0;
    }
    at += length;
    return window.subarray(at - length, at);
  };
  return {
    position: () => start + at,
    /** The next bytes, valid until the next call. */
    take,
    /** An unsigned little-endian number; one past 2^53 is inexact, but far above any file's length. */
    number(width: number): number {
      const bytes = take(width);
      let value = 0;
      for (let i = width - 1; i >= 0; i--) value = value * 256 + bytes[i];
      return value;
    },
    line(): string {
      let text = '';
      for (let c = take(1)[0]; c !== 0x0a && text.length < MAX_NAME_LENGTH; c = take(1)[0]) {
        text += String.fromCharCode(c);
      }
      return text;
    },
  };
}

/** A stored value, or where its bytes are in the file. */
interface Kept {
  value?: unknown;
  position?: number;
  length: number;
}

/**
 * The values that a pickle stores in order to refer to them later. A pickle of millions of texts stores them all and refers
 * to almost none. So for bytes only the position in the file is stored, and they are read again when needed.
 */
function memory() {
  const values = new Map<number, unknown>();
  let places = new Float64Array(64); // position and length of entry i at 2i; both 0 if it has none
  let inOrder = 0; // number of entries that were numbered in order
  let count = 0;
  let last: { value: Uint8Array; position: number } | undefined;
  return {
    size: () => count,
    lastBytes(value: Uint8Array, position: number): void {
      last = { value, position };
    },
    put(index: number, value: unknown): void {
      count++;
      if (index === inOrder && last && value === last.value) {
        if (2 * inOrder >= places.length) {
          const grown = new Float64Array(2 * places.length);
          grown.set(places);
          places = grown;
        }
        places[2 * index] = last.position;
        places[2 * index + 1] = last.value.length;
      } else values.set(index, value);
      if (index === inOrder) inOrder++;
    },
    get(index: number): Kept | undefined {
      if (values.has(index)) return { value: values.get(index), length: 0 };
      const position = places[2 * index];
      return position ? { position, length: places[2 * index + 1] } : undefined;
    },
  };
}

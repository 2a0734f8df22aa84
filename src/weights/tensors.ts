import type { OpenFile } from '../binary/file.ts';
import { UserError } from '../system/errors.ts';

// What all formats of weights have in common: tensors by name. Their numbers stay in the file until they are requested.

export interface StoredTensor {
  shape: number[];
  /** As safetensors names it: F32, BF16, … */
  dtype: string;
  /**
   * The values as floats, row-major, read from the file now; `begin` and `end` select a part of a large tensor.
   * `UserError` for a kind of element that cannot become floats.
   * @param begin first value, in elements
   * @param end exclusive
   */
  read(begin?: number, end?: number): Float32Array;
}

export interface TensorFile {
  tensors: Map<string, StoredTensor>;
  close(): void;
}

/** Bytes of one element. All kinds may be in a file; those with a conversion below can be read. */
export const ELEMENT_BYTES: Record<string, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
};

/** How elements of other kinds than F32 become floats: the array over their bytes, and one element of it. */
const CONVERSIONS: Record<string, (bytes: ArrayBuffer) => Float32Array> = {
  F64: (bytes) => Float32Array.from(new Float64Array(bytes)),
  F16: (bytes) => Float32Array.from(new Uint16Array(bytes), halfToFloat),
  BF16: bfloatsToFloats,
  I64: (bytes) => {
    const from = new BigInt64Array(bytes);
    const to = new Float32Array(from.length);
    for (let i = 0; i < to.length; i++) to[i] = Number(from[i]);
    return to;
  },
  I32: (bytes) => Float32Array.from(new Int32Array(bytes)),
};

/** Elements converted at a time, so that a conversion needs little memory in addition to its result. */
const CONVERTED_AT_ONCE = 1 << 20;

/**
 * `count` little-endian elements at `position` of a file, as floats.
 * @param name of the tensor, for the `UserError` if this kind of element cannot become floats
 */
export function readFloats(
  file: OpenFile,
  name: string,
  dtype: string,
  position: number,
  count: number,
): Float32Array {
  if (dtype === 'F32') return new Float32Array(file.read(position, count * 4));
  const convert = CONVERSIONS[dtype];
  if (!convert) {
    throw new UserError(
      `${file.path}: tensor "${name}" is of ${dtype}, which cannot be read as numbers; save it as F32`,
    );
  }
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += CONVERTED_AT_ONCE) {
    const width = ELEMENT_BYTES[dtype];
    const n = Math.min(CONVERTED_AT_ONCE, count - i);
    out.set(convert(file.read(position + i * width, n * width)), i);
  }
  return out;
}

function bfloatsToFloats(bytes: ArrayBuffer): Float32Array {
  // A bfloat16 is the upper half of a float32.
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (upper) => upper << 16).buffer);
}

/** The value of an IEEE 754 half: sign, 5 bits of exponent with bias 15, 10 bits of fraction. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** How many elements a shape has. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

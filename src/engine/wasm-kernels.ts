import * as tf from '@tensorflow/tfjs';
import type { Multiply } from './wasm-fused.ts';

/**
 * Kernels that make the WebAssembly backend usable for training: those it lacks, and those that are slow or wrong in it.
 * They work on views of the WebAssembly heap; an output is allocated before any view is taken, because the heap may
 * move when it grows. Times are in milliseconds on one core of a 2-core server, the backend's own kernel → this one.
 */
export function registerWasmKernels(multiply: Multiply): void {
  replace('BatchMatMul', () => (args) => {
    const { a, b } = args.inputs;
    const { transposeA, transposeB } = args.attrs as { transposeA: boolean; transposeB: boolean };
    return batchMatMul(args.backend, multiply, { a, b, transposeA, transposeB });
  });
  replace('_FusedMatMul', (original) => (args) => {
    const { a, b, bias } = args.inputs;
    const { transposeA, transposeB, activation } = args.attrs as {
      transposeA: boolean;
      transposeB: boolean;
      activation: string;
    };
    if (activation !== 'linear') return original!(args);
    return batchMatMul(args.backend, multiply, { a, b, transposeA, transposeB, bias });
  });
  replace('Transpose', () => transpose);
  replace(
    'Slice',
    (original) => (args) => (args.inputs.x.dtype === 'string' ? original!(args) : slice(args)),
  );
  replace('Tile', (original) => (args) => (args.inputs.x.dtype === 'string' ? original!(args) : tile(args)));
  replace('Exp', () => exp);
  replace('Tanh', () => tanh);
  replace('GatherV2', () => gather);
  replace('UnsortedSegmentSum', () => unsortedSegmentSum);
  replace('Sum', (original) => (args) => {
    const { axis, keepDims } = args.attrs as { axis: number | number[]; keepDims: boolean };
    return sum(args.backend, args.inputs.x, axis, keepDims, 1) ?? original!(args);
  });
  replace('Mean', (original) => (args) => {
    const { axis, keepDims } = args.attrs as { axis: number | number[]; keepDims: boolean };
    const { x } = args.inputs;
    const count = tf.util.parseAxisParam(axis, x.shape).reduce((n, d) => n * x.shape[d], 1);
    return sum(args.backend, x, axis, keepDims, 1 / count) ?? original!(args);
  });
}

/** The parts of tfjs-backend-wasm's backend that a kernel needs. */
interface Backend {
  dataIdMap: { get(dataId: object): { memoryOffset: number } };
  makeOutput(shape: number[], dtype: tf.DataType): tf.TensorInfo;
  typedArrayFromHeap(info: tf.TensorInfo): Float32Array | Int32Array | Uint8Array;
}

interface Args {
  inputs: Record<string, tf.TensorInfo>;
  attrs: unknown;
  backend: Backend;
}
type Kernel = (args: Args) => tf.TensorInfo;

/** Registers a kernel in place of the backend's own; `make` receives the original, which may still handle some cases. */
function replace(kernelName: string, make: (original: Kernel | undefined) => Kernel): void {
  const own = tf.getKernel(kernelName, 'wasm');
  if (own) tf.unregisterKernel(kernelName, 'wasm');
  tf.registerKernel({
    kernelName,
    backendName: 'wasm',
    kernelFunc: make(own?.kernelFunc as unknown as Kernel | undefined) as unknown as tf.KernelFunc,
    disposeFunc: own?.disposeFunc,
  });
}

/** a × b + bias of matrices in a batch, each transposed first or not. */
interface Product {
  a: tf.TensorInfo;
  b: tf.TensorInfo;
  transposeA: boolean;
  transposeB: boolean;
  bias?: tf.TensorInfo;
}

/**
 * The backend's own product is 15 times slower than its fast routine unless both operands are one untransposed matrix, and
 * reads past the end of a batch of one that should be broadcast. A batch becomes a loop over its pairs of matrices.
 */
function batchMatMul(
  backend: Backend,
  multiply: Multiply,
  { a, b, transposeA, transposeB, bias }: Product,
): tf.TensorInfo {
  if (a.dtype !== 'float32' || b.dtype !== 'float32') {
    throw new Error(`matMul takes float32, not ${a.dtype} and ${b.dtype}`);
  }
  const [m, k] = matrixShape(a, transposeA);
  const [kb, n] = matrixShape(b, transposeB);
  if (k !== kb) throw new Error(`matMul: inner dimensions of [${a.shape}] and [${b.shape}] differ`);
  if (bias && tf.util.sizeFromShape(bias.shape) !== n) {
    throw new Error(`matMul: a bias of [${bias.shape}] does not fit ${n} columns`);
  }
  const batchA = a.shape.slice(0, -2);
  const batchB = b.shape.slice(0, -2);
  const batch = tf.broadcast_util.assertAndGetBroadcastShape(batchA, batchB);
  const count = tf.util.sizeFromShape(batch);
  const out = backend.makeOutput([...batch, m, n], 'float32');
  if (count * m * n === 0) return out;
  if (bias) {
    const row = backend.typedArrayFromHeap(bias);
    const to = backend.typedArrayFromHeap(out);
    for (let at = 0; at < to.length; at += n) to.set(row, at);
  }
  const beta = bias ? 1 : 0;
  const transposed = { a: transposeA, b: transposeB };
  const [atA, atB, atOut] = [a, b, out].map((t) => backend.dataIdMap.get(t.dataId).memoryOffset);
  // One b for the whole batch of a: one product with more rows.
  if (!transposeA && tf.util.sizeFromShape(batchB) === 1 && tf.util.sizeFromShape(batchA) === count) {
    multiply(transposed, { m: count * m, n, k }, { a: atA, b: atB, c: atOut }, beta);
    return out;
  }
  const indexA = batchIndices(batchA, batch);
  const indexB = batchIndices(batchB, batch);
  for (let i = 0; i < count; i++) {
    const at = { a: atA + 4 * indexA[i] * m * k, b: atB + 4 * indexB[i] * k * n, c: atOut + 4 * i * m * n };
    multiply(transposed, { m, n, k }, at, beta);
  }
  return out;
}

/** [rows, columns] of the matrices in a batch, as the product sees them. */
function matrixShape({ shape }: tf.TensorInfo, transposed: boolean): [number, number] {
  const [rows, columns] = shape.slice(-2);
  return transposed ? [columns, rows] : [rows, columns];
}

/** For each matrix of the broadcast batch, the number of the operand's matrix. */
function batchIndices(own: number[], batch: number[]): Int32Array {
  const indices = new Int32Array(tf.util.sizeFromShape(batch));
  const padded = [...Array(batch.length - own.length).fill(1), ...own];
  for (let i = 0; i < indices.length; i++) {
    let rest = i;
    let stride = 1;
    for (let d = batch.length - 1; d >= 0; d--) {
      const at = rest % batch[d];
      rest = Math.floor(rest / batch[d]);
      if (padded[d] > 1) indices[i] += at * stride;
      stride *= padded[d];
    }
  }
  return indices;
}

/** Side of the square that a transpose reads and writes at a time, in elements: both then stay in the first-level cache. */
const SQUARE_SIDE = 16;

/**
 * If the last axis stays last, runs of it are copied; otherwise the input's last axis and the output's last axis are
 * copied in squares, in a loop over the other axes.
 */
function transpose({ inputs: { x }, attrs, backend }: Args): tf.TensorInfo {
  const { perm } = attrs as { perm: number[] };
  const out = backend.makeOutput(
    perm.map((d) => x.shape[d]),
    x.dtype,
  );
  const { sizes, from: order } = collapse(x.shape, perm);
  const rank = sizes.length;
  const inStrides = [...tf.util.computeStrides(sizes), 1].slice(0, Math.max(rank, 1));
  const outSizes = order.map((d) => sizes[d]);
  const strides = [...tf.util.computeStrides(outSizes), 1].slice(0, Math.max(rank, 1));
  const outStrides = order.map(() => 0); // of each input axis in the output
  order.forEach((d, at) => {
    outStrides[d] = strides[at];
  });
  const values = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  if (rank <= 1) {
    to.set(values);
    return out;
  }
  const last = rank - 1;
  const p = order[last]; // input axis that becomes the last
  const others = order.map((d) => d).filter((d) => d !== p && d !== last);
  const outer = others.reduce((n, d) => n * sizes[d], 1);
  const matrix: Matrix = {
    rows: p === last ? 1 : sizes[p],
    rowStride: inStrides[p],
    columns: sizes[last],
    columnStride: outStrides[last],
  };
  const counter = new Int32Array(others.length);
  let r = 0;
  let w = 0;
  for (let i = 0; i < outer; i++) {
    if (p === last) copyRun(values, r, to, w, matrix.columns);
    else transposeMatrix(values, r, to, w, matrix);
    for (let k = others.length - 1; k >= 0; k--) {
      const d = others[k];
      r += inStrides[d];
      w += outStrides[d];
      if (++counter[k] < sizes[d]) break;
      counter[k] = 0;
      r -= inStrides[d] * sizes[d];
      w -= outStrides[d] * sizes[d];
    }
  }
  return out;
}

type Values = Float32Array | Int32Array | Uint8Array;

/** Up to this many elements a loop is faster than two views. */
const MAX_LOOP_COPY = 48;

function copyRun(from: Values, r: number, to: Values, w: number, size: number): void {
  if (size > MAX_LOOP_COPY) to.set(from.subarray(r, r + size), w);
  else for (let i = 0; i < size; i++) to[w + i] = from[r + i];
}

/** Size of a matrix, and the elements from one of its rows to the next, in the input and, transposed, in the output. */
interface Matrix {
  rows: number;
  rowStride: number;
  columns: number;
  columnStride: number;
}

/** Element (i, j) of the matrix at `r` goes to row j of the one at `w`. */
function transposeMatrix(from: Values, r: number, to: Values, w: number, matrix: Matrix): void {
  const { rows, rowStride, columns, columnStride } = matrix;
  for (let i0 = 0; i0 < rows; i0 += SQUARE_SIDE) {
    const i1 = Math.min(i0 + SQUARE_SIDE, rows);
    for (let j0 = 0; j0 < columns; j0 += SQUARE_SIDE) {
      const j1 = Math.min(j0 + SQUARE_SIDE, columns);
      for (let j = j0; j < j1; j++) {
        for (let i = i0, at = w + j * columnStride + i0; i < i1; i++, at++)
          to[at] = from[r + i * rowStride + j];
      }
    }
  }
}

/** Removes axes of size 1 and merges adjacent axes that stay adjacent: fewer axes, longer runs. */
function collapse(shape: number[], perm: number[]): { sizes: number[]; from: number[] } {
  const kept = perm.filter((d) => shape[d] !== 1);
  const groups: number[][] = [];
  const nextKept = (d: number) => {
    let next = d + 1;
    while (next < shape.length && shape[next] === 1) next++;
    return next;
  };
  for (const d of kept) {
    const group = groups.at(-1);
    if (group && nextKept(group[group.length - 1]) === d) group.push(d);
    else groups.push([d]);
  }
  const inOrder = [...groups].sort((a, b) => a[0] - b[0]);
  return {
    sizes: inOrder.map((group) => group.reduce((n, d) => n * shape[d], 1)),
    from: groups.map((group) => inOrder.indexOf(group)),
  };
}

/** Copies only the slice; the backend's own kernel copies the whole input first. 64 KiB out of 16 MiB: 4.5 → 0.1. */
function slice({ inputs: { x }, attrs, backend }: Args): tf.TensorInfo {
  const { begin, size } = attrs as { begin: number | number[]; size: number | number[] };
  const [start, extent] = tf.slice_util.parseSliceParams(x as tf.Tensor, begin, size);
  tf.slice_util.assertParamsValid(x as tf.Tensor, start, extent);
  const out = backend.makeOutput(extent, x.dtype);
  const strides = [...tf.util.computeStrides(x.shape), 1];
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  let inner = x.shape.length; // axes from here on are whole, so they form one run with the axis before
  while (inner > 0 && extent[inner - 1] === x.shape[inner - 1]) inner--;
  const axis = Math.max(0, inner - 1);
  const run = tf.util.sizeFromShape(extent.slice(axis));
  if (run === 0) return out;
  const counter = new Int32Array(axis);
  let r = start.reduce((sum, at, d) => sum + at * strides[d], 0);
  for (let w = 0; w < to.length; w += run) {
    copyRun(from, r, to, w, run);
    for (let d = axis - 1; d >= 0; d--) {
      r += strides[d];
      if (++counter[d] < extent[d]) break;
      counter[d] = 0;
      r -= strides[d] * extent[d];
    }
  }
  return out;
}

/** Repeats along each axis, the last first. [4096, 128] twice: 115 → 1. Also used by broadcastTo. */
function tile({ inputs: { x }, attrs, backend }: Args): tf.TensorInfo {
  const { reps } = attrs as { reps: number[] };
  const out = backend.makeOutput(
    x.shape.map((size, d) => size * reps[d]),
    x.dtype,
  );
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  if (to.length === 0) return out;
  const rank = x.shape.length;
  const place = (axis: number, r: number, w: number): void => {
    if (axis === rank) {
      to[w] = from[r];
      return;
    }
    const read = tf.util.sizeFromShape(x.shape.slice(axis + 1));
    const write = tf.util.sizeFromShape(out.shape.slice(axis + 1));
    const size = x.shape[axis];
    if (read === write)
      copyRun(from, r, to, w, size * read); // nothing repeats further in
    else for (let i = 0; i < size; i++) place(axis + 1, r + i * read, w + i * write);
    const done = size * write;
    if (done === 1) to.fill(to[w], w, w + reps[axis]);
    else for (let k = 1; k < reps[axis]; k++) to.copyWithin(w + k * done, w, w + done);
  };
  place(0, 0, 0);
  return out;
}

/** 2 to the power of -150 … 128, the range of a float32. */
const POWERS = Float64Array.from({ length: 279 }, (_, i) => 2 ** (i - 150));

/**
 * e^x to float32's last digit: x = k ln 2 + r with |r| ≤ ln 2 / 2, e^r by its series up to r^7 (error 5e-9), times 2^k.
 * The backend calls libm's expf. 2.5 million: 38 → 10.
 */
function expOf(x: number): number {
  if (x > 88.8) return Number.POSITIVE_INFINITY;
  if (x < -103.98) return 0;
  const k = Math.floor(x * Math.LOG2E + 0.5);
  const r = x - k * Math.LN2;
  const series =
    1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r / 5040))))));
  return series * POWERS[(k + 150) | 0];
}

function exp({ inputs: { x }, backend }: Args): tf.TensorInfo {
  const out = backend.makeOutput(x.shape, 'float32');
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  for (let i = 0; i < from.length; i++) to[i] = expOf(from[i]);
  return out;
}

/** 1 − 2 / (e^2x + 1), in double precision, so that small x keep their digits. */
function tanh({ inputs: { x }, backend }: Args): tf.TensorInfo {
  const out = backend.makeOutput(x.shape, 'float32');
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  for (let i = 0; i < from.length; i++) to[i] = 1 - 2 / (expOf(2 * from[i]) + 1);
  return out;
}

/** Copies whole rows instead of single elements. 2,048 rows of 128: 18.9 → 0.2. */
function gather({ inputs, attrs, backend }: Args): tf.TensorInfo {
  const { x, indices } = inputs;
  const { axis, batchDims } = attrs as { axis: number; batchDims: number };
  const info = tf.backend_util.segment_util.collectGatherOpShapeInfo(
    x as tf.Tensor,
    indices as tf.Tensor,
    tf.util.parseAxisParam(axis, x.shape)[0],
    batchDims,
  );
  const { batchSize, outerSize, dimSize, sliceSize } = info;
  const out = backend.makeOutput(info.outputShape, x.dtype);
  const at = backend.typedArrayFromHeap(indices);
  for (let i = 0; i < at.length; i++) {
    if (!(at[i] >= 0 && at[i] < dimSize)) throw new Error(`gather: index ${at[i]} is not in [0, ${dimSize})`);
  }
  const perBatch = at.length / batchSize;
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  let w = 0;
  for (let b = 0; b < batchSize; b++) {
    for (let o = 0; o < outerSize; o++) {
      const base = (b * outerSize + o) * dimSize;
      for (let i = b * perBatch; i < (b + 1) * perBatch; i++, w += sliceSize) {
        const r = (base + at[i]) * sliceSize;
        for (let s = 0; s < sliceSize; s++) to[w + s] = from[r + s];
      }
    }
  }
  return out;
}

/** Rows of x [..., inner] summed by segment id; rows with ids outside [0, numSegments) are left out. */
function unsortedSegmentSum({ inputs, attrs, backend }: Args): tf.TensorInfo {
  const { x, segmentIds } = inputs;
  const { numSegments } = attrs as { numSegments: number };
  const innerShape = x.shape.slice(segmentIds.shape.length);
  const inner = tf.util.sizeFromShape(innerShape);
  const out = backend.makeOutput([numSegments, ...innerShape], x.dtype);
  const ids = backend.typedArrayFromHeap(segmentIds);
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out).fill(0);
  for (let i = 0, r = 0; i < ids.length; i++, r += inner) {
    if (ids[i] < 0 || ids[i] >= numSegments) continue;
    const w = ids[i] * inner;
    for (let s = 0; s < inner; s++) to[w + s] += from[r + s];
  }
  return out;
}

/**
 * `scale` times the sum over adjacent axes, accumulated in double precision, without the transpose that the
 * backend makes for any but the last axes. [4096, 128] over the first axis: 5.6 → 0.6.
 * Undefined for axes that are not adjacent, and for other types.
 */
function sum(
  backend: Backend,
  x: tf.TensorInfo,
  axis: number | number[],
  keepDims: boolean,
  scale: number,
): tf.TensorInfo | undefined {
  const axes = tf.util.parseAxisParam(axis, x.shape).sort((a, b) => a - b);
  const first = axes[0] ?? 0;
  if (x.dtype !== 'float32' || axes.some((d, i) => d !== first + i)) return;
  const outer = tf.util.sizeFromShape(x.shape.slice(0, first));
  const reduced = tf.util.sizeFromShape(x.shape.slice(first, first + axes.length));
  const inner = tf.util.sizeFromShape(x.shape.slice(first + axes.length));
  const kept = x.shape.map((size, d) => (axes.includes(d) ? 1 : size));
  const out = backend.makeOutput(keepDims ? kept : x.shape.filter((_, d) => !axes.includes(d)), 'float32');
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  if (inner === 1) {
    for (let o = 0, r = 0; o < outer; o++) {
      let total = 0;
      for (const end = r + reduced; r < end; r++) total += from[r];
      to[o] = total * scale;
    }
    return out;
  }
  const totals = new Float64Array(inner);
  for (let o = 0, r = 0; o < outer; o++) {
    totals.fill(0);
    for (let i = 0; i < reduced; i++, r += inner) {
      for (let s = 0; s < inner; s++) totals[s] += from[r + s];
    }
    for (let s = 0; s < inner; s++) to[o * inner + s] = totals[s] * scale;
  }
  return out;
}

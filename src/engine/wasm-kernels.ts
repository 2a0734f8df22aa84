import * as tf from '@tensorflow/tfjs';

/**
 * Kernels that make the WebAssembly backend fit for training: those it lacks, and those that are slow or wrong in it.
 * They work on views of the WebAssembly heap; an output is allocated before any view is taken, because the heap may
 * move when it grows. Times are of one core of a 2-core server, in milliseconds, as it comes → here.
 */
export function registerWasmKernels(): void {
  const module = (tf.backend() as unknown as Backend).wasm;
  const matMul = module.cwrap(
    '_FusedMatMul',
    null,
    ['array', 'array'].flatMap((shape) => ['number', shape, 'number']).concat(Array(7).fill('number')),
  ) as FusedMatMul;
  replace('BatchMatMul', () => (args) => {
    const { a, b } = args.inputs;
    const { transposeA, transposeB } = args.attrs as { transposeA: boolean; transposeB: boolean };
    return batchMatMul(args.backend, matMul, a, b, transposeA, transposeB);
  });
  replace('_FusedMatMul', (original) => (args) => {
    const { a, b, bias } = args.inputs;
    const { transposeA, transposeB, activation } = args.attrs as {
      transposeA: boolean;
      transposeB: boolean;
      activation: string;
    };
    if (activation !== 'linear') return original!(args);
    return batchMatMul(args.backend, matMul, a, b, transposeA, transposeB, bias);
  });
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
  wasm: {
    cwrap(name: string, returns: null, takes: string[]): unknown;
    tfjs: { registerTensor(id: number, size: number, offset: number): void; disposeData(id: number): void };
    HEAPU8: Uint8Array;
  };
  dataIdMap: { get(dataId: object): { id: number; memoryOffset: number } };
  dataIdNextNumber: number;
  makeOutput(shape: number[], dtype: tf.DataType): tf.TensorInfo;
  typedArrayFromHeap(info: tf.TensorInfo): Float32Array | Int32Array | Uint8Array;
  disposeData(dataId: object): boolean;
}

interface Args {
  inputs: Record<string, tf.TensorInfo>;
  attrs: unknown;
  backend: Backend;
}
type Kernel = (args: Args) => tf.TensorInfo;

/** Registers a kernel in the place of the backend's own, which `make` gets to hand cases on to. */
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

type FusedMatMul = (
  a: number,
  aShape: Uint8Array,
  aRank: number,
  b: number,
  bShape: Uint8Array,
  bRank: number,
  transposeA: number,
  transposeB: number,
  activation: number,
  bias: number,
  prelu: number,
  alpha: number,
  out: number,
) => void;

/**
 * The backend reaches its fast routine (XNNPACK) only for one pair of untransposed matrices; everything else falls to
 * a plain loop 15 times slower, which moreover reads past a batch of one that should be broadcast. So transposed
 * operands are written out, and a batch becomes a loop over views of its matrices.
 * XNNPACK's packed copy of `b` is cached by tensor id alone, wrong for the same data under two shapes: each view has
 * an id of its own and takes its cache with it.
 */
function batchMatMul(
  backend: Backend,
  matMul: FusedMatMul,
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  transposeA: boolean,
  transposeB: boolean,
  bias?: tf.TensorInfo,
): tf.TensorInfo {
  if (a.dtype !== 'float32' || b.dtype !== 'float32') {
    throw new Error(`matMul takes float32, not ${a.dtype} and ${b.dtype}`);
  }
  const [m, ka] = matrixShape(a, transposeA);
  const [kb, n] = matrixShape(b, transposeB);
  if (ka !== kb) throw new Error(`matMul: inner dimensions of [${a.shape}] and [${b.shape}] differ`);
  if (bias && tf.util.sizeFromShape(bias.shape) !== n) {
    throw new Error(`matMul: a bias of [${bias.shape}] does not fit ${n} columns`);
  }
  const batchA = a.shape.slice(0, -2);
  const batchB = b.shape.slice(0, -2);
  const batch = tf.broadcast_util.assertAndGetBroadcastShape(batchA, batchB);
  const count = tf.util.sizeFromShape(batch);
  const out = backend.makeOutput([...batch, m, n], 'float32');
  if (count * m * n === 0) return out;
  if (ka === 0) {
    backend.typedArrayFromHeap(out).fill(0);
    if (!bias) return out;
    throw new Error('matMul: nothing to sum over');
  }
  const left = transposeA ? transposeMatrices(backend, a) : a;
  const right = transposeB ? transposeMatrices(backend, b) : b;

  const whole = tf.util.sizeFromShape(batchB) === 1 && tf.util.sizeFromShape(batchA) === count;
  const rows = whole ? count * m : m;
  const indexA = batchIndices(batchA, batch);
  const indexB = batchIndices(batchB, batch);
  const [atA, atB, atOut] = [left, right, out].map((t) => backend.dataIdMap.get(t.dataId).memoryOffset);
  const aShape = new Uint8Array(new Int32Array([1, rows, ka]).buffer);
  const bShape = new Uint8Array(new Int32Array([1, ka, n]).buffer);
  const biasId = bias ? view(backend, n, backend.dataIdMap.get(bias.dataId).memoryOffset) : 0;
  for (let i = 0; i < (whole ? 1 : count); i++) {
    const aId = view(backend, rows * ka, atA + 4 * indexA[i] * m * ka);
    const bId = view(backend, ka * n, atB + 4 * indexB[i] * ka * n);
    const outId = view(backend, rows * n, atOut + 4 * i * m * n);
    matMul(aId, aShape, 3, bId, bShape, 3, 0, 0, 0, biasId, 0, 0, outId);
    for (const id of [aId, bId, outId]) backend.wasm.tfjs.disposeData(id);
  }
  if (bias) backend.wasm.tfjs.disposeData(biasId);
  if (left !== a) backend.disposeData(left.dataId);
  if (right !== b) backend.disposeData(right.dataId);
  return out;
}

/** [rows, columns] of the matrices in a batch, as the product sees them. */
function matrixShape({ shape }: tf.TensorInfo, transposed: boolean): [number, number] {
  const [rows, columns] = shape.slice(-2);
  return transposed ? [columns, rows] : [rows, columns];
}

/** An id under which WebAssembly code knows `size` floats at `offset`; `disposeData` forgets it and frees nothing. */
function view(backend: Backend, size: number, offset: number): number {
  const id = backend.dataIdNextNumber++;
  backend.wasm.tfjs.registerTensor(id, size, offset);
  return id;
}

/** For each matrix of the broadcast batch, which matrix of an operand it takes. */
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

/** Side of the square that a transpose reads and writes at a time, so that both stay in the first-level cache. */
const TILE = 16;

/** Swaps the last two axes. */
function transposeMatrices(backend: Backend, x: tf.TensorInfo): tf.TensorInfo {
  const [rows, columns] = x.shape.slice(-2);
  const out = backend.makeOutput([...x.shape.slice(0, -2), columns, rows], 'float32');
  const from = backend.typedArrayFromHeap(x);
  const to = backend.typedArrayFromHeap(out);
  for (let base = 0; base < from.length; base += rows * columns) {
    for (let r0 = 0; r0 < rows; r0 += TILE) {
      const r1 = Math.min(r0 + TILE, rows);
      for (let c0 = 0; c0 < columns; c0 += TILE) {
        const c1 = Math.min(c0 + TILE, columns);
        for (let c = c0; c < c1; c++) {
          for (let r = r0, w = base + c * rows + r0; r < r1; r++, w++) to[w] = from[base + r * columns + c];
        }
      }
    }
  }
  return out;
}

/** Rows copied whole instead of element by element. 2,048 rows of 128: 18.9 → 0.2. */
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

/** Rows of x [..., inner] summed into the segment that each names; ids outside [0, numSegments) are left out. */
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
 * `scale` times the sum over neighbouring axes, accumulated in double precision, without the transpose that the
 * backend makes for other than the last axes. [4096, 128] over the first axis: 5.6 → 0.6.
 * Undefined for axes that do not lie side by side, and for other types.
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

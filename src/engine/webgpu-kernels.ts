import * as tf from '@tensorflow/tfjs';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';

/** Replaces kernels of the WebGPU backend that are wrong; it lacks none that training needs. */
export function registerWebgpuKernels(): void {
  const kernelName = 'UnsortedSegmentSum';
  tf.unregisterKernel(kernelName, 'webgpu');
  tf.registerKernel({
    kernelName,
    backendName: 'webgpu',
    kernelFunc: unsortedSegmentSum as unknown as tf.KernelFunc,
  });
}

interface Args {
  inputs: Record<string, tf.TensorInfo>;
  attrs: unknown;
  backend: WebGPUBackend;
}

type Program = Parameters<WebGPUBackend['runWebGPUProgram']>[0];

const WORKGROUP = 64;

/**
 * Rows of x [..., inner] summed by segment id. Rows with ids outside [0, numSegments) are left out; the backend's own
 * kernel wraps them around into other segments. This one also adds in memory order, without the backend's transposes of
 * x and of the whole sum.
 */
function unsortedSegmentSum({ inputs, attrs, backend }: Args): tf.TensorInfo {
  const { x, segmentIds } = inputs;
  const { numSegments } = attrs as { numSegments: number };
  const innerShape = x.shape.slice(segmentIds.shape.length);
  const inner = tf.util.sizeFromShape(innerShape);
  const size = tf.util.sizeFromShape(x.shape);
  const shape = [numSegments, ...innerShape];
  const { kernelFunc: fill } = tf.getKernel('Fill', 'webgpu');
  const sum = fill({ inputs: {}, attrs: { shape, value: 0, dtype: x.dtype }, backend }) as tf.TensorInfo;
  if (size === 0) return sum;
  const program: Program = {
    outputShape: shape,
    variableNames: ['x', 'ids'],
    uniforms: 'xSize : i32, inner : i32, segments : i32,',
    workgroupSize: [WORKGROUP, 1, 1],
    dispatchLayout: { x: [0] },
    dispatch: [Math.ceil(size / WORKGROUP), 1, 1],
    atomic: true,
    shaderKey: 'realmUnsortedSegmentSum',
    getUserCode: () => SEGMENT_SUM[x.dtype as 'float32' | 'int32'],
  };
  const uniforms = [size, inner, numSegments].map((n) => ({ type: 'int32', data: [n] }));
  return backend.runWebGPUProgram(program, [x, segmentIds], x.dtype, uniforms, sum);
}

/** WebGPU has atomic addition only for integers: for a float, compare-and-exchange is repeated until no other thread interfered. */
const SEGMENT_SUM = {
  int32: segmentSum('atomicAdd(&result[at], x[index]);'),
  float32: segmentSum(`
    var old = atomicLoad(&result[at]);
    loop {
      let tried = atomicCompareExchangeWeak(&result[at], old, bitcast<i32>(bitcast<f32>(old) + x[index]));
      if (tried.exchanged) { break; }
      old = tried.old_value;
    }`),
};

function segmentSum(add: string): string {
  return `
    fn main(index : i32) {
      if (index >= uniforms.xSize) { return; }
      let segment = ids[index / uniforms.inner];
      if (segment < 0 || segment >= uniforms.segments) { return; }
      let at = segment * uniforms.inner + index % uniforms.inner;
      ${add}
    }`;
}

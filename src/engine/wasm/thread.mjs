/** A worker started by ../wasm-fused.ts: an instance of the kernels that waits for parts of the main thread's work. */
import { workerData } from 'node:worker_threads';
import { instantiate } from './instantiate.mjs';

const onlyMain = () => {
  throw new Error('this is for the main thread');
};
const host = {
  fail: onlyMain,
  noMemory: onlyMain,
  operation: onlyMain,
  attribute: onlyMain,
  output: onlyMain,
  malloc: onlyMain,
  free: onlyMain,
};
const { exports } = instantiate(workerData.kernels, workerData.thread, host);
exports.becomeWorker();
try {
  exports.serve(); // until the process ends
} catch {
  exports.giveUp();
}

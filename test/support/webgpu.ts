import type { TestContext } from 'node:test';
import { startEngine } from '../../src/engine.ts';
import { UserError } from '../../src/system/errors.ts';

/** Starts WebGPU; without an adapter it skips the test with a reason and returns false. */
export async function webgpuOrSkip(t: TestContext): Promise<boolean> {
  try {
    await startEngine('webgpu');
    return true;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    t.skip(error.message);
    return false;
  }
}

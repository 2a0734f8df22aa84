import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { leave, onStop } from '../system/stop.ts';
import { findInstalled, lastFailure, root } from './installed.mjs';

/**
 * Runs scripts/engine.mjs, which writes to this process's stderr.
 * A signal during this time stops the script first, then this process.
 * @returns its exit code
 */
export async function runEngineScript(...args: string[]): Promise<number> {
  const script = join(root, 'scripts', 'engine.mjs');
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  const end = () => child.kill('SIGTERM');
  let stopped = false;
  const forget = onStop(() => {
    if (stopped) leave();
    stopped = true;
    end();
  });
  process.on('exit', end);
  try {
    return await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? 1));
    });
  } finally {
    process.off('exit', end);
    forget();
    if (stopped) leave('the engine is not installed; the same command installs it again');
  }
}

/**
 * Installs the native engine if no installation was tried yet: npm may be set up to run no install scripts.
 * A failure is recorded, so that this happens only once; `startEngine` then reports it.
 */
export async function installOnFirstUse(): Promise<void> {
  if (!findInstalled() && lastFailure() === undefined) await runEngineScript('install', '--first-use');
}

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { findInstalled, lastFailure, root } from './installed.mjs';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Runs scripts/engine.mjs, which writes to this process's stderr.
 * A signal that comes meanwhile ends first the script and then this process.
 * @returns its exit code
 */
export async function runEngineScript(...args: string[]): Promise<number> {
  const script = join(root, 'scripts', 'engine.mjs');
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  let received: NodeJS.Signals | undefined;
  const forward = (signal: NodeJS.Signals) => {
    received = signal;
    child.kill(signal);
  };
  const end = () => child.kill('SIGTERM');
  for (const signal of SIGNALS) process.on(signal, forward);
  process.on('exit', end);
  try {
    return await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? 1));
    });
  } finally {
    process.off('exit', end);
    for (const signal of SIGNALS) process.off(signal, forward);
    if (received) process.kill(process.pid, received);
  }
}

/**
 * Installs the native engine where no installation was tried yet: npm may have been told to run no scripts.
 * A failure is kept, so that this happens once; `startEngine` then reports it.
 */
export async function installOnFirstUse(): Promise<void> {
  if (!findInstalled() && lastFailure() === undefined) await runEngineScript('install', '--first-use');
}

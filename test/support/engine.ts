import type { EngineName } from '../../src/engine.ts';
import { startEngine } from '../../src/engine.ts';

/** Starts the engine named by REALM_ENGINE (default auto); to be called in a `before`. */
export function startTestEngine() {
  return startEngine((process.env.REALM_ENGINE ?? 'auto') as 'auto' | EngineName);
}

import type { EngineName } from '../../src/engine.ts';
import { startEngine } from '../../src/engine.ts';

/** Starts the engine that REALM_ENGINE names (default auto); call it in a `before`. */
export function startTestEngine() {
  return startEngine((process.env.REALM_ENGINE ?? 'auto') as 'auto' | EngineName);
}

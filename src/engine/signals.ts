import { createRequire } from 'node:module';
import { listenWhileBlocked, type SignalCounter } from '../system/stop.ts';
import { findInstalled, signalsDigest } from './installed.mjs';

/**
 * Handles signals while the main thread computes, if the native engine is installed.
 * @returns false if its addon for this is missing, from another version, or does not load: then signals are handled
 * only by the event loop
 */
export function hearSignalsWhileComputing(): boolean {
  const addon = findInstalled()?.signals;
  if (addon?.source !== signalsDigest()) return false;
  try {
    listenWhileBlocked(createRequire(import.meta.url)(addon.file) as SignalCounter);
    return true;
  } catch {
    return false;
  }
}

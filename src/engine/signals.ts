import { createRequire } from 'node:module';
import { listenWhileBlocked, type SignalCounter } from '../system/stop.ts';
import { findInstalled, signalsDigest } from './installed.mjs';

/**
 * Lets signals be heard while the main thread computes, where the native engine is installed.
 * @returns false where its addon for that is missing, of another version, or does not load: then signals are heard
 * between two turns of the event loop
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

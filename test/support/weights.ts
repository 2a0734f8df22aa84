import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../src/system/errors.ts';

// The fixtures of scripts/fixtures/weights.py and tensorflow.py.

export function weightsPath(name: string): string {
  return join(import.meta.dirname, '../fixtures/weights', name);
}

export function userError(message: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof UserError, String((error as Error)?.stack ?? error));
    assert.match(error.message, message);
    return true;
  };
}

/** Bytes between two damaged positions. All positions were tried once; that takes minutes. */
const STRIDE = 7;

/** Runs `read` on copies of a file that are truncated or have changed bytes: it may succeed or refuse, nothing else. */
export function damage(source: string, copy: string, read: () => void): void {
  const bytes = readFileSync(source);
  const survives = (what: string, torn: Uint8Array) => {
    writeFileSync(copy, torn);
    try {
      read();
    } catch (error) {
      if (!(error instanceof UserError)) throw new Error(`${what}: ${(error as Error).stack}`);
    }
  };
  const changes = [(b: number) => b ^ 0xff, (b: number) => b ^ 0x80, (b: number) => b ^ 0x01, () => 0];
  for (let at = 0; at < bytes.length; at += STRIDE) {
    survives(`cut to ${at} bytes`, bytes.subarray(0, at));
    const torn = Buffer.from(bytes);
    torn[at] = changes[at % changes.length](bytes[at]);
    survives(`byte ${at} is ${torn[at]}`, torn);
  }
}

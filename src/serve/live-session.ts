import { modelFingerprint } from '../run/fingerprints.ts';
import type { Run } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';

/** The run cannot answer yet, for the reason that the message tells. */
export class NotReady extends Error {
  override name = 'NotReady';
}

/** A model with its index, opened. */
export interface Opened {
  close(): void | Promise<void>;
}

export interface Live<T extends Opened> {
  /** What the run has now: opened anew where it has changed. `NotReady` where the run has nothing to open yet. */
  get(): Promise<T>;
  /** Undefined when `get` gives one, as far as is known without opening; else what is missing. */
  missing(): string | undefined;
  close(): Promise<void>;
}

/** Milliseconds between two looks at the run folder, and until what could not be opened is tried again though nothing changed. */
const LOOK_EVERY = 1000;
const TRY_EVERY = 10_000;

/**
 * Keeps `open`'s result for as long as the run's checkpoints, index and settings stay as they are. Where the new one
 * cannot be opened (a stage may be between its checkpoint and the index of it) the old one goes on answering.
 * Calls of `get` must not overlap.
 */
export function liveSession<T extends Opened>(
  run: Run,
  open: () => Promise<T>,
  say: (line: string) => void,
): Live<T> {
  let opened: T | undefined;
  let stamp: string | undefined;
  let failure: string | undefined;
  let looked = -Infinity;
  let tried = -Infinity;

  const renew = async (): Promise<void> => {
    const now = modelFingerprint(run);
    if (now === stamp && (failure === undefined || performance.now() - tried < TRY_EVERY)) return;
    try {
      const next = await open();
      if (opened) say('a new model or index is in use');
      const old = opened;
      opened = next;
      failure = undefined;
      await old?.close();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      failure = error.message;
      if (opened) say(`questions are still answered by the model before: ${failure}`);
    }
    stamp = now;
    tried = performance.now();
  };

  return {
    async get() {
      if (performance.now() - looked > LOOK_EVERY) {
        await renew();
        looked = performance.now();
      }
      if (opened) return opened;
      throw new NotReady(failure);
    },
    missing: () => (opened ? undefined : (failure ?? 'the model is not open yet')),
    async close() {
      await opened?.close();
      opened = undefined;
    },
  };
}

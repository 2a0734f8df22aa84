import { modelFingerprint } from '../run/fingerprints.ts';
import type { Run } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';

/** The run cannot answer yet; the message says why. */
export class NotReady extends Error {
  override name = 'NotReady';
}

/** A model with its index, opened. */
export interface Opened {
  close(): void | Promise<void>;
}

export interface Live<T extends Opened> {
  /** The run's current model, opened again if it has changed. Throws `NotReady` if there is nothing to open yet. */
  get(): Promise<T>;
  /** What is missing; undefined if `get` should succeed, as far as is known without opening. */
  missing(): string | undefined;
  close(): Promise<void>;
}

/** Between two checks of the run folder. */
const CHECK_MILLISECONDS = 1000;
/** Until a model that could not be opened is tried again, even if the folder has not changed. */
const RETRY_MILLISECONDS = 10_000;

/**
 * Keeps `open`'s result until the run's checkpoints, index or settings change. If the new model cannot be opened (a stage
 * may have written its checkpoint but not its index yet), the old one keeps answering.
 */
export function liveSession<T extends Opened>(
  run: Run,
  open: () => Promise<T>,
  say: (line: string) => void,
): Live<T> {
  let opened: T | undefined;
  let fingerprint: string | undefined;
  let failure: string | undefined;
  let checked = -Infinity;
  let tried = -Infinity;
  let checking: Promise<void> | undefined;

  const reopenIfChanged = async (): Promise<void> => {
    const now = modelFingerprint(run);
    if (now === fingerprint && (failure === undefined || performance.now() - tried < RETRY_MILLISECONDS))
      return;
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
      if (opened) say(`the previous model still answers questions: ${failure}`);
    }
    fingerprint = now;
    tried = performance.now();
  };

  return {
    async get() {
      if (performance.now() - checked > CHECK_MILLISECONDS) {
        // Calls that overlap wait for one check: none gets a model that is closed before it can be used.
        checking ??= reopenIfChanged()
          .then(() => {
            checked = performance.now();
          })
          .finally(() => {
            checking = undefined;
          });
        await checking;
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

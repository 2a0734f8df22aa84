import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { mock, test } from 'node:test';
import { UserError } from '../../src/system/errors.ts';
import { eventFile } from '../../src/train/tensorboard.ts';
import { readEvents } from '../support/events.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('tensorboard');
const names = (dir: string) => readdirSync(dir).sort();

function atTime<T>(milliseconds: number, f: () => T): T {
  const now = mock.method(Date, 'now', () => milliseconds);
  try {
    return f();
  } finally {
    now.mock.restore();
  }
}

// Written by TensorBoard 2.21.0 (tensorboard/summary/writer/record_writer.py with its own event_pb2 and summary_pb2): the
// events of the test below, all at the wall time 1764340000.25. Files of whole runs, including stopped and resumed ones,
// were read back with its EventAccumulator and its data server, and gave the steps and values of the JSONL.
const WRITTEN_BY_TENSORBOARD =
  'GAAAAAAAAACjf0siCQAAEEhsStpBGg1icmFpbi5FdmVudDoy0Br4eA8AAAAAAAAAbVMrCQkAABBIbEraQRAHOgIIAbOWYzxEAAAAAAAAAENZLp' +
  'oJAAAQSGxK2kEQrAIqNgoLCgRsb3NzFQAAKEAKFwoQcmV0cmlldmFsVXRpbGl0eRXNzMy9Cg4KB3NraXBwZWQVAAAAABEaXKg=';

test("an event file is byte-identical to that of TensorBoard's own writer", () => {
  const dir = join(folder, 'bytes');
  atTime(1_764_340_000_250, () =>
    eventFile(dir, 6).write({
      step: 300,
      loss: 2.625,
      retrievalUtility: -0.1,
      skipped: 0,
      note: 'no number',
    }),
  );
  assert.deepEqual(names(dir), [`events.out.tfevents.1764340000.${hostname()}`]);
  assert.equal(readFileSync(join(dir, names(dir)[0])).toString('base64'), WRITTEN_BY_TENSORBOARD);
});

test('a resumed process writes a new file, read after the others, which invalidates the steps done again', () => {
  const dir = join(folder, 'resumed');
  const write = (done: number, ...steps: number[]) => {
    const events = eventFile(dir, done);
    for (const step of steps) events.write({ step, loss: done + step / 10 });
  };
  atTime(2e12, () => write(0, 2, 4, 6));
  const first = names(dir)[0];
  const bytes = readFileSync(join(dir, first));
  truncateSync(join(dir, first), bytes.length - 3); // killed in the middle of a record
  atTime(1e12, () => write(2, 4, 6)); // the clock was set back
  atTime(2e12, () => write(4)); // stopped before it logged anything
  atTime(2e12, () => write(4, 6, 8));
  assert.deepEqual(
    names(dir),
    [2e9, 2e9 + 1, 2e9 + 2].map((s) => `events.out.tfevents.${s}.${hostname()}`),
  );
  const { loss } = readEvents(dir);
  assert.deepEqual(
    loss.map(([step, value]) => [step, Number(value.toFixed(4))]),
    [
      [2, 0.2],
      [4, 2.4],
      [6, 4.6],
      [8, 4.8],
    ],
  );
});

test('a stage that starts from scratch removes the earlier event files, and nothing else', () => {
  const dir = join(folder, 'scratch');
  eventFile(dir, 0).write({ step: 1, loss: 1 });
  writeFileSync(join(dir, 'notes.txt'), 'mine');
  const events = eventFile(dir, 0);
  assert.deepEqual(names(dir), ['notes.txt']);
  events.write({ step: 1, loss: 2 });
  assert.deepEqual(readEvents(dir).loss, [[1, 2]]);
});

test('a folder that cannot be written gives a one-sentence error', () => {
  const dir = join(folder, 'file');
  writeFileSync(dir, '');
  assert.throws(
    () => eventFile(dir, 0).write({ step: 1, loss: 1 }),
    (error) => error instanceof UserError && error.message.startsWith(dir),
  );
});

test('a folder that was moved away before the first record gives an error, and is not created again', () => {
  const dir = join(folder, 'moved');
  const events = eventFile(dir, 0);
  renameSync(dir, `${dir}-elsewhere`);
  assert.throws(() => events.write({ step: 1, loss: 1 }), { code: 'ENOENT' });
  assert.ok(!existsSync(dir));
});

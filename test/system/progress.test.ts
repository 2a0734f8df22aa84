import assert from 'node:assert/strict';
import { beforeEach, describe, mock, test } from 'node:test';
import { duration, mebibytes, progress, say } from '../../src/system/progress.ts';

/** Seconds on the clock that progress reads. */
let clock = 0;
mock.method(performance, 'now', () => 1000 * clock);
beforeEach(() => {
  clock = 0;
});
mock.method(process.memoryUsage, 'rss', () => 512 * 2 ** 20);

/** A stream that is not a terminal, and the lines written to it. */
function plain(more: object = {}) {
  let text = '';
  const stream = { isTTY: false, write: (piece: string) => (text += piece), ...more };
  return { stream: stream as unknown as NodeJS.WriteStream, text: () => text };
}

describe('plain lines', () => {
  test('one is printed every ten seconds, with the remark and the time left', () => {
    const { stream, text } = plain();
    const bar = progress('index', 100, { from: 0 }, stream);
    for (; clock < 30; clock++) bar.at(clock + 1, `loss ${clock}`);
    // After 10 s 11 of 100 are done: 89 are left at 10/11 s each; after 20 s 21, 79 at 20/21 s.
    assert.equal(
      text(),
      'index: 11/100 loss 10, 512 MiB, 1 min 21 s left\nindex: 21/100 loss 20, 512 MiB, 1 min 15 s left\n',
    );
  });

  test('the last one is printed at once, only once, and says how long it took', () => {
    const { stream, text } = plain();
    const bar = progress('index', 3, { from: 0 }, stream);
    clock = 2;
    bar.at(2);
    bar.at(3, 'done');
    clock = 60;
    bar.at(3, 'done');
    bar.end();
    assert.equal(text(), 'index: 3/3 done, 512 MiB, in 2 s\n');
  });

  test('the work of an earlier run does not count in the time left', () => {
    const { stream, text } = plain();
    const bar = progress('train', 1000, { from: 900 }, stream);
    clock = 10;
    bar.at(900);
    clock = 20;
    bar.at(920); // 20 steps in 20 s, 80 to come
    assert.equal(text(), 'train: 900/1000, 512 MiB, ? left\ntrain: 920/1000, 512 MiB, 1 min 20 s left\n');
  });

  test('the speed is printed, in examples if a step has several, and the share for bytes', () => {
    const { stream, text } = plain();
    const bar = progress('train', 100, { from: 50, unit: 'examples', each: 8 }, stream);
    const bytes = progress('read', 2 ** 31, { unit: 'bytes' }, stream);
    clock = 20;
    bar.at(60); // 10 steps of 8 in 20 s
    bytes.at(2 ** 29, '7 documents'); // 512 MiB in 20 s
    assert.equal(
      text(),
      'train: 60/100, 4 examples/s, 512 MiB, 1 min 20 s left\n' +
        'read: 25 % 7 documents, 25.6 MiB/s, 512 MiB, 1 min 0 s left\n',
    );
  });

  test('an interrupted stage prints no last line', () => {
    const { stream, text } = plain();
    progress('train', 10, { from: 0 }, stream).end();
    assert.equal(text(), '');
  });
});

test('a terminal gets a bar that shows name, share, remark and time left', () => {
  const terminal = { isTTY: true, columns: 120, cursorTo() {}, clearLine() {}, moveCursor() {}, once() {} };
  const { stream, text } = plain({ ...terminal, on() {}, removeListener() {} });
  const bar = progress('train', 40, { from: 20 }, stream);
  clock = 5;
  bar.at(30, 'loss 1.50');
  bar.end();
  assert.match(text(), /train {10}█+░* 20\/40 {2}\(512 MiB, \? left\)/u);
  assert.match(text(), /train {10}█+░* 30\/40 loss 1\.50 \(512 MiB, 5 s left\)/u);
});

test('sizes are printed in the larger unit', () => {
  assert.deepEqual([0, 2 ** 19, 3 * 2 ** 20, 1500 * 2 ** 20].map(mebibytes), [
    '0 MiB',
    '0.5 MiB',
    '3 MiB',
    '1.5 GiB',
  ]);
});

test('durations are printed in their two largest units', () => {
  assert.deepEqual([0, 59.4, 59.6, 200, 3599, 3600, 18_720].map(duration), [
    '0 s',
    '59 s',
    '1 min 0 s',
    '3 min 20 s',
    '59 min 59 s',
    '1 h 0 min',
    '5 h 12 min',
  ]);
});

test('say writes one line to stderr and nothing to stdout', (t) => {
  const [err, out] = [process.stderr, process.stdout].map((stream) =>
    t.mock.method(stream, 'write', () => true),
  );
  say('engine: one');
  assert.deepEqual(
    err.mock.calls.map((call) => call.arguments),
    [['engine: one\n']],
  );
  assert.equal(out.mock.callCount(), 0);
  err.mock.restore();
  out.mock.restore();
});

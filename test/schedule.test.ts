import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../src/config.ts';
import { dueAt, everyTimes, isSchedule, type Schedule, timesDue } from '../src/schedule.ts';

/** The steps from 1 to `end` after which something is due. */
function dues(schedule: Schedule, end: number): number[] {
  const due = dueAt(schedule);
  return Array.from({ length: end }, (_, i) => i + 1).filter(due);
}

test('a number n is due every n steps', () => {
  assert.deepEqual(dues(3, 10), [3, 6, 9]);
  assert.equal(timesDue(3, 10), 3);
});

test('each part of a schedule counts from its start, and its end is inclusive', () => {
  assert.deepEqual(dues('0-6:2,6-:5', 22), [2, 4, 6, 11, 16, 21]);
  assert.deepEqual(dues('0-7:3, 7-9:1', 20), [3, 6, 8, 9]);
  assert.deepEqual(dues('10-:4', 20), [14, 18]);
});

test('the count of due steps equals the number of steps that are due', () => {
  for (const schedule of ['0-6:2,6-:5', '0-7:3,7-9:1', '10-:4', '0-1000:500,1000-:1000']) {
    for (const steps of [0, 1, 6, 7, 8, 21, 999, 1000, 2000, 2500])
      assert.equal(timesDue(schedule, steps), dues(schedule, steps).length, `${schedule} ${steps}`);
  }
});

test('parts with gaps, that go backwards or are never due, are not a schedule', () => {
  for (const bad of [
    '',
    '5',
    '0-10',
    '0-10:0',
    '10-5:1',
    '0-10:2,11-:3',
    '0-:2,10-20:3',
    '0-10:2;10-:3',
    'a-b:c',
    '0-1e3:5',
  ])
    assert.equal(isSchedule(bad), false, bad);
  assert.throws(
    () => loadConfig(undefined, ['refresh.every=0-10:2,11-:3']),
    /refresh\.every: .*0-1000:500,1000-:2000.*, got "0-10:2,11-:3"/,
  );
  assert.equal(
    loadConfig(undefined, ['refresh.every=0-1000:500,1000-:2000']).refresh.every,
    '0-1000:500,1000-:2000',
  );
});

test('a schedule with more steps between keeps its parts', () => {
  assert.equal(everyTimes(40, 30), 1200);
  assert.equal(everyTimes('0-6:2,6-:5', 3), '0-6:6,6-:15');
  assert.deepEqual(dues(everyTimes('0-6:2, 6-:5', 3), 40), [6, 21, 36]);
});

import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readLog } from '../../src/report/log.ts';

const root = mkdtempSync(join(tmpdir(), 'realm-log-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** Steps of a log's records; `taken` counts the records read from the file. */
let taken = 0;
const steps = (path: string) =>
  readLog(path, () => {
    const result: unknown[] = [];
    return {
      result,
      take({ step }) {
        taken++;
        result.push(step);
      },
    };
  });

test('a growing log is read from where the last read ended, a replaced one from its start', () => {
  const path = join(root, 'growing.jsonl');
  assert.equal(steps(path), undefined);
  writeFileSync(path, '{"step":1}\n{"step":2}\n{"st');
  assert.deepEqual(steps(path), [1, 2]);
  appendFileSync(path, 'ep":3}\n{"step":4}');
  taken = 0;
  assert.deepEqual(steps(path), [1, 2, 3, 4]);
  assert.equal(taken, 2);
  appendFileSync(path, '\n{"step":5}\n');
  assert.deepEqual(steps(path), [1, 2, 3, 4, 5]);
  writeFileSync(
    `${path}.new`,
    '{"step":1}\n{"step":2}\n{"step":30}\n{"step":40}\n{"step":50}\n{"step":60}\n',
  );
  renameSync(`${path}.new`, path);
  assert.deepEqual(steps(path), [1, 2, 30, 40, 50, 60]);
  writeFileSync(path, '{"step":7}\n');
  assert.deepEqual(steps(path), [7]);
});

test('lines that are not records, or are longer than one read, are skipped', () => {
  const path = join(root, 'damaged.jsonl');
  const long = `{"step":2,"text":"${'x'.repeat(9 << 20)}"}`;
  writeFileSync(path, `{"step":1}\n${long}\nnull\n[3]\n"4"\n\n{"step":5,\n\0\n{"step":6}\n{"step":`);
  assert.deepEqual(steps(path), [1, 6]);
});

test('a folder instead of a log counts as no log', () => {
  mkdirSync(join(root, 'folder.jsonl'));
  assert.equal(steps(join(root, 'folder.jsonl')), undefined);
});

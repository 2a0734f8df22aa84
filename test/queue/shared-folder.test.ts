import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { probeFolder } from '../../src/queue/shared-folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

test('a folder of a local disk is good, and the probe leaves nothing', () => {
  const folder = join(temporaryFolder('probe'), 'a', 'b');
  probeFolder(folder);
  probeFolder(folder);
  assert.deepEqual(readdirSync(folder), []);
});

test('a folder that cannot be written is refused with a sentence', () => {
  const file = join(temporaryFolder('probe'), 'file');
  writeFileSync(file, '');
  assert.throws(() => probeFolder(join(file, 'x')), UserError);
  assert.throws(() => probeFolder('/proc/realm'), UserError);
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { findInstalled } from '../../src/engine/installed.mjs';

const SCRIPT = join(import.meta.dirname, '../../scripts/gpu-check.sh');

function check(...options: string[]) {
  const { status, stdout, stderr } = spawnSync(
    'bash',
    [SCRIPT, '--sizes', 'tiny', '--steps', '2', ...options],
    {
      encoding: 'utf8',
      env: { ...process.env, NODE: process.execPath },
    },
  );
  return { status, stdout, stderr };
}

test('two engines take the same steps; a tolerance that they do not keep fails', (t) => {
  if (!findInstalled()) return t.skip('the native engine is not built');
  const both = ['--engine', 'tensorflow', '--reference', 'wasm'];
  const { status, stdout, stderr } = check(...both);
  assert.equal(status, 0, stdout + stderr);
  assert.match(
    stdout,
    /a: native TensorFlow[\s\S]*b: WebAssembly[\s\S]*qa [\s\S]*\nagreed: the largest difference/,
  );
  const strict = check(...both, '--tolerance', '0');
  assert.equal(strict.status, 1);
  assert.match(strict.stdout, /\nDIFFERENT: the largest difference/);
});

test('an unknown size is refused with the names of those that exist', () => {
  const { status, stderr } = check('--sizes', 'tiny,huge');
  assert.notEqual(status, 0);
  assert.match(stderr, /--sizes huge: no such size; there are tiny, mini, small/);
});

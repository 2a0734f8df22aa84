import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { queueAddress, queueTrouble, shownAddress } from '../../src/queue/address.ts';
import { UserError } from '../../src/system/errors.ts';
import { withoutPassword } from '../../src/system/passwords.ts';

test('an address is redis:// or rediss://, with its password or that of the variable', () => {
  assert.equal(queueAddress('redis://host').href, 'redis://host');
  assert.equal(queueAddress('rediss://user:p%40ss@host:6380/2', 'other').password, 'p%40ss');
  const url = queueAddress('redis://host:6379', 'p@ss');
  assert.equal(decodeURIComponent(url.password), 'p@ss');
  assert.equal(shownAddress(url), 'redis://host:6379');
  for (const wrong of ['host:6379', 'http://host', 'redis://', 'redis:host', 'x', ''])
    assert.throws(() => queueAddress(wrong), UserError, wrong);
});

test('no message shows a password', () => {
  const url = queueAddress('redis://user:se%2Fcret@host:6379');
  const error = new Error('AUTH se/cret failed at redis://user:se%2Fcret@host:6379 (se%2Fcret)\nmore');
  assert.equal(queueTrouble(error, url), 'AUTH *** failed at redis://host:6379 (***)');
  assert.equal(
    withoutPassword('to redis://:x@h:1, rediss://u@h and "ftp://a:b@c/d"'),
    'to redis://h:1, rediss://h and "ftp://c/d"',
  );
  const refused = (run: () => unknown) =>
    assert.throws(run, (error) => error instanceof UserError && !/secret/.test(error.message));
  refused(() => queueAddress('http://user:secret@host'));
  for (const value of ['redis://:secret@host', 'redis://user:secret@a.very.long.name.of.a.host.example:6379'])
    refused(() => loadConfig(undefined, [`refresh.queue=${value}`]));
  assert.throws(() => loadConfig(undefined, ['refresh.queue=redis://:secret@host']), /REALM_QUEUE_PASSWORD/);
  assert.equal(
    loadConfig(undefined, ['refresh.queue=rediss://host:6380']).refresh.queue,
    'rediss://host:6380',
  );
});

import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { hostCheck, isLoopback, publicOrigin } from '../../src/serve/hosts.ts';

const refused = (host: string, ...headers: (string | undefined)[]) =>
  headers.filter((header) => !hostCheck(host)(header));

test('a server on loopback accepts only loopback names, with any port', () => {
  const good = ['127.0.0.1:8080', 'localhost', 'LocalHost:9000', '[::1]:8080', '127.9.9.9'];
  assert.deepEqual(refused('127.0.0.1', ...good), []);
  const bad = [
    undefined,
    '',
    'evil.example',
    'evil.example:8080',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '192.168.1.5',
    'localhost@evil.example',
    'evil.example#localhost',
    'localhost:80:80',
    'localhost:',
    '[::1',
    '[::2]',
    ' localhost',
    '127.0.0.1, evil.example',
    hostname() === 'localhost' ? 'evil' : hostname(),
  ];
  assert.deepEqual(refused('127.0.0.1', ...bad), bad);
});

test('a server on an address or a name accepts that too', () => {
  assert.deepEqual(refused('192.168.1.5', '192.168.1.5:8080', 'localhost'), []);
  assert.deepEqual(refused('box.example', 'BOX.example:8080'), []);
  assert.deepEqual(refused('192.168.1.5', '192.168.1.6', 'box.example'), ['192.168.1.6', 'box.example']);
});

test('a server on all addresses accepts each of them and the name of the machine', () => {
  for (const host of ['0.0.0.0', '::']) {
    assert.deepEqual(refused(host, '192.168.1.5:8080', '[fe80::1]:8080', hostname(), 'localhost'), []);
    assert.deepEqual(refused(host, 'evil.example'), ['evil.example']);
  }
});

test('loopback addresses are distinguished from addresses that other machines can reach', () => {
  assert.deepEqual(
    [
      '127.0.0.1',
      '127.1.2.3',
      '::1',
      'localhost',
      '0.0.0.0',
      '::',
      '10.0.0.1',
      '127.evil.example',
      'box',
    ].map(isLoopback),
    [true, true, true, true, false, false, false, false, false],
  );
});

test('a server behind a proxy accepts its public name too, which must be a web address without a path', () => {
  const origin = publicOrigin('https://Realm.example');
  assert.equal(hostCheck('127.0.0.1', origin)('realm.example'), true);
  assert.equal(hostCheck('127.0.0.1', origin)('evil.example'), false);
  for (const bad of [
    '',
    'realm.example',
    'ftp://realm.example',
    'https://realm.example/path',
    'https://a:b@realm.example',
    'https://realm.example?x',
  ])
    assert.throws(
      () => publicOrigin(bad),
      /^UserError: --origin .*: is not a web address without a path; write it like/,
    );
});

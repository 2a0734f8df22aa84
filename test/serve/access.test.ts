import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { client, countByAddress } from '../../src/serve/addresses.ts';
import { openSessions } from '../../src/serve/sessions.ts';
import { checkedToken, newToken, tokenCheck } from '../../src/serve/token.ts';
import { answerTo, fakeServer, post } from '../support/fake-answers.ts';

const TOKEN = 'correct-horse-battery-staple';
const HOUR = 3600_000;

const guarded = (limits = {}, access = {}) =>
  fakeServer({}, { window: HOUR, ...limits }, { token: TOKEN, ...access });

const logIn = (url: string, token: string, headers: Record<string, string> = {}) =>
  fetch(`${url}/login`, {
    method: 'POST',
    body: new URLSearchParams({ token }),
    redirect: 'manual',
    headers,
  });

const errorOf = async (response: Response) => ((await response.json()) as { error: string }).error;

test('with a token every route refuses requests without it', async () => {
  const { url } = await guarded();
  const document = await fetch(`${url}/openapi.json`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const paths = Object.keys(((await document.json()) as { paths: object }).paths);
  assert.ok(paths.includes('/') && paths.includes('/api/ask'), paths.join());
  for (const path of [
    ...paths,
    '/nowhere',
    '//login',
    '/login/',
    '/%6cogin',
    '/login/../api/status',
    '/LOGIN',
  ]) {
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'OPTIONS']) {
      const response = await fetch(url + path, { method });
      // fetch itself makes /login/../api/status into /api/status.
      assert.equal(response.status, 401, `${method} ${path}`);
      assert.equal(response.headers.get('www-authenticate'), 'Bearer');
      if (method !== 'HEAD')
        assert.match(
          await errorOf(response),
          /needs its token; send the header "Authorization: Bearer TOKEN"/,
        );
    }
  }
});

test('a program sends the token as a bearer token', async () => {
  const { url } = await guarded();
  const ask = (authorization: string) =>
    fetch(`${url}/api/ask`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization },
      body: JSON.stringify({ question: 'Where?' }),
    });
  for (const good of [`Bearer ${TOKEN}`, `bearer  ${TOKEN}`]) {
    const response = await ask(good);
    assert.equal(response.status, 200);
    assert.deepEqual(await response.json(), answerTo('Where?'));
  }
  for (const bad of ['', 'Bearer', `Bearer ${TOKEN}x`, `Bearer ${TOKEN.slice(1)}`, `Basic ${TOKEN}`, TOKEN]) {
    const response = await ask(bad);
    assert.equal(response.status, 401, bad);
    assert.doesNotMatch(await response.text(), new RegExp(TOKEN));
  }
  const document = await (
    await fetch(`${url}/openapi.json`, { headers: { authorization: `Bearer ${TOKEN}` } })
  ).json();
  assert.deepEqual((document as { security: object }).security, [{ token: [] }]);
  assert.ok(!('/login' in (document as { paths: object }).paths));
});

test('a browser logs in with the form, gets a strict cookie that is not the token, and logs out', async () => {
  const { url } = await guarded();
  const browser = (path: string, cookie?: string) =>
    fetch(url + path, {
      redirect: 'manual',
      headers: { accept: 'text/html,*/*', ...(cookie && { cookie }) },
    });
  const turned = await browser('/');
  assert.deepEqual([turned.status, turned.headers.get('location')], [303, 'login']);
  const form = await browser('/login');
  assert.equal(form.status, 200);
  assert.match(
    await form.text(),
    /<form method="post" action="login">[\s\S]*<input id="token" name="token" type="password"/,
  );

  const wrong = await logIn(url, 'wrong-token-of-some-length');
  assert.equal(wrong.status, 401);
  assert.equal(wrong.headers.get('set-cookie'), null);
  const page = await wrong.text();
  assert.match(page, /This token is not right\./);
  assert.doesNotMatch(page, /wrong-token-of-some-length/);

  const right = await logIn(url, TOKEN);
  assert.deepEqual([right.status, right.headers.get('location')], [303, '.']);
  const [set] = right.headers.getSetCookie();
  const port = new URL(url).port;
  assert.match(
    set,
    new RegExp(`^realm-session-${port}=[\\w-]{43}; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict$`),
  );
  assert.doesNotMatch(set, new RegExp(TOKEN));
  const cookie = set.split(';')[0];
  const inside = await browser('/', cookie);
  assert.equal(inside.status, 200);
  assert.doesNotMatch(await inside.text(), new RegExp(TOKEN));
  assert.equal((await browser('/api/status', cookie)).status, 200);
  assert.equal((await browser('/api/status', `${cookie}x`)).status, 401);
  assert.equal((await browser('/api/status', `realm-session-${port}=${TOKEN}`)).status, 401);

  const out = await fetch(`${url}/logout`, { method: 'POST', redirect: 'manual', headers: { cookie } });
  assert.deepEqual([out.status, out.headers.get('location')], [303, 'login']);
  assert.match(out.headers.getSetCookie()[0], /Max-Age=0|Expires=Thu, 01 Jan 1970/);
  assert.equal((await browser('/api/status', cookie)).status, 401);
});

test('the cookie is only for HTTPS if the browser uses HTTPS, and its session expires', async () => {
  const { url } = await guarded({ session: 5 }, { origin: new URL('https://realm.example') });
  const behind = await logIn(url, TOKEN);
  assert.match(behind.headers.getSetCookie()[0], /; Secure/);
  await sleep(50);
  const cookie = behind.headers.getSetCookie()[0].split(';')[0];
  assert.equal((await fetch(`${url}/api/status`, { headers: { cookie } })).status, 401);
  const { url: plain } = await guarded();
  const own = plain.replace('http:', 'https:');
  assert.match((await logIn(plain, TOKEN, { origin: own })).headers.getSetCookie()[0], /; Secure/);
  assert.doesNotMatch((await logIn(plain, TOKEN, { origin: plain })).headers.getSetCookie()[0], /; Secure/);
});

test('requests from a page of another site are refused, with a token or without one', async () => {
  for (const { url } of [await guarded(), await fakeServer()]) {
    const send = (path: string, origin: string) =>
      fetch(url + path, {
        method: 'POST',
        redirect: 'manual',
        headers: { origin, 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` },
        body: JSON.stringify({ question: 'Where?' }),
      });
    const { port } = new URL(url);
    for (const origin of [
      'https://evil.example',
      'null',
      'http://localhost',
      `http://localhost:${Number(port) + 1}`,
      `http://127.0.0.1:${port}.evil.example`,
      `file://`,
    ]) {
      for (const path of ['/api/ask', '/login', '/logout']) {
        const response = await send(path, origin);
        assert.equal(response.status, 403, `${origin} ${path}`);
        assert.match(await errorOf(response), /comes from a page of another site/);
      }
    }
    assert.equal((await send('/api/ask', url)).status, 200);
  }
  const { url } = await guarded({}, { origin: new URL('https://realm.example') });
  assert.equal((await logIn(url, TOKEN, { origin: 'https://realm.example' })).status, 303);
  assert.equal((await logIn(url, TOKEN, { origin: 'http://realm.example' })).status, 403);
});

test('after ten wrong tokens a client must wait, but its sessions still work', async () => {
  const { url } = await guarded();
  const cookie = (await logIn(url, TOKEN)).headers.getSetCookie()[0].split(';')[0];
  const bearer = (token: string) =>
    fetch(`${url}/api/status`, { headers: { authorization: `Bearer ${token}` } });
  for (let i = 0; i < 5; i++) {
    assert.equal((await bearer(`wrong-token-number-${i}`)).status, 401);
    assert.equal((await logIn(url, `wrong-token-number-${i}`)).status, 401);
  }
  for (const blocked of [await bearer('wrong'), await bearer(TOKEN), await logIn(url, TOKEN)]) {
    assert.equal(blocked.status, 429);
    const wait = Number(blocked.headers.get('retry-after'));
    assert.ok(wait > 3000 && wait <= 3600, `${wait}`);
    assert.match(await blocked.text(), /too many wrong tokens; try again in \d+ s/);
    assert.equal(blocked.headers.get('set-cookie'), null);
  }
  assert.equal((await fetch(`${url}/api/status`, { headers: { cookie } })).status, 200);
  // A request without a token is not a guess.
  assert.equal((await fetch(`${url}/api/status`)).status, 401);
});

test('requests of one client are limited on every path if a limit is set, and not by default', async () => {
  for (const access of [{}, { token: TOKEN }]) {
    const { url } = await fakeServer({}, { window: HOUR, requests: 6 }, access);
    const headers = { authorization: `Bearer ${TOKEN}` };
    const statuses = [];
    for (const path of ['/api/status', '/nowhere', '/', '/openapi.json', '/%20', '/api/status'])
      statuses.push((await fetch(url + path, { headers })).status);
    assert.deepEqual(statuses, [200, 404, 200, 200, 404, 200]);
    for (const path of ['/api/status', '/login', '/nowhere']) {
      const limited = await fetch(url + path, { headers });
      assert.equal(limited.status, 429);
      const wait = Number(limited.headers.get('retry-after'));
      assert.ok(wait > 3000 && wait <= 3600, `${wait}`);
      assert.match(await errorOf(limited), /^too many requests; try again in \d+ s$/);
    }
  }
  const { url } = await fakeServer();
  for (let i = 0; i < 700; i++) assert.equal((await fetch(`${url}/api/status`)).status, 200);
});

test('a server without a token has no login', async () => {
  const { url } = await fakeServer();
  assert.equal((await fetch(`${url}/login`)).status, 404);
  assert.equal((await post(url, { question: 'Where?' })).status, 200);
});

test('a login form of a wrong type, size or content is refused', async () => {
  const { url } = await guarded();
  const send = (body: string, type: string) =>
    fetch(`${url}/login`, { method: 'POST', body, headers: { 'content-type': type }, redirect: 'manual' });
  assert.equal((await send('{"token": "x"}', 'application/json')).status, 415);
  const plain = await send('token=x', 'text/plain');
  assert.deepEqual([plain.status, await plain.json()], [415, { error: 'send the form of this page' }]);
  assert.equal((await send(`token=${'x'.repeat(5000)}`, 'application/x-www-form-urlencoded')).status, 413);
  assert.equal((await send('', 'application/x-www-form-urlencoded')).status, 401);
  assert.equal((await send('other=x', 'application/x-www-form-urlencoded')).status, 401);
});

test('tokens: generated ones differ; empty, short, long and unprintable ones are refused, and the message does not repeat them', () => {
  assert.notEqual(newToken(), newToken());
  assert.match(newToken(), /^[\w-]{43}$/);
  assert.equal(checkedToken(TOKEN, 'REALM_TOKEN'), TOKEN);
  for (const [token, why] of [
    ['', /^REALM_TOKEN: the token is empty; use 16 to 512 letters/],
    ['qwerty', /^REALM_TOKEN: the token is too short;/],
    ['x'.repeat(513), /^REALM_TOKEN: the token is too long;/],
    ['with a space in between', /^REALM_TOKEN: the token has a space or a character outside ASCII;/],
    ['ends-with-a-new-line\n', /^REALM_TOKEN: the token has a space/],
    ['schlüssel-mit-umlaut', /^REALM_TOKEN: the token has a space/],
  ] as const) {
    assert.throws(
      () => checkedToken(token, 'REALM_TOKEN'),
      ({ message }: Error) => why.test(message) && (token === '' || !message.includes(token)),
    );
  }
  const isRight = tokenCheck(TOKEN);
  assert.deepEqual([TOKEN, '', TOKEN.slice(1), `${TOKEN} `].map(isRight), [true, false, false, false]);
});

test('sessions: if there are too many, only the oldest ends', () => {
  const sessions = openSessions(HOUR);
  const secrets = Array.from({ length: 1001 }, () => sessions.start());
  assert.deepEqual([secrets[0], secrets[1], secrets[1000], undefined, ''].map(sessions.has), [
    false,
    true,
    true,
    false,
    false,
  ]);
  sessions.end(secrets[1]);
  assert.equal(sessions.has(secrets[1]), false);
});

test('clients are distinguished by IPv4 address and by the first half of an IPv6 address', async () => {
  assert.deepEqual(
    [
      '10.0.0.1',
      '::ffff:10.0.0.1',
      '2001:db8:1:2:3:4:5:6',
      '2001:0db8:1:2::9',
      '::1',
      'fe80::1%eth0',
      '1::',
    ].map(client),
    ['10.0.0.1', '10.0.0.1', '2001:db8:1:2', '2001:db8:1:2', '0:0:0:0', 'fe80:0:0:0', '1:0:0:0'],
  );
  const count = countByAddress(2, HOUR);
  await count.add('2001:db8::1');
  assert.equal(await count.wait('2001:db8::2'), undefined);
  await count.add('2001:db8::2');
  assert.ok((await count.wait('2001:db8::3'))! > 3000);
  assert.equal(await count.wait('2001:db9::3'), undefined);
});

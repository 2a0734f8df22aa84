import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { type Random, random } from '../../src/random.ts';
import { answerTo, fakeServer, post } from '../support/fake-answers.ts';

const REQUESTS = 1000;
const SEED = 7;

// Each kind writes the bytes of one request that no server should accept.

const GOOD = JSON.stringify({
  question: 'Where is the river Osk?',
  documents: [{ title: 'Osk', text: 'A river.' }],
});

interface Parts {
  method?: string;
  path?: string;
  version?: string;
  headers?: string[];
  body?: string | Buffer;
}

/** A request with a question, with some of its parts replaced. */
function request({
  method = 'POST',
  path = '/api/ask',
  version = 'HTTP/1.1',
  headers,
  body = '',
}: Parts): Buffer {
  const lines = headers ?? ['Host: localhost', 'Content-Type: application/json', length(body)];
  return Buffer.concat([
    Buffer.from(
      `${method} ${path} ${version}\r\n${[...lines, 'Connection: close'].join('\r\n')}\r\n\r\n`,
      'latin1',
    ),
    Buffer.from(body),
  ]);
}

function length(body: string | Buffer): string {
  return `Content-Length: ${Buffer.byteLength(body)}`;
}

const word = (r: Random) =>
  Array.from({ length: 1 + r.int(12) }, () => r.pick([...'abcdefgh-XYZ019'])).join('');
const bytes = (r: Random, n: number) => Buffer.from(Array.from({ length: n }, () => r.int(256)));

function brokenJson(r: Random): Buffer {
  for (;;) {
    const at = r.int(GOOD.length);
    const cut =
      GOOD.slice(0, at) + r.pick(['', '}', '"', '\\', '\0', '\x01', ',', word(r), GOOD.slice(at + 2)]);
    try {
      JSON.parse(cut);
    } catch {
      return request({ body: cut });
    }
  }
}

const NO_STRING = [null, 7, -0.5, true, [], ['Where?'], {}, { question: 'Where?' }];

const WRONG: ((r: Random) => unknown)[] = [
  (r) => r.pick([null, 3, 'Where?', false, [], [{ question: 'Where?' }], {}]),
  (r) => ({ question: r.pick(NO_STRING) }),
  (r) => ({ question: r.pick(['', ' ', '\t\n \u00a0', 'a\0b', '\0', 'x'.repeat(1001 + r.int(3000))]) }),
  (r) => ({ question: 'Where?', [word(r)]: word(r) }),
  (r) => ({ question: 'Where?', documents: r.pick([null, 1, 'text', {}, [1], ['text'], [[]], [{}]]) }),
  (r) => ({ question: 'Where?', documents: [{ title: 'Osk', text: r.pick(NO_STRING) }] }),
  (r) => ({ question: 'Where?', documents: [{ title: r.pick(NO_STRING), text: 'A river.' }] }),
  (r) => ({ question: 'Where?', documents: [{ title: 'Osk', text: 'A river.', [word(r)]: 1 }] }),
  (r) => ({ question: 'Where?', documents: Array(101 + r.int(50)).fill({ title: 'O', text: 't' }) }),
];

const FORGED = [
  '{"__proto__": {"question": "Where?"}}',
  '{"question": "Where?", "__proto__": {"documents": []}}',
  '{"question": "Where?", "constructor": {"prototype": {"a": 1}}}',
  '{"question": "Where?", "documents": [{"title": "a", "text": "b", "__proto__": {}}]}',
];

function tooLarge(r: Random): Buffer {
  const body = JSON.stringify({ question: 'x'.repeat((16 << 10) + r.int(200_000)) });
  const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
  return r.pick([
    () => request({ body }),
    () =>
      request({
        headers: [
          'Host: localhost',
          'Content-Type: application/json',
          `Content-Length: ${10 ** (5 + r.int(10))}`,
        ],
      }),
    () =>
      request({
        headers: ['Host: localhost', 'Content-Type: application/json', 'Transfer-Encoding: chunked'],
        body: `${chunk(body.slice(0, 9000))}${chunk(body.slice(9000))}0\r\n\r\n`,
      }),
  ])();
}

function wrongMethod(r: Random): Buffer {
  const method = r.pick([
    'PUT',
    'DELETE',
    'PATCH',
    'OPTIONS',
    'TRACE',
    'PROPFIND',
    'LOCK',
    'QUERY',
    'FOO',
    'get',
    'CONNECT',
  ]);
  const [one, path] = r.pick([
    [method, r.pick(['/', '/api/ask', '/api/status', '/report/body', '/openapi.json', '*'])],
    ['GET', '/api/ask'],
    ['HEAD', '/api/ask'],
    ['POST', r.pick(['/', '/api/status', '/report/body', '/openapi.json'])],
  ]);
  return request({ method: one, path, headers: ['Host: localhost'] });
}

const FILES = [
  'etc/passwd',
  'config.yaml',
  'corpus/manifest.json',
  'metrics/finetune-qa.jsonl',
  'lock',
  '.git/config',
  'package.json',
];
const UP = [
  '..',
  '%2e%2e',
  '.%2e',
  '%2E.',
  '..%2f..',
  '..%5c..',
  '..\\..',
  '....',
  '%252e%252e',
  '%c0%ae%c0%ae',
  '..;',
];

function wrongPath(r: Random): Buffer {
  const climb = Array.from({ length: 1 + r.int(6) }, () => r.pick(UP)).join(r.pick(['/', '//', '%2f', '\\']));
  const path = r.pick([
    () => `/${climb}/${r.pick(FILES)}`,
    () => `/report/${climb}/${r.pick(FILES)}`,
    () => `/report/body/${climb}/${r.pick(FILES)}`,
    () => `/${r.pick(FILES)}`,
    () => `//${r.pick(FILES)}`,
    () => `/./report/body`,
    () => `/${word(r)}`,
    () =>
      `/report/body${r.pick(['/', '%00', '%00.html', '.html', ';a=b', '%2f', '%zz', '%', '%e0%a4', '\\'])}`,
    () => `/API/status`,
    () => `/api%2fstatus`,
    () => `/${'a/'.repeat(500 + r.int(3000))}`,
    () => `/${'a'.repeat(8000 + r.int(20_000))}`,
    () => `/\0${word(r)}`,
    () => `/${word(r)} ${word(r)}`,
    () => `file:///${r.pick(FILES)}`,
    () => `http://localhost/${r.pick(FILES)}`,
    () => r.pick(FILES),
  ])();
  return request({ method: 'GET', path, headers: ['Host: localhost'] });
}

function wrongType(r: Random): Buffer {
  const type = r.pick([
    'text/plain',
    'text/plain; charset=utf-8',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/jsonp',
    'application/x-ndjson',
    'application',
    'application/json, text/plain',
    '/',
    '*/*',
    `${word(r)}/${word(r)}`,
  ]);
  const headers = ['Host: localhost', length(GOOD), ...(r.int(8) === 0 ? [] : [`Content-Type: ${type}`])];
  return request({ headers, body: GOOD });
}

function wrongHost(r: Random): Buffer {
  const host = r.pick([
    [],
    ['Host:'],
    ['Host: evil.example'],
    [`Host: ${word(r)}.example:8080`],
    ['Host: localhost.evil.example'],
    ['Host: 127.0.0.1.nip.io'],
    ['Host: 192.168.0.7:8080'],
    ['Host: localhost@evil.example'],
    ['Host: localhost, evil.example'],
    ['Host: localhost', 'Host: evil.example'],
    ['Host: evil.example', 'Host: localhost'],
    ['Host: evil.example', 'X-Forwarded-Host: localhost'],
    ['Host: local\0host'],
  ]);
  const version = r.pick(['HTTP/1.1', 'HTTP/1.0']);
  return r.pick([
    () => request({ method: 'GET', path: '/', version, headers: host }),
    () =>
      request({ version, headers: [...host, 'Content-Type: application/json', length(GOOD)], body: GOOD }),
  ])();
}

function brokenHttp(r: Random): Buffer {
  const get = (...headers: string[]) =>
    request({ method: 'GET', path: '/', headers: ['Host: localhost', ...headers] });
  const ask = (...headers: string[]) =>
    request({ headers: ['Host: localhost', 'Content-Type: application/json', ...headers], body: GOOD });
  return r.pick([
    () => Buffer.concat([Buffer.from([0x80 + r.int(128)]), bytes(r, 1 + r.int(300))]),
    () => Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, ...bytes(r, 60)]), // the start of a TLS handshake
    () => Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    () => Buffer.from(`${word(r)}\r\n\r\n`),
    () => Buffer.from('GET /\r\n\r\n'),
    () =>
      request({
        method: 'GET',
        path: '/',
        version: r.pick(['HTTP/9.9', 'HTTP/1.2', 'HTTP/3.0', 'HTTP', 'HTTQ/1.1', '']),
      }),
    () => request({ method: 'GE\0T', path: '/' }),
    () => get('No colon'),
    () => get('Space : before'),
    () => get(': nameless'),
    () => get(`X-Null: a\0b`),
    () => get(`X-Control: a\x01b`),
    () => get(`X-Large: ${'x'.repeat(8200 + r.int(20_000))}`),
    () => get(...Array.from({ length: 900 }, (_, i) => `X-${i}: ${word(r)}`)),
    () => get('Expect: the-impossible'),
    () => ask('Content-Length: -1'),
    () => ask('Content-Length: many'),
    () => ask(`Content-Length: ${'9'.repeat(30)}`),
    () => ask('Content-Length: 5', 'Content-Length: 6'),
    () => ask(length(GOOD), 'Transfer-Encoding: chunked'),
    () => ask('Transfer-Encoding: chunked'),
    () => ask('Transfer-Encoding: chunked, gzip'),
    () => ask(`Content-Length: ${GOOD.length + 1 + r.int(1000)}`), // the body ends early
    () => ask(`Content-Length: ${r.int(GOOD.length)}`),
    () => Buffer.from(`POST /api/ask HTTP/1.1\r\nHost: localhost\r\n`),
    () => Buffer.from(`GET / HTTP/1.1\nHost: localhost\n${word(r)}\n\n`),
  ])();
}

const KINDS: Record<string, (r: Random) => Buffer> = {
  brokenJson,
  wrongValue: (r) => request({ body: JSON.stringify(r.pick(WRONG)(r)) }),
  forged: (r) => request({ body: r.pick(FORGED) }),
  tooLarge,
  wrongMethod,
  wrongPath,
  wrongType,
  wrongHost,
  brokenHttp,
};

/** The whole response to a request; the sender closes its side afterwards. */
function send(port: number, sent: Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    let answer = '';
    socket.setEncoding('latin1').on('data', (piece) => (answer += piece));
    socket.on('error', () => {}); // the server need not read the rest of a request that it has refused
    socket.on('close', () => resolve(answer));
    socket.end(sent);
  });
}

test(`${REQUESTS} malformed requests are each refused with a 4xx, and good ones are answered meanwhile and afterwards`, async () => {
  const { url, failures } = await fakeServer({}, { receive: 2000 });
  const port = Number(new URL(url).port);
  const r = random(SEED);
  const names = Object.keys(KINDS);
  const requests = Array.from({ length: REQUESTS }, (_, i) => {
    const kind = names[i % names.length];
    return { kind, sent: KINDS[kind](r) };
  });
  const statuses = new Map<string, Set<string>>();
  for (let first = 0; first < REQUESTS; first += 20) {
    const batch = requests.slice(first, first + 20);
    const good = post(url, { question: `Where is river ${first}?` });
    const answers = await Promise.all(batch.map(({ sent }) => send(port, sent)));
    assert.deepEqual(await (await good).json(), answerTo(`Where is river ${first}?`));
    batch.forEach(({ kind, sent }, i) => {
      const what = `${kind}: ${JSON.stringify(sent.toString('latin1').slice(0, 400))} gave ${JSON.stringify(answers[i])}`;
      const [head, body] = answers[i].split('\r\n\r\n');
      const [, status] = /^HTTP\/1\.1 (4\d\d) /.exec(head) ?? assert.fail(what);
      if (!sent.toString().startsWith('HEAD')) assert.equal(typeof JSON.parse(body).error, 'string', what);
      statuses.set(kind, (statuses.get(kind) ?? new Set()).add(status));
    });
  }
  assert.deepEqual(failures, []);
  // Each kind gets the status that fits its error.
  const seen = (kind: string) => [...statuses.get(kind)!].sort();
  assert.deepEqual(seen('brokenJson'), ['400']);
  assert.deepEqual(seen('wrongValue'), ['400']);
  assert.deepEqual(seen('forged'), ['400']);
  assert.deepEqual(seen('tooLarge'), ['413']);
  assert.deepEqual(seen('wrongType'), ['415']);
  assert.deepEqual(seen('wrongHost'), ['400', '403']);
  const last = await post(url, { question: 'Where is the last one?' });
  assert.deepEqual(await last.json(), answerTo('Where is the last one?'));
});
